"""However the waves of a record are given, they become the same labels of its samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from skecg import ECGRecord
from skecg.annotations import lead_labels, majority_labels
from skecg.datasets import SyntheticWaves, Waves, read_ludb_record, read_ludb_waves
from skecg.errors import InputError, LeadError, RecordNotFoundError, ShapeError
from skecg.finetuning import WaveAnnotations
from skecg.finetuning.sample_labels import check_sample_labels, read_sample_labels

TABLE = np.array([[50, 60, 80, 0], [100, 110, 130, 1], [160, 190, 220, 2]])


def record_of(n_samples: int = 300, n_leads: int = 2) -> ECGRecord:
    signal = np.random.default_rng(0).normal(size=(n_leads, n_samples))
    return ECGRecord(signal, 250.0, ["I", "II", "V1", "V2"][:n_leads])


def test_arrays_waves_and_annotations_of_any_kind_say_the_same(tmp_path: Path) -> None:
    record = record_of()
    ours = WaveAnnotations(TABLE, 250.0, "r")
    ours.write(tmp_path / "r.waves")
    labels = lead_labels(TABLE, 300)
    said: dict[str, Any] = {
        "an array": labels,
        "of each lead": np.stack([labels, labels]),
        "waves": Waves(250.0, ("I", "II"), (TABLE, TABLE)),
        "our annotations": ours,
        "wfdb's annotations": ours.to_wfdb(),
        "what has their attributes": SimpleNamespace(sample=ours.sample, symbol=ours.symbol, fs=250),
        "a file": tmp_path / "r.waves",
        "its name": str(tmp_path / "r.waves"),
    }

    for item in said.values():
        np.testing.assert_array_equal(read_sample_labels(item, record, "majority", 0), labels)


def test_a_whole_lead_may_be_named_instead_of_a_vote() -> None:
    record, other = record_of(), TABLE + np.array([5, 5, 5, 0])
    waves = Waves(250.0, ("I", "II"), (TABLE, other))

    np.testing.assert_array_equal(read_sample_labels(waves, record, "lead ii", 0), lead_labels(other, 300))
    array = np.stack([lead_labels(TABLE, 300), lead_labels(other, 300)])
    np.testing.assert_array_equal(read_sample_labels(array, record, "I", 0), lead_labels(TABLE, 300))
    with pytest.raises(LeadError, match=r"labels of I, II, expected also target='V5'"):
        read_sample_labels(waves, record, "V5", 0)


def test_leads_vote() -> None:
    record = record_of(n_leads=4)
    labels = np.random.default_rng(1).integers(-1, 4, (4, 300)).astype(np.int8)

    np.testing.assert_array_equal(read_sample_labels(labels, record, "majority", 0), majority_labels(labels))


def test_annotations_of_something_else_are_passed_over() -> None:
    marks = WaveAnnotations(TABLE, 250.0)
    sample, symbol = np.r_[marks.sample, 250], [*marks.symbol, "+"]

    found = read_sample_labels(SimpleNamespace(sample=sample, symbol=symbol), record_of(), "majority", 0)

    np.testing.assert_array_equal(found, lead_labels(TABLE, 300))


@pytest.mark.parametrize("beat", list("LRaVFJASEj/QB?enfr"))
def test_a_qrs_complex_of_any_beat_is_one(tmp_path: Path, beat: str) -> None:
    marks = WaveAnnotations(TABLE, 250.0)
    symbol = [beat if symbol == "N" else symbol for symbol in marks.symbol]
    wfdb.wrann("r", "beats", marks.sample, symbol, fs=250, write_dir=str(tmp_path))

    for item in (SimpleNamespace(sample=marks.sample, symbol=symbol), tmp_path / "r.beats"):
        np.testing.assert_array_equal(read_sample_labels(item, record_of(), "majority", 0), lead_labels(TABLE, 300))


def test_a_mark_of_noise_within_a_wave_does_not_part_its_edges(tmp_path: Path) -> None:
    marks = WaveAnnotations(TABLE, 250.0)
    sample, symbol = np.insert(marks.sample, 4, 105), np.insert(np.array(marks.symbol), 4, "~").tolist()
    wfdb.wrann("r", "noisy", sample, symbol, fs=250, write_dir=str(tmp_path))

    for item in (SimpleNamespace(sample=sample, symbol=symbol), tmp_path / "r.noisy"):
        np.testing.assert_array_equal(read_sample_labels(item, record_of(), "majority", 0), lead_labels(TABLE, 300))


@pytest.mark.parametrize("other", list("ux!|"))
@pytest.mark.parametrize(("marks", "wave"), [("(t{})", [10, 20, -1, 2]), ("({}p)", [-1, 30, 40, 0])])
def test_the_edge_of_what_is_none_of_the_three_waves_is_not_theirs(
    tmp_path: Path, other: str, marks: str, wave: list[int]
) -> None:
    symbol, sample = list(marks.format(other)), np.array([10, 20, 30, 40])
    wfdb.wrann("r", "edges", sample, symbol, fs=250, write_dir=str(tmp_path))

    for item in (SimpleNamespace(sample=sample, symbol=symbol), tmp_path / "r.edges"):
        np.testing.assert_array_equal(read_sample_labels(item, record_of(), "majority", 0), lead_labels([wave], 300))


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (Waves(250.0, (), ()), LeadError, r"y\[3\] with waves of no lead, expected those of one or more"),
        (np.zeros(299, dtype=int), ShapeError, r"y\[3\] of shape \(299,\), expected \(300,\) or \(2, 300\)"),
        (np.zeros(300), InputError, "dtype float64.*expected integers: 0 background, 1 P, 2 QRS, 3 T, and -1"),
        (np.full(300, 4), InputError, "values from 4 to 4, expected integers"),
        ([[0, 1], [2]], ShapeError, "ragged"),
        (WaveAnnotations(TABLE, 500.0), InputError, "at 500 Hz for a record at 250 Hz"),
        (WaveAnnotations(TABLE + np.array([200] * 3 + [0]), 250.0), InputError, "at sample 420, but the record has"),
        (SimpleNamespace(sample=[-10, 5, 9], symbol=list("(N)")), InputError, "a wave at sample -10, but the record"),
        ("no/such.file", RecordNotFoundError, "no file of annotations"),
    ],
)
def test_labels_that_are_not_the_records_are_refused(item: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_sample_labels(item, record_of(), "majority", 3)


def test_every_record_needs_labels() -> None:
    with pytest.raises(InputError, match="requires y to be passed, but the target y is None"):
        check_sample_labels(None, 2)
    with pytest.raises(ShapeError, match="1 entries for 2 records"):
        check_sample_labels([[0]], 2)
    with pytest.raises(ShapeError, match="y of type int"):
        check_sample_labels(7, 2)


def test_labels_may_come_in_any_sequence_and_text_is_a_path() -> None:
    for y in (("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"]), np.zeros((2, 5), int), torch.zeros(2, 5).int()):
        assert len(check_sample_labels(y, 2)[1:2]) == 1


def test_real_annotations_mean_the_same_as_files_and_as_waves(shared: Path) -> None:
    folder = shared / "data" / "raw" / "ludb"
    header = sorted(folder.glob("*.hea"))[0]
    record, waves = read_ludb_record(header), read_ludb_waves(header, "II")

    from_file = read_sample_labels(header.with_suffix(".ii"), record, "majority", 0)

    np.testing.assert_array_equal(read_sample_labels(waves, record, "II", 0), from_file)
    assert set(np.unique(from_file)) >= {-1, 0, 1, 2, 3}


def test_synthetic_waves_lie_within_their_records(hearts: SyntheticWaves) -> None:
    for record, waves in zip(*hearts, strict=True):
        track = read_sample_labels(waves, record, "majority", 0)
        assert set(np.unique(track)) == {-1, 0, 1, 2, 3}
        # The sample of the greatest change is part of a QRS complex.
        steepest = np.square(np.diff(record.signal, axis=1)).sum(axis=0)
        assert track[np.where(track[:-1] >= 0, steepest, 0).argmax()] == 2


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_labels_that_are_masked_are_not_known(dtype: type) -> None:
    labels, unknown = lead_labels(TABLE, 300), np.arange(300) > 120
    masked = np.ma.masked_array(np.where(labels < 0, 0, labels).astype(dtype), mask=unknown)
    found = read_sample_labels(masked, record_of(), "majority", 0)
    np.testing.assert_array_equal(found, np.where(unknown, -1, np.where(labels < 0, 0, labels)))
