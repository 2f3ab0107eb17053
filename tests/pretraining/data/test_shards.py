from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from small_corpora import heart, write_arrays, write_wfdb
from small_runs import small_shards

from pretraining.data import pack as pack_module
from pretraining.data.corpora import Corpus, Item, LeftOut, open_corpus
from pretraining.data.corpus import leave_out, name_patients, read_list
from pretraining.data.pack import pack
from pretraining.data.shard_writer import Preparation, quantize
from pretraining.data.shards import ShardSet, open_shards
from skecg.errors import (
    BadSignalError,
    DamagedRecordError,
    MissingDependencyError,
    ParameterError,
    RecordNotFoundError,
    SkecgError,
    SkecgWarning,
)
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec


@dataclasses.dataclass(frozen=True)
class Given:
    """Reads records that are at hand."""

    records: tuple[ECGRecord | SkecgError, ...]

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        return (self.records[int(item.source)] for item in items)


@dataclasses.dataclass(frozen=True)
class Interrupted(Given):
    """Is killed when it comes to one of them."""

    at: int = 0

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        for item in items:
            if int(item.source) == self.at:
                raise KeyboardInterrupt
            yield self.records[int(item.source)]


def corpus_of(*records: ECGRecord | SkecgError, name: str = "given") -> Corpus:
    items = tuple(Item(name, str(i), f"p{i}") for i in range(len(records)))
    return Corpus(name, items, Given(records))


def record(seed: int, seconds: float = 10.0, rate: float = 500.0) -> ECGRecord:
    return ECGRecord(heart(seed, seconds, rate), rate, CANONICAL_LEADS)


def packed(folder: Path, *corpora: Corpus, **options: object) -> ShardSet:
    settings: dict[str, object] = {"sampling_rate": 250, "progress": False, **options}
    return pack(corpora, folder, **settings)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_are_what_prepare_makes_of_the_records(tmp_path: Path) -> None:
    records = [record(0), record(1, 10, 250), record(2, 10, 1000)]
    shards = packed(tmp_path, corpus_of(*records))
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, any_leads=True)

    values = shards.gather([0, 1, 2]) * (shards.scale_uv[:, None, None] / 1000)

    np.testing.assert_allclose(values, prepare(records, spec).values, atol=0.0005001)
    assert shards.original_rates.tolist() == [500, 250, 1000]
    assert (shards.sampling_rate, shards.segment_samples, shards.leads) == (250, 2500, CANONICAL_LEADS)
    assert shards.patients.tolist() == ["p0", "p1", "p2"]


def test_long_records_are_cut_into_rows_that_cover_them(tmp_path: Path) -> None:
    long = record(0, 24)
    shards = packed(tmp_path, corpus_of(long))

    assert shards.start_samples.tolist() == [0, 2500, 3500]
    assert not shards.manifest["corpora"]["given"]["notes"], "nothing is padded"
    assert shards.sources.tolist() == ["0"] * 3
    assert shards.manifest["corpora"]["given"]["n_records"] == 1
    last = shards.gather([2])[0]
    np.testing.assert_array_equal(last[:, :1500], shards.gather([1])[0, :, 1000:])


def test_short_records_are_padded_with_their_last_value_and_say_so(tmp_path: Path) -> None:
    shards = packed(tmp_path, corpus_of(record(0, 7)))
    row = shards.gather([0])[0]

    assert shards.valid_samples.tolist() == [1750]
    assert shards.manifest["corpora"]["given"]["notes"] == {"padded": 1}
    assert "1 padded" in shards.summary
    assert (row[:, 1750:] == row[:, 1749:1750]).all()


def test_absent_leads_are_zero_and_limb_leads_are_derived(tmp_path: Path) -> None:
    two = ECGRecord(heart(0)[[1, 0, 8]], 500, ["II", "I", "V3"])
    shards = packed(tmp_path, corpus_of(two, record(0)))
    some, whole = shards.gather([0, 1])

    assert shards.lead_mask[0].tolist() == [True] * 6 + [False, False, True, False, False, False]
    assert shards.lead_mask[1].all()
    assert not some[~shards.lead_mask[0]].any()
    assert np.abs(some[shards.lead_mask[0]] - whole[shards.lead_mask[0]]).max() <= 1


def test_amplitudes_beyond_int16_take_larger_steps(tmp_path: Path) -> None:
    large = ECGRecord(heart(0) * 100, 500, CANONICAL_LEADS)
    shards = packed(tmp_path, corpus_of(large, record(0)))
    steps = shards.gather([0, 1])

    assert shards.scale_uv[1] == 1
    assert shards.scale_uv[0] == pytest.approx(np.abs(heart(0)).max() * 1e5 / 32767, rel=0.01)
    assert np.abs(steps[0]).max() == 32767
    difference = steps[0] * shards.scale_uv[0] / 100 - steps[1]
    assert np.abs(difference).max() < 1


def test_quantizing_never_clips() -> None:
    for largest in (0.0, 32.767, 32.7674, 32.768, 1e6, 1e12):
        steps, scale = quantize(np.array([[-largest, largest]], np.float32))
        np.testing.assert_allclose(steps * (scale / 1e3), [[-largest, largest]], rtol=1e-4)


def test_everything_left_out_is_listed_with_its_reason(tmp_path: Path) -> None:
    empty = ECGRecord(np.full((12, 5000), np.nan), 500, CANONICAL_LEADS)
    swapped = ECGRecord(heart(0), 500, ["II", "I", *CANONICAL_LEADS[2:]])
    strange = ECGRecord(heart(0)[:1], 500, ["Resp"])
    flat = ECGRecord(np.ones((12, 5000)), 500, CANONICAL_LEADS)
    unread = DamagedRecordError('It is torn, at "a, b".')
    arrays = open_corpus("folds", write_arrays(tmp_path / "a.npz", 2, strat_fold=np.array([9, 1])))

    shards = packed(tmp_path / "out", corpus_of(record(0), empty, swapped, strange, flat, unread, record(0, 3)), arrays)
    with (tmp_path / "out" / "left_out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [(row["corpus"], row["source"], row["reason"]) for row in rows] == [
        ("folds", "r0#0", "fold 9"),
        ("given", "1", "no usable signal"),
        ("given", "2", "leads"),
        ("given", "3", "leads"),
        ("given", "4", "no usable signal"),
        ("given", "5", "unreadable"),
        ("given", "6", "too short"),
    ]
    assert rows[5]["message"] == str(unread)
    assert [row["patient"] for row in rows] == ["", *(f"p{number}" for number in range(1, 7))]
    # What embedding may be passed would be an option that pack does not have.
    assert not any("leads=" in row["message"] for row in rows)
    assert all("Name its leads so in its file" in row["message"] for row in rows if row["reason"] == "leads")
    assert shards.n_records == 2
    assert "2 records packed as 2 segments; 7 left out" in shards.summary
    assert "1 fold 9" in shards.summary


def test_what_is_odd_is_packed_and_counted_or_refused_when_asked(tmp_path: Path) -> None:
    gaps, railed = heart(0), heart(1)
    gaps[:, 100:200] = np.nan
    railed[7] = np.clip(railed[7], -0.01, 0.01)
    corpus = corpus_of(*(ECGRecord(signal, 500, CANONICAL_LEADS) for signal in (gaps, railed)), record(2))

    kept = packed(tmp_path / "kept", corpus)
    refused = packed(tmp_path / "refused", corpus, refuse=["gaps"])

    assert kept.manifest["corpora"]["given"]["notes"] == {"gaps": 1, "railed": 1}
    assert "1 gaps, 1 railed" in kept.summary
    assert refused.sources.tolist() == ["1", "2"]


def test_recordings_of_a_lower_rate_than_the_shards_are_counted(tmp_path: Path) -> None:
    slow = ECGRecord(heart(0)[:, ::2], 250, CANONICAL_LEADS)
    shards = packed(tmp_path, corpus_of(slow, record(1)), sampling_rate=500)
    assert shards.manifest["corpora"]["given"]["notes"] == {"upsampled": 1}
    assert "1 upsampled" in shards.summary


def test_nothing_to_pack_is_an_error_that_points_to_the_list(tmp_path: Path) -> None:
    with pytest.raises(BadSignalError, match=r"left_out\.csv"):
        packed(tmp_path, corpus_of(record(0, 2)))
    assert "too short" in (tmp_path / "left_out.csv").read_text()


def many() -> list[Corpus]:
    first = corpus_of(*(record(seed, seconds) for seed, seconds in enumerate([10, 10, 23, 7, 10])), name="first")
    return [first, corpus_of(*(record(seed, 10, 250) for seed in range(5, 9)), name="second")]


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    alone = packed(tmp_path / "alone", *many(), records_per_shard=2)
    together = packed(tmp_path / "together", *many(), records_per_shard=2, n_jobs=2)

    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    assert alone.fingerprint == together.fingerprint
    assert len(alone.manifest["shards"]) == 5


def test_a_killed_pack_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    packed(whole, *many(), records_per_shard=2)
    first, second = many()
    killed = dataclasses.replace(first, reader=Interrupted(first.reader.records, at=3))  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        packed(broken, killed, second, records_per_shard=2)
    with pytest.raises(RecordNotFoundError, match="not finished"):
        open_shards(broken)
    assert not list(broken.glob(".[0-9]*"))
    done = (broken / "00000.npy").stat().st_mtime_ns

    # What the killed one was writing when the machine went down:
    (broken / ".00001.npy.0a1b2c3d").write_bytes(b"half")
    (broken / "00001.npy").write_bytes(b"whole, but without its index")
    packed(broken, *many(), records_per_shard=2)

    assert (broken / "00000.npy").stat().st_mtime_ns == done
    assert contents(broken) == contents(whole)


@dataclasses.dataclass(frozen=True)
class PackedTwice(Given):
    """Has another pack into the same folder begun while its records are read."""

    begin: Callable[[], object] = dict

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        # The first record is being written by the time that the second is asked for.
        for number, found in enumerate(super().__call__(items)):
            if number:
                self.begin()
            yield found


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_second_pack_into_a_folder_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    packed(tmp_path / "alone", *many())
    first, second = many()
    refused: list[str] = []

    def begin() -> None:
        with pytest.raises(ParameterError, match="Another run is under way") as error:
            packed(tmp_path / "both", *many())
        refused.append(str(error.value))

    twice = PackedTwice(first.reader.records, begin)  # type: ignore[attr-defined]
    packed(tmp_path / "both", dataclasses.replace(first, reader=twice), second)

    assert len(refused) == len(first.items) - 1
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_packing_again_changes_nothing_and_reads_nothing(tmp_path: Path) -> None:
    packed(tmp_path, *many())
    before = contents(tmp_path)
    first, second = many()
    unreadable = dataclasses.replace(first, reader=Interrupted(first.reader.records))  # type: ignore[attr-defined]

    with pytest.warns(SkecgWarning, match=r"packed already: no recording was read. .* delete the folder"):
        packed(tmp_path, unreadable, second)

    assert contents(tmp_path) == before


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_other_scales(path: Path) -> None:
    with np.load(path) as index:
        columns = dict(index)
    np.savez(path, **columns | {"scale_uv": 2 * columns["scale_uv"]})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("00001.npy", cut_in_half),
        ("00001.npy", Path.unlink),
        ("00001.npy", lambda path: path.write_bytes(b"")),
        ("00001.npz", cut_in_half),
        ("00001.npz", with_other_scales),
        ("00001.json", cut_in_half),
        ("manifest.json", cut_in_half),
    ],
)
@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
def test_packing_again_mends_what_is_damaged_and_nothing_else(
    name: str, damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    packed(tmp_path, *many(), records_per_shard=2)
    before, others = contents(tmp_path), (tmp_path / "00000.npy").stat().st_mtime_ns
    damage(tmp_path / name)
    if name != "00001.json":  # which nobody reads but pack
        with pytest.raises(DamagedRecordError, match=name):
            open_shards(tmp_path).scale_uv.any()

    packed(tmp_path, *many(), records_per_shard=2)

    assert contents(tmp_path) == before
    assert (tmp_path / "00000.npy").stat().st_mtime_ns == others


def test_a_folder_that_does_not_say_how_it_was_begun_is_refused(tmp_path: Path) -> None:
    packed(tmp_path, corpus_of(record(0)))
    cut_in_half(tmp_path / "plan.json")

    with pytest.raises(DamagedRecordError, match=r"plan\.json, which is damaged .* Delete the folder"):
        packed(tmp_path, corpus_of(record(0)))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"sampling_rate": 500}, "input was"), ({"shortest_seconds": 8}, "shortest_seconds was 5"), ({}, "items_sha256")],
)
def test_a_folder_packed_otherwise_is_refused_saying_what_differs(
    options: dict[str, object], said: str, tmp_path: Path
) -> None:
    packed(tmp_path, corpus_of(record(0)))
    other = corpus_of(record(0)) if options else corpus_of(record(0), record(1))

    with pytest.raises(ParameterError, match=said):
        packed(tmp_path, other, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"segment_seconds": 0.5},
        {"segment_seconds": np.inf},
        {"segment_seconds": np.nan},
        {"sampling_rate": np.nan},
        {"sampling_rate": np.inf},
        {"sampling_rate": 0},
        {"shortest_seconds": 11},
        {"records_per_shard": 0},
        {"refuse": ["ugly"]},
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        packed(tmp_path / "out", corpus_of(record(0)), **options)
    with pytest.raises(ParameterError, match="name of its own"):
        packed(tmp_path / "out", corpus_of(record(0)), corpus_of(record(1)))


def test_gather_gives_rows_in_the_order_asked_for_however_often(tmp_path: Path) -> None:
    shards = packed(tmp_path, *many(), records_per_shard=2)
    everything = np.concatenate([np.load(tmp_path / f"{i:05d}.npy") for i in range(5)])
    rows = np.random.default_rng(0).integers(0, shards.n_records, 40)

    assert len(everything) == shards.n_records == 11
    np.testing.assert_array_equal(shards.gather(rows), everything[rows])
    assert shards.gather([]).shape == (0, 12, 2500)
    for row in (-1, 11):
        with pytest.raises(ParameterError, match="expected 0 to 10"):
            shards.gather([row])


def test_rows_know_their_corpus(tmp_path: Path) -> None:
    shards = packed(tmp_path, *many(), records_per_shard=2)

    assert shards.corpora == ("first", "second")
    assert [shards.corpora[number] for number in shards.corpus_of] == ["first"] * 7 + ["second"] * 4
    assert shards.rows_of("second").tolist() == [7, 8, 9, 10]


def test_statistics_are_those_of_the_valid_samples(tmp_path: Path) -> None:
    some = ECGRecord(heart(3, 7, 250)[6:7], 250, ["V1"])
    shards = packed(tmp_path, corpus_of(record(0, 10, 250), some), records_per_shard=1)
    found = shards.manifest["corpora"]["given"]
    together = np.concatenate([heart(0, 10, 250)[6], heart(3, 7, 250)[6]]).astype(np.float64)

    assert found["n_samples"] == [2500] * 6 + [4250] + [2500] * 5
    assert found["mean"][6] == pytest.approx(together.mean(), abs=1e-6)
    assert found["std"][6] == pytest.approx(together.std(), abs=1e-6)


def test_a_fingerprint_changes_with_a_single_value(tmp_path: Path) -> None:
    one, other = heart(0), heart(0)
    other[3, 17] += 0.01

    prints = [
        packed(tmp_path / name, corpus_of(ECGRecord(signal, 500, CANONICAL_LEADS)), sampling_rate=500).fingerprint
        for name, signal in (("a", one), ("b", other), ("c", one))
    ]

    assert prints[0] == prints[2] != prints[1]


def test_filtered_shards_hold_what_prepare_would_filter(tmp_path: Path) -> None:
    wandering = heart(0) + np.float32(5)
    given = ECGRecord(wandering, 500, CANONICAL_LEADS)
    shards = packed(tmp_path, corpus_of(given), highpass_hz=0.5, lowpass_hz=40, resampling="fourier")
    spec = InputSpec(CANONICAL_LEADS, 250, 2500, resampling="fourier", highpass_hz=0.5, lowpass_hz=40)

    np.testing.assert_allclose(shards.gather([0]) / 1000, prepare([given], spec).values, atol=0.0005001)


def test_damage_is_found_when_shards_are_opened(tmp_path: Path) -> None:
    packed(tmp_path, corpus_of(record(0), record(1)))
    whole = (tmp_path / "00000.npy").read_bytes()

    (tmp_path / "00000.npy").write_bytes(whole[:-1000])
    with pytest.raises(DamagedRecordError, match=r"00000\.npy"):
        open_shards(tmp_path)
    (tmp_path / "00000.npy").write_bytes(whole)
    with np.load(tmp_path / "00000.npz") as index:
        columns = dict(index)
    np.savez(tmp_path / "00000.npz", **columns | {"scale_uv": 2 * columns["scale_uv"]})
    with pytest.raises(DamagedRecordError, match=r"other values in .*00000\.npz"):
        open_shards(tmp_path).valid_samples.any()
    np.save(tmp_path / "00000.npy", np.zeros((1, 12, 2500), np.int16))
    with pytest.raises(DamagedRecordError, match="expected int16"):
        open_shards(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DamagedRecordError, match="format 99"):
        open_shards(tmp_path)
    with pytest.raises(RecordNotFoundError, match="Make them"):
        open_shards(tmp_path / "nowhere")


def test_files_are_packed_through_their_readers_and_repairs_are_counted(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "in" / "a", heart(0), 500)
    write_wfdb(tmp_path / "in" / "b", heart(1), 500)
    header = tmp_path / "in" / "b.hea"
    header.write_text(header.read_text().replace("b 12 500", "b.mat 12 500", 1))

    shards = packed(tmp_path / "out", open_corpus("mine", tmp_path / "in"))

    assert shards.sources.tolist() == ["a.hea", "b.hea"]
    assert "1 malformed headers" in shards.summary


def test_the_shared_recordings_pack(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    corpora = [
        open_corpus("ptbxl", data / "ptbxl_raw_250hz.npz"),
        open_corpus("mixed", data / "raw" / "ptbxl"),
        open_corpus("samitrop", data / "code15_samitrop_250hz.npz"),
    ]

    shards = packed(tmp_path, *corpora)

    assert {name: found["n_segments"] for name, found in shards.manifest["corpora"].items()} == {
        "mixed": 10,
        "ptbxl": 72,
        "samitrop": 199,
    }
    assert shards.manifest["left_out"] == {"ptbxl: fold 9": 9, "samitrop: too short": 1}


def test_a_corpus_may_have_a_high_pass_of_its_own(tmp_path: Path) -> None:
    wandering = ECGRecord(heart(0) + np.float32(0.2), 500, CANONICAL_LEADS)
    corpora = [corpus_of(wandering, name="calm"), corpus_of(wandering, name="code15")]
    shards = packed(tmp_path, *corpora, corpus_highpass_hz={"code15": 0.5})
    filtered = prepare([wandering], InputSpec(CANONICAL_LEADS, 250, 2500, highpass_hz=0.5)).values
    whole = prepare([wandering], InputSpec(CANONICAL_LEADS, 250, 2500)).values

    found = {name: shards.gather(shards.rows_of(name)) * shards.scale_uv[0] / 1000 for name in shards.corpora}

    np.testing.assert_allclose(found["calm"], whole, atol=0.0005001)
    np.testing.assert_allclose(found["code15"], filtered, atol=0.0005001)
    assert shards.manifest["corpus_highpass_hz"] == {"code15": 0.5}
    with pytest.raises(ParameterError, match="Did you mean 'code15'"):
        packed(tmp_path / "other", *corpora, corpus_highpass_hz={"code-15": 0.5})


def test_recordings_and_patients_that_are_listed_are_left_out_and_said(tmp_path: Path) -> None:
    corpora = [corpus_of(*(record(seed) for seed in range(4)))]

    shards = packed(tmp_path, *leave_out(corpora, ["1", "p3"], "mine.txt"))

    assert shards.sources.tolist() == ["0", "2"]
    assert "left out by list" in (tmp_path / "left_out.csv").read_text()
    with pytest.raises(ParameterError, match=r"1 of 2 names in mine.txt .*'nobody'.* e.g. '0'"):
        leave_out(corpora, ["1", "nobody"], "mine.txt")


def numbered(name: str, patients: Sequence[str]) -> Corpus:
    """Recordings 1, 2, ... of a corpus, and whose they are; the second is kept out by its fold."""
    rows = [Item(name, f"{number}.hea", patient) for number, patient in enumerate(patients, 1)]
    gone = [LeftOut(name, row.source, "fold 9", "Evaluated on.", row.patient) for row in rows[1:2]]
    return Corpus(name, tuple(rows[:1] + rows[2:]), Given(()), tuple(gone))


def kept_of(corpora: Sequence[Corpus]) -> list[tuple[str, str]]:
    return [(item.corpus, item.source) for corpus in corpora for item in corpus.items]


def test_a_name_of_a_recording_and_of_somebody_else_is_refused_saying_both() -> None:
    corpora = [numbered("mine", ["3", "x", "1", "y"]), numbered("theirs", ["a", "b", "c"])]
    said = r"3' in list, which is the recording '3.hea' of '\w+' \(patient '[1c]'\) and the patient of '1.hea'"

    with pytest.raises(ParameterError, match=said):
        leave_out(corpora, ["3"], "list")
    with pytest.raises(ParameterError, match=said):
        leave_out(corpora[:1], ["mine:3"], "list")
    assert kept_of(leave_out(corpora, ["3.hea"], "list")) == [("mine", "1.hea"), ("mine", "4.hea"), ("theirs", "1.hea")]


def test_a_name_may_be_said_to_be_of_one_corpus() -> None:
    corpora = [numbered("mine", ["p", "q", "r"]), numbered("theirs", ["p", "q", "3"])]

    assert kept_of(leave_out(corpora, ["p"], "list")) == [("mine", "3.hea"), ("theirs", "3.hea")]
    assert kept_of(leave_out(corpora, ["theirs:p"], "list")) == [
        ("mine", "1.hea"),
        ("mine", "3.hea"),
        ("theirs", "3.hea"),
    ]
    assert kept_of(leave_out(corpora, ["mine:3"], "list"))[0] == ("mine", "1.hea")
    with pytest.raises(ParameterError, match="1 of 1 names in list that are of no recording"):
        leave_out(corpora, ["nobody:p"], "list")


def test_a_recording_named_after_its_own_patient_is_no_contradiction() -> None:
    assert kept_of(leave_out([numbered("mine", ["1", "2", "3"])], ["1"], "list")) == [("mine", "3.hea")]


def test_whoever_is_out_already_may_be_listed(tmp_path: Path) -> None:
    corpora = [numbered("mine", ["p", "q", "r", "s"])]

    once = leave_out(corpora, ["p", "q"], "first")
    twice = leave_out(once, ["mine:p", "q", "s"], "second")

    assert kept_of(twice) == [("mine", "3.hea")]
    assert [row.reason for row in twice[0].left_out] == ["fold 9", "left out by list", "left out by list"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_as_spreadsheets_save_it(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("Müller\r\n\r\n 15709 \r\n".encode(encoding))

    assert read_list(path) == ["Müller", "15709"]


def test_a_list_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00a\x00")
    for path in (tmp_path / "list.txt", tmp_path / "nowhere.txt"):
        with pytest.raises(ParameterError, match=f"{path.name}'.* expected a text in UTF-8"):
            read_list(path)


def test_patients_come_from_a_table_where_a_corpus_does_not_say(tmp_path: Path) -> None:
    corpora = [corpus_of(record(0), record(1))]

    named = name_patients(corpora, {"whose.csv": {"0": "anna"}})

    assert [item.patient for item in named[0].items] == ["anna", "p1"]
    assert [item.source for item in leave_out(named, ["anna"], "list")[0].items] == ["1"]
    with pytest.raises(ParameterError, match=r"no recording .* whose.csv, expected sources such as '0'"):
        name_patients(corpora, {"right.csv": {"0": "anna"}, "whose.csv": {"zero": "anna"}})


def test_a_table_of_patients_is_not_that_of_two_corpora_at_once() -> None:
    corpora = [numbered("mine", ["", "", ""]), numbered("theirs", ["", "", ""])]

    for name in ("1.hea", "2"):  # of each the second is left out
        with pytest.raises(ParameterError, match=f"patient of '{name}', which both .* Write 'theirs:{name}' for"):
            name_patients(corpora, {"whose.csv": {name: "anna"}})
    named = name_patients(corpora, {"a.csv": {"mine:1.hea": "anna"}, "b.csv": {"theirs:1": "bert", "theirs:2": "carl"}})

    assert [[item.patient for item in corpus.items] for corpus in named] == [["anna", ""], ["bert", ""]]
    assert named[1].left_out[0].patient == "carl"


def test_two_patients_of_a_recording_by_two_of_its_names_are_refused() -> None:
    corpora = [numbered("mine", [""])]

    assert name_patients(corpora, {"whose.csv": {"1": "p", "1.hea": "p"}})[0].items[0].patient == "p"
    with pytest.raises(ParameterError, match=r"recording '1\.hea' of 'mine', 'p' and 'q', by the names '1', '1\.hea'"):
        name_patients(corpora, {"whose.csv": {"1": "p", "1.hea": "q"}})


def test_paths_of_patients_that_are_of_no_recording_are_said_where_a_recording_has_no_patient() -> None:
    corpora = [numbered("mine", ["", "x", ""])]
    larger = {"whose.csv": {"1": "p", "2": "q", "3": "r", "./4": "s"}}

    name_patients(corpora, larger)
    name_patients(corpora, {"whose.csv": {"1": "p"}})

    del larger["whose.csv"]["3"]
    with pytest.warns(SkecgWarning, match=r"1 of 3 paths in whose.csv .* \('./4'\), and 1 recordings have no patient"):
        name_patients(corpora, larger)


def test_the_size_of_all_shards_is_told_from_those_that_there_are(tmp_path: Path) -> None:
    spec = pack_module._segment_spec(250.0, 10.0, "polyphase", None, None)
    preparation = Preparation(spec, 5.0)

    assert pack_module._projected_size(tmp_path, 0, 800_000, preparation) == "48 GB in all"
    (tmp_path / "00000.npy").write_bytes(bytes(240_000))
    assert pack_module._projected_size(tmp_path, 2, 800_000, preparation) == "96 GB in all"


def test_shards_on_remote_storage_are_copied_once_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKECG_SHARD_CACHE", str(tmp_path / "cache"))
    packed = small_shards(tmp_path, n_records=6)
    remote = fsspec.filesystem("memory")
    remote.put(f"{packed.folder}/", "/bucket/shards/", recursive=True)

    copied = open_shards("memory://bucket/shards")

    assert copied.folder.parent == tmp_path / "cache"
    assert copied.fingerprint == packed.fingerprint
    np.testing.assert_array_equal(copied.gather(range(6)), packed.gather(range(6)))
    np.testing.assert_array_equal(copied.sources, packed.sources)
    remote.rm("/bucket/shards/00000.npy")
    assert open_shards("memory://bucket/shards").folder == copied.folder, "a second copy would miss a file"


def test_a_copy_that_was_interrupted_or_damaged_is_not_taken_for_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKECG_SHARD_CACHE", str(tmp_path / "cache"))
    packed = small_shards(tmp_path, n_records=6)
    whole = (packed.folder / "00000.npy").read_bytes()
    (packed.folder / "00000.npy").write_bytes(whole[:-1] + b"x")
    address = packed.folder.as_uri()

    with pytest.raises(DamagedRecordError, match="other values"):
        open_shards(address)
    (packed.folder / "00000.npy").write_bytes(whole)

    np.testing.assert_array_equal(open_shards(address).gather([5]), packed.gather([5]))


@pytest.mark.parametrize("damage", [cut_in_half, with_other_scales])
def test_an_index_that_was_damaged_on_its_way_is_copied_again(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKECG_SHARD_CACHE", str(tmp_path / "cache"))
    packed = small_shards(tmp_path, n_records=6)
    whole, address = (packed.folder / "00000.npz").read_bytes(), packed.folder.as_uri()
    damage(packed.folder / "00000.npz")

    with pytest.raises(DamagedRecordError, match=r"00000\.npz.* It was copied from"):
        open_shards(address)
    (packed.folder / "00000.npz").write_bytes(whole)

    np.testing.assert_array_equal(open_shards(address).scale_uv, packed.scale_uv)


@pytest.mark.parametrize("name", ["00000.npz", "00000.npy"])
def test_a_copy_that_was_damaged_since_is_copied_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKECG_SHARD_CACHE", str(tmp_path / "cache"))
    packed = small_shards(tmp_path, n_records=6)
    copied = open_shards(packed.folder.as_uri())
    cut_in_half(copied.folder / name)

    again = open_shards(packed.folder.as_uri())

    np.testing.assert_array_equal(again.gather([5]), packed.gather([5]))
    np.testing.assert_array_equal(again.scale_uv, packed.scale_uv)


def test_a_manifest_that_was_cut_short_on_remote_storage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKECG_SHARD_CACHE", str(tmp_path / "cache"))
    packed = small_shards(tmp_path, n_records=6)
    cut_in_half(packed.folder / "manifest.json")

    with pytest.raises(DamagedRecordError, match="damaged"):
        open_shards(packed.folder.as_uri())


@pytest.mark.parametrize(
    ("address", "error"),
    [("memory://nowhere", RecordNotFoundError), ("nosuchstorage://bucket", MissingDependencyError)],
)
def test_an_address_without_shards_says_what_is_wrong(address: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=address):
        open_shards(address)
