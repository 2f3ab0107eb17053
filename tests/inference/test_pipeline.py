"""Records to features: however many threads there are, whoever reads ahead, and wherever records are prepared."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joblib import parallel_config

from skecg.compute.devices import resolve_devices
from skecg.datasets import make_ecg
from skecg.embedder import JEPAEmbedder
from skecg.embedding_cache import EmbeddingCache, MemoryCache
from skecg.encoders.encode import Encoding
from skecg.errors import BadSignalError, InputError, ShapeError, SkecgError, SkecgWarning
from skecg.inference import batches
from skecg.inference.batches import EmbeddingConfig
from skecg.inference.inputs import RecordSource
from skecg.inference.pipeline import Chunk, RecordTokens, embed_chunks, embed_tokens
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.on_device import Leads
from skecg.records import ECGRecord
from skecg.weights import find_weights

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def make_records(n_records: int) -> list[Any]:
    """Records of several rates, lengths and leads, some of them equal, some odd, some of no use, some no records."""
    random = np.random.default_rng(0)
    made: list[Any] = []
    for i in range(n_records):
        rate, seconds = [(100, 2.5), (250, 4.0), (100, 1.3), (500, 2.5)][i % 4]
        signal = random.normal(size=(12, round(rate * seconds))).cumsum(axis=1) / 20
        leads = CANONICAL_LEADS[6:] if i % 7 == 3 else CANONICAL_LEADS
        if i % 6 == 1:
            signal[11, 5:20] = np.nan
        if i % 11 == 5:
            signal[:] = 1.0
        made.append(ECGRecord(signal[-len(leads) :], rate, leads, f"r{i}"))
    made[3:3] = [made[2]]
    made[9:9] = [made[8], made[0], np.float32(3)]
    made[21] = np.float32(3)
    return made[:n_records]


RECORDS = make_records(40)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skecg.inference.pipeline.CHUNK_RECORDS", 6)


@pytest.fixture(params=["tiny-temporal", "tiny-leadwise"])
def config(request: pytest.FixtureRequest) -> EmbeddingConfig:
    return make_config(request.param)


def make_config(name: str = "tiny-temporal", **encoding: Any) -> EmbeddingConfig:
    how = Encoding("mean", **{"n_jobs": 1} | encoding)
    return EmbeddingConfig(find_weights(FIXTURES / name), how, (torch.device("cpu"),), missing_leads="subset")


def source_of(records: Sequence[object]) -> RecordSource:
    return RecordSource(records, sampling_rate=None, leads=None, units="mV")


@dataclass
class Outcome:
    """All that came of embedding some records, as it came."""

    features: np.ndarray
    failures: list[tuple[int, type[SkecgError], str]]
    notes: list[tuple[int, tuple[str, ...]]]
    rows: list[list[int]]

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.failures, self.notes, self.rows, features = [], [], [], []
        for chunk in chunks:
            features.append(chunk.features)
            self.rows.append(list(chunk.rows))
            self.failures += [(row, type(error), str(error)) for row, error in chunk.failures.items()]
            self.notes += list(chunk.notes.items())
        self.features = np.concatenate(features)

    def assert_like(self, other: Outcome, tolerance: float = 0.0) -> None:
        assert (self.failures, self.notes, self.rows) == (other.failures, other.notes, other.rows)
        np.testing.assert_allclose(self.features, other.features, rtol=0, atol=tolerance)


def embed(config: EmbeddingConfig, cache: EmbeddingCache | None = None, records: Sequence[object] = RECORDS) -> Outcome:
    return Outcome(embed_chunks(source_of(records), config, cache))


def test_the_records_here_are_of_all_kinds(config: EmbeddingConfig) -> None:
    outcome = embed(config)
    failed = {row for row, _, _ in outcome.failures}
    assert 0 < len(failed) < 10
    assert {kind for _, kind, _ in outcome.failures} == {BadSignalError, ShapeError}
    assert any("gaps" in note for _, note in outcome.notes)
    assert np.isnan(outcome.features).any(axis=1).nonzero()[0].tolist() == sorted(failed)
    assert outcome.rows == [list(range(i, min(i + 6, 40))) for i in range(0, 40, 6)]


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, 3, 8])
@pytest.mark.parametrize("cached", [False, True])
def test_the_number_of_threads_changes_not_a_bit(config: EmbeddingConfig, n_jobs: int, cached: bool) -> None:
    several = replace(config, encoding=replace(config.encoding, n_jobs=n_jobs))
    caches = [MemoryCache() if cached else None for _ in range(2)]
    embed(several, caches[0]).assert_like(embed(config, caches[1]))
    if cached:
        assert caches[0].info() == caches[1].info()
        embed(several, caches[0]).assert_like(embed(config, caches[0]))


@pytest.mark.parametrize("n_threads", [2, 4])
def test_what_torch_may_use_changes_not_a_bit(config: EmbeddingConfig, n_threads: int) -> None:
    free = replace(config, encoding=replace(config.encoding, n_jobs=None))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = embed(free, MemoryCache())
        torch.set_num_threads(n_threads)
        embed(free, MemoryCache()).assert_like(wanted)
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)


def test_naming_and_preparing_are_shared_by_as_many_threads_as_may_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from skecg import embedding_cache as opening
    from skecg.inference import batches
    from skecg.preprocessing import windows

    monkeypatch.setattr(batches, "_KEYS_TOGETHER", 1)
    monkeypatch.setattr(windows, "_CHUNK_BYTES", 1)
    used: dict[str, set[threading.Thread]] = {"passing_key": set(), "_signal": set()}
    meeting = {name: threading.Barrier(1) for name in used}
    for module, name in ((opening, "passing_key"), (windows, "_signal")):
        original = getattr(module, name)

        def noted(*given: Any, name: str = name, original: Any = original) -> Any:
            if (thread := threading.current_thread()) not in used[name]:
                used[name].add(thread)
                meeting[name].wait(60)  # so that no thread can do it all before the others have begun
            return original(*given)

        monkeypatch.setattr(module, name, noted)
    embed(make_config(n_jobs=1), MemoryCache(), RECORDS[:6])
    assert list(used.values()) == [{threading.main_thread()}] * 2
    for name in used:
        used[name].clear()
        meeting[name] = threading.Barrier(3)
    embed(make_config(n_jobs=3), MemoryCache(), RECORDS[:6])
    assert [len(threads) for threads in used.values()] == [3, 3]


# --- one batch ahead --------------------------------------------------------------------------------------------


class Watched(RecordSource):
    """A source that counts what was read and by whom, and may fail."""

    def __init__(self, records: Sequence[object], fails_at: int = -1) -> None:
        super().__init__(records, sampling_rate=None, leads=None, units="mV")
        self.read_rows: list[int] = []
        self.readers: set[threading.Thread] = set()
        self.n_jobs: set[int | None] = set()
        self.fails_at = fails_at

    def read(self, rows: Sequence[int], n_jobs: int | None = None, **how: bool) -> list[ECGRecord | SkecgError]:
        self.readers.add(threading.current_thread())
        self.n_jobs.add(n_jobs)
        if self.fails_at in rows:
            raise OSError("the disk is gone")
        time.sleep(0.001)
        self.read_rows += rows
        return super().read(rows, n_jobs, **how)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch, no_thread_is_left: None) -> None:
    """Whatever encodes here is taken for an accelerator, during which the next batch is made ready."""
    monkeypatch.setattr("skecg.inference.batches._overlaps", lambda _: True)


@pytest.mark.parametrize("cached", [False, True])
def test_reading_ahead_changes_nothing(config: EmbeddingConfig, cached: bool, request: pytest.FixtureRequest) -> None:
    caches = [MemoryCache() if cached else None for _ in range(2)]
    wanted = [embed(config, caches[0]) for _ in range(2)]
    request.getfixturevalue("ahead")
    for outcome in wanted:
        embed(config, caches[1]).assert_like(outcome, tolerance=1e-6)
    if cached:
        assert caches[0].info().entries == caches[1].info().entries


def test_a_record_that_comes_again_in_the_next_batch_takes_what_the_first_gave(
    ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked up before the first was embedded, but neither its features nor its notes are others for that."""
    from skecg.inference import pipeline as embedding

    calls = []
    pool = embedding.pool_windows
    monkeypatch.setattr(embedding, "pool_windows", lambda *given: pool(*given) + len(calls.append(0) or calls))
    odd = next(record for record in RECORDS if isinstance(record, ECGRecord) and np.isnan(record.signal).any())
    looked_up = threading.Semaphore(0)

    class Slow(MemoryCache):
        """Keeps nothing before the next batch was looked up as well."""

        def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
            found = super().get(keys)
            looked_up.release()
            return found

        def put(self, items: Any) -> None:
            assert looked_up.acquire(timeout=10)
            assert looked_up.acquire(timeout=10)
            super().put(items)

    outcome = embed(make_config(), Slow(), [odd] * 12 + [RECORDS[0]] * 12)
    assert (outcome.features[:12] == outcome.features[0]).all()
    assert (outcome.features[12:] == outcome.features[12]).all()
    assert [row for row, _ in outcome.notes] == [*range(6), *range(12, 18)]


def test_threads_of_torch_are_as_before_when_batches_were_read_ahead(ahead: None) -> None:
    def threads_of_a_thread() -> list[int]:
        before = torch.get_num_threads()
        list(embed_chunks(Watched(RECORDS), make_config(n_jobs=None), MemoryCache()))
        return [before, torch.get_num_threads()]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert threads_of_a_thread() == [3, 3]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads_of_a_thread).result() == [3, 3]
        with ThreadPoolExecutor(1) as pool:  # one that had not asked before
            assert pool.submit(lambda: [len(embed(make_config()).rows), torch.get_num_threads()][1]).result() == 3
    finally:
        torch.set_num_threads(before)


def test_no_more_than_one_batch_is_read_ahead(ahead: None) -> None:
    source = Watched(RECORDS)
    chunks = embed_chunks(source, make_config())
    for number, _ in enumerate(chunks):
        time.sleep(0.02)
        assert len(source.read_rows) <= 6 * (number + 2)
    assert source.read_rows == list(range(40))
    assert threading.main_thread() not in source.readers


def test_without_an_accelerator_nothing_is_read_ahead() -> None:
    source = Watched(RECORDS)
    for number, _ in enumerate(embed_chunks(source, make_config())):
        assert len(source.read_rows) == min(6 * (number + 1), 40)
    assert source.readers == {threading.main_thread()}


def test_files_are_read_by_as_many_as_joblibs_configuration_says(ahead: None) -> None:
    source = Watched(RECORDS[:12])
    with parallel_config(backend="threading", n_jobs=3):
        list(embed_chunks(source, make_config()))
    assert source.n_jobs == {3}


def test_an_error_while_reading_ahead_is_raised_after_what_came_before_it(ahead: None) -> None:
    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(embed_chunks(Watched(RECORDS, fails_at=15), make_config()))
    assert [list(chunk.rows) for chunk in found] == [list(range(6)), list(range(6, 12))]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_encoding_ends_the_reading(
    ahead: None, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error("broken")

    source = Watched(RECORDS)
    monkeypatch.setattr("skecg.inference.pipeline.encode_windows", broken)
    with pytest.raises(error, match="broken"):
        list(embed_chunks(source, make_config()))
    assert len(source.read_rows) <= 12


def test_whoever_closes_early_waits_for_no_more_than_the_next_batch(ahead: None) -> None:
    source = Watched(RECORDS)
    chunks = embed_chunks(source, make_config())
    next(chunks)
    chunks.close()
    assert len(source.read_rows) <= 12
    assert source.read_rows == list(range(len(source.read_rows)))


@pytest.mark.parametrize(("devices", "does"), [(["cpu"], False), (["meta"], True), (["cpu", "meta"], True)])
def test_an_accelerator_among_the_devices_has_the_next_batch_made_ready(devices: list[str], does: bool) -> None:
    from skecg.inference.batches import _overlaps

    assert _overlaps(replace(make_config(), devices=tuple(map(torch.device, devices)))) == does


# --- preparation on a device --------------------------------------------------------------------------------------


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device that prepares."""
    monkeypatch.setattr("skecg.inference.batches.prepares", lambda _: True)


@pytest.mark.parametrize("stride", [None, 0.7])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_features_of_records_prepared_on_a_device_are_the_same(
    config: EmbeddingConfig, stride: float | None, batch_size: int | None, request: pytest.FixtureRequest
) -> None:
    config = replace(config, stride_seconds=stride, encoding=replace(config.encoding, batch_size=batch_size))
    wanted = embed(config)
    request.getfixturevalue("on_device")
    request.getfixturevalue("ahead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skecg.inference.batches.WindowStream", lambda *_, **__: pytest.fail("prepared on the CPU"))
        embed(config).assert_like(wanted, tolerance=1e-5)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """WFDB files of format 16, as archives have them."""
    import wfdb

    paths = []
    for number, record in enumerate(make_ecg(5, sampling_rate=500, noise=0.03, random_state=0).records):
        scale = {"adc_gain": [1000.0] * 12, "baseline": [0] * 12, "fmt": ["16"] * 12, "write_dir": str(tmp_path)}
        wfdb.wrsamp(f"r{number}", 500, ["mV"] * 12, list(record.leads), record.signal.T.astype(float), **scale)
        paths.append(tmp_path / f"r{number}")
    return paths


def test_files_go_to_a_device_as_steps(
    config: EmbeddingConfig, files: list[Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = embed(config, records=files)
    sent: list[torch.dtype] = []
    send = Leads.send
    monkeypatch.setattr(Leads, "send", lambda self, device: sent.append(self.values.dtype) or send(self, device))
    request.getfixturevalue("on_device")
    embed(config, records=files).assert_like(wanted, tolerance=1e-5)
    assert sent == [torch.int16]


def test_where_the_cpu_prepares_steps_are_not_kept(
    config: EmbeddingConfig, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RecordSource.read
    kinds: list[type] = []

    def watch(self: RecordSource, *rows: Any, **how: Any) -> list[ECGRecord | SkecgError]:
        records = read(self, *rows, **how)
        kinds.extend(map(type, records))
        return records

    monkeypatch.setattr(RecordSource, "read", watch)
    embed(config, records=files)
    assert kinds == [ECGRecord] * 5


@pytest.mark.parametrize("name", ["tiny-temporal", "tiny-leadwise"])
def test_several_devices_share_what_the_first_prepared(
    name: str, on_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    from skecg.inference import pipeline as embedding

    config = make_config(name, batch_size=2)
    wanted = embed(config)
    encoder_on = embedding.encoder_on
    monkeypatch.setattr(embedding, "encoder_on", lambda *given: copy.deepcopy(encoder_on(*given)))
    embed(replace(config, devices=config.devices * 2)).assert_like(wanted, tolerance=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_features_of_a_cuda_device_are_those_of_the_cpu(
    config: EmbeddingConfig, files: list[Path], precision: str, tolerance: float
) -> None:
    (cuda,) = resolve_devices("cuda")
    on_cuda = replace(config, devices=(cuda,), encoding=replace(config.encoding, precision=precision))
    for records in (RECORDS, files * 20):
        wanted = embed(config, records=records)
        embed(on_cuda, records=records).assert_like(wanted, tolerance)
        embed(on_cuda, MemoryCache(), records).assert_like(wanted, tolerance)


def test_where_a_filter_is_asked_for_the_cpu_prepares(on_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    filtered = replace(config, info=replace(config.info, spec=replace(config.info.spec, highpass_hz=0.5)))
    wanted = embed(filtered)
    monkeypatch.setattr("skecg.inference.batches.gather", lambda *_, **__: pytest.fail("gathered for the device"))
    embed(filtered).assert_like(wanted)


# --- tokens -------------------------------------------------------------------------------------------------------

GOOD = [record for record in RECORDS if isinstance(record, ECGRecord) and record.signal.std() > 0]


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_tokens_are_the_same_whoever_prepares_and_reads_ahead(
    config: EmbeddingConfig, n_jobs: int, request: pytest.FixtureRequest
) -> None:
    config = replace(config, stride_seconds=1.1)
    wanted = embed_tokens(source_of(GOOD), config)
    assert len(wanted) == len(GOOD) > 12
    several = replace(config, encoding=replace(config.encoding, n_jobs=n_jobs))
    assert_same_tokens(embed_tokens(source_of(GOOD), several), wanted, tolerance=0.0)
    request.getfixturevalue("on_device")
    request.getfixturevalue("ahead")
    assert_same_tokens(embed_tokens(source_of(GOOD), several), wanted, tolerance=1e-5)


def assert_same_tokens(found: Sequence[RecordTokens], wanted: Sequence[RecordTokens], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=0, atol=tolerance)
        for name in ("start_seconds", "stop_seconds", "leads"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
def test_of_several_bad_records_the_first_is_raised_with_its_number(config: EmbeddingConfig) -> None:
    flat = ECGRecord(np.ones((12, 500)), 250, CANONICAL_LEADS)
    for records, kind in [
        ([*GOOD[:7], flat, np.float32(3)], BadSignalError),
        ([*GOOD[:7], np.float32(3), flat], ShapeError),
    ]:
        with pytest.raises(kind) as caught:
            embed_tokens(source_of(records), config)
        assert caught.value.__notes__ == ["This is record 7 of X."]


@pytest.mark.filterwarnings("ignore:Got 8 of 8 records with (an offset|a baseline)")
def test_odd_records_are_warned_of_once_with_their_numbers(config: EmbeddingConfig) -> None:
    odd = [replace(record, signal=np.where(np.arange(12)[:, None] == 7, 0, record.signal)) for record in GOOD[:1] * 8]
    with pytest.warns(
        SkecgWarning, match=r"8 of 8 records with flat leads.*record 0 .'r0'., record 1 .*, record 2 .*"
    ) as caught:
        embed_tokens(source_of(odd), config)
    assert len([w for w in caught if "flat leads" in str(w.message)]) == 1


def test_no_records_have_no_tokens(config: EmbeddingConfig) -> None:
    assert embed_tokens(source_of([]), config) == []


@pytest.mark.parametrize("error", [MemoryError, np.linalg.LinAlgError, OverflowError])
@pytest.mark.parametrize("where", ["_prepare", "screen"])
def test_a_foreign_error_costs_a_row_and_not_the_batch(
    monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception]
) -> None:
    true = getattr(batches, where)

    def fail_for_long_ones(records: Any, *rest: Any) -> Any:
        if any(record.n_samples > 2000 for record in ([records] if where == "screen" else records)):
            raise error("no room")
        return true(records, *rest)

    signals = [np.random.default_rng(n).normal(scale=0.2, size=(12, n)) for n in (1000, 2500, 1001)]
    records = [ECGRecord(signal, 250, CANONICAL_LEADS) for signal in signals]
    embedder = JEPAEmbedder(str(FIXTURES / "tiny-temporal"), cache=None, on_bad_record="nan")
    expected = embedder.fit_transform(records)
    monkeypatch.setattr(batches, where, fail_for_long_ones)
    found = embedder.transform(records)
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=1e-6)
    assert np.isnan(found[1]).all()
    assert list(embedder.bad_records_) == [1]
    assert error.__name__ in embedder.bad_records_[1]
    with pytest.raises(InputError, match=error.__name__):
        embedder.set_params(on_bad_record="raise").transform(records[1:2])


def test_records_that_have_no_room_together_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    true = batches._prepare

    def fail_for_two(records: Any, *rest: Any) -> Any:
        if len(records) > 1:
            raise MemoryError
        return true(records, *rest)

    monkeypatch.setattr(batches, "_prepare", fail_for_two)
    signals = np.random.default_rng(0).normal(size=(2, 12, 1000))
    embedder = JEPAEmbedder(str(FIXTURES / "tiny-temporal"), cache=None, sampling_rate=250)
    with pytest.raises(InputError, match="Pass fewer"):
        embedder.fit_transform(signals)
