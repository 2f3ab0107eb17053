"""A long record is prepared stretch by stretch: the numbers are the whole record's, the memory is not."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wfdb_writing import pack

from skecg import ECGRecord, JEPAEmbedder
from skecg.io import read_record
from skecg.preprocessing import stretches
from skecg.preprocessing.quality import Policies, Screening, screen
from skecg.preprocessing.signals import GapFiller, fill_gaps, filter_leads, normalize, resample
from skecg.preprocessing.stretches import LongRecord
from skecg.preprocessing.windows import WindowStream, _signal, prepare_screened
from skecg.spec import InputSpec

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SUBSET = Policies("subset", "raise")
MINUTES = 15


def a_long_record(rate: float = 250.0, minutes: float = MINUTES, *, gaps: bool = False) -> ECGRecord:
    """Beats, noise, an offset, slow wander, and gaps that reach over several stretches."""
    seconds = np.arange(int(minutes * 60 * rate)) / rate
    random = np.random.default_rng(0)
    beats = np.exp(-0.5 * ((seconds % 0.8 - 0.4) / 0.012) ** 2)
    signal = np.stack([beats + np.sin(seconds / 7), 0.4 * beats - 2 + np.sin(seconds / 190)])
    signal += random.normal(0, 0.02, signal.shape)
    if gaps:
        signal[0, : int(3 * rate)] = np.nan
        signal[0, int(100 * rate) : int(400 * rate)] = np.nan
        signal[1, ::997] = np.nan
        signal[1, -int(2 * rate) :] = np.nan
    return ECGRecord(signal, rate, ["II", "V1"])


def stream_of(record: ECGRecord, spec: InputSpec, stride: float | None = None) -> tuple[WindowStream, Screening]:
    screening = screen(record, spec, SUBSET, "record")
    return WindowStream([record], [screening], spec, stride=stride, policies=SUBSET), screening


FILTER = {"highpass_hz": 0.5, "lowpass_hz": 40.0}
WAYS = {
    "as the default weights": (250.0, {"sampling_rate": 100.0, "window_samples": 1000, **FILTER}),
    "nothing but windows": (250.0, {"sampling_rate": 250.0, "window_samples": 2500}),
    "upwards": (128.0, {"sampling_rate": 200.0, "window_samples": 1000, "highpass_hz": 0.5}),
    "tap by tap": (256.0, {"sampling_rate": 99.7, "window_samples": 1000}),
    "by the spectrum": (250.0, {"sampling_rate": 100.0, "window_samples": 1000, "resampling": "fourier", **FILTER}),
    "a slow high-pass": (250.0, {"sampling_rate": 100.0, "window_samples": 1000, "highpass_hz": 0.05}),
    "each lead's deviation": (250.0, {"sampling_rate": 100.0, "window_samples": 1000, "normalization": "zscore"}),
    "the record's": (250.0, {"sampling_rate": 100.0, "window_samples": 1000, "normalization": "record", **FILTER}),
}


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_window_is_the_whole_records(way: str, gaps: bool) -> None:
    rate, fields = WAYS[way]
    spec = InputSpec(LEADS, **fields)
    record = a_long_record(rate, gaps=gaps)
    stream, screening = stream_of(record, spec)
    present = np.array([[bool(source) for source in screening.sources]])
    whole = _signal([record], [screening], present, spec)[0]
    blocks = list(stream)
    assert sum(map(len, blocks)) == len(stream) > 80
    for windows in blocks:
        for values, start in zip(windows.values, windows.start_samples, strict=True):
            np.testing.assert_allclose(
                values, whole[:, start : start + spec.window_samples], rtol=0, atol=1e-6 * max(1, np.abs(whole).max())
            )


def test_what_comes_in_blocks_is_to_the_bit_what_comes_at_once() -> None:
    spec = InputSpec(LEADS, 100.0, 1000, highpass_hz=0.5, normalization="record")
    records = [a_long_record(minutes=minutes) for minutes in (0.5, 9, 2, 12)]
    screenings = [screen(record, spec, SUBSET, "record") for record in records]
    how = {"stride": 2.0, "policies": SUBSET}
    blocks = list(WindowStream(records, screenings, spec, **how))
    assert len(blocks) > 2
    together = prepare_screened(records, screenings, spec, **how, n_threads=3)
    for name in ("values", "owner", "start_samples", "valid_samples", "lead_mask"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(block, name) for block in blocks]), getattr(together, name)
        )
    alone = prepare_screened(records[3:], screenings[3:], spec, **how)
    np.testing.assert_array_equal(alone.values, together.values[together.owner == 3])


@pytest.mark.parametrize("looked_at", [7, 2**16])
def test_gaps_of_parts_are_filled_from_what_lies_around_them(looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skecg.preprocessing.signals._LOOKED_AT", looked_at)
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(6, 200)).astype(np.float32)
    signal[0, 5:196], signal[1, :50], signal[2], signal[3, 20:], signal[4, rng.random(200) < 0.8] = [np.nan] * 5
    whole, gaps = fill_gaps(signal), GapFiller(signal, range(6))
    parts = [(first, first + 20) for first in range(0, 200, 20)]
    parts += [sorted(rng.choice(200, 2, replace=False)) for _ in range(200)]
    for start, stop in parts:
        np.testing.assert_array_equal(gaps.fill(start, stop), whole[:, start:stop])


def test_leads_that_are_not_used_keep_their_gaps() -> None:
    signal = np.array([[0, np.nan, 2], [0, np.nan, 4]], dtype=np.float32)
    np.testing.assert_array_equal(GapFiller(signal, [1]).fill(0, 3), [[0, np.nan, 2], [0, 2, 4]])


class Counted(np.ndarray):
    """Counts the samples that are looked at."""

    looked_at = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if self.ndim == 1:
            Counted.looked_at += np.size(found)
        return found


@pytest.mark.parametrize("overlap", [0, 50])
@pytest.mark.parametrize("lost", [slice(0, None), slice(500, None), slice(0, 80_000)])
def test_a_lead_that_is_off_for_hours_is_searched_through_once(
    lost: slice, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skecg.preprocessing.signals._LOOKED_AT", 100)
    monkeypatch.setattr(Counted, "looked_at", 0)
    signal = np.zeros((1, 100_000), dtype=np.float32)
    signal[0, lost] = np.nan
    gaps = GapFiller(signal.view(Counted), [0])
    for start in range(0, 100_000, 200):
        gaps.fill(max(0, start - overlap), start + 200 + overlap)
    assert Counted.looked_at < 3 * signal.size


def write_long(folder: Path, storage: str, minutes: float) -> tuple[Path, int]:
    """Write a two-lead recording at 250 Hz; return its header, and the bytes of its two leads in float32."""
    steps = np.nan_to_num(np.round(200 * a_long_record(minutes=minutes).signal.T)).astype(int)
    (folder / "r.dat").write_bytes(pack(steps, storage))
    lines = [f"r.dat {storage} 200/mV 12 0 0 0 0 {lead}" for lead in ("II", "V1")]
    (folder / "r.hea").write_text("\n".join([f"r 2 250 {len(steps)}", *lines]) + "\n")
    return folder / "r.hea", 4 * steps.size


# What is there beside the record whatever its length: a block of windows and a stretch in hand.
CONSTANT_BYTES = 36_000_000


@pytest.mark.parametrize("storage", ["16", "212"])
def test_memory_of_a_long_recording_is_bounded_by_its_own_size(tmp_path: Path, storage: str) -> None:
    path, n_bytes = write_long(tmp_path, storage, minutes=120)
    spec = InputSpec(LEADS, 100.0, 1000, highpass_hz=0.5, lowpass_hz=40.0)
    read_record(path)  # whatever is imported by the first is not counted
    tracemalloc.start()
    stream, _ = stream_of(read_record(path), spec)
    assert sum(len(windows) for windows in stream) == 720
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_bytes == 2 * 4 * 250 * 7200
    assert peak < 1.5 * n_bytes + CONSTANT_BYTES


@pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning")
def test_a_long_recording_has_the_features_of_its_windows(tmp_path: Path) -> None:
    path, _ = write_long(tmp_path, "16", minutes=MINUTES)
    embedder = JEPAEmbedder(TINY, missing_leads="subset", cache=None, stride=2.0)
    record = read_record(path)
    features = embedder.fit_transform([path])
    rate, window = 250, embedder.embedding_config().info.spec.window_seconds
    starts = np.arange(0, record.duration_seconds - window + 1e-6, 2.0)
    tokens = embedder.transform_tokens([path])[0]
    assert np.isfinite(features).all()
    assert tokens.start_seconds.min() == 0
    assert tokens.stop_seconds.max() == pytest.approx(record.duration_seconds, abs=1 / rate)
    assert len(np.unique(tokens.start_seconds)) >= len(starts)
    np.testing.assert_allclose(tokens.values.mean(axis=0), features[0], rtol=1e-3, atol=1e-4)


SPEC = InputSpec(("I", "II", "V1"), 250, 500)
FOUNDER = {
    "notch_hz": 50,
    "highpass_hz": 0.67,
    "lowpass_hz": 40,
    "filter_design": "bandpass",
    "baseline_samples": 101,
    "normalization": "whole",
}


@pytest.mark.parametrize("resampling", ["polyphase", "fourier", "linear"])
@pytest.mark.parametrize(
    "how",
    [FOUNDER, {"normalization": "minmax"}, {"normalization": "whole"}, {"notch_hz": 50}, {"baseline_samples": 101}],
    ids=lambda how: "+".join(how),
)
def test_any_stretch_is_that_of_the_whole_record(
    resampling: str, how: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 4 * 3 * 3000)  # four stretches
    spec = replace(SPEC, resampling=resampling, **how)
    noise = np.random.default_rng(0).normal(size=(3, 24_000)).astype(np.float32)
    record = ECGRecord(noise * np.array([[0.2], [0.5], [1.0]], np.float32) + 0.3, 500, SPEC.leads)
    present = np.array([True, True, False])  # the third takes no part in what leads share
    sources = [((0, 1.0),), ((1, 1.0),), ()]

    leads = np.concatenate([record.signal[:2], np.zeros((1, 24_000), np.float32)])
    filtered = filter_leads(resample(leads, 500, 250, resampling), spec)
    wanted = normalize(filtered, spec, lead_mask=present)
    wanted[2] = 0
    long = LongRecord(record, sources, present, spec)

    assert long.n_out == wanted.shape[1]
    for start, stop in ((0, 500), (2900, 3400), (5990, 6500), (11_500, 12_000), (0, 12_000)):
        np.testing.assert_allclose(long.prepare(start, stop), wanted[:, start:stop], atol=1e-5)
