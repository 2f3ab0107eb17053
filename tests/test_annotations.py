"""Labels become waves, and these files that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from skecg import ECGRecord
from skecg.annotations import lead_labels, read_wave_marks
from skecg.errors import ParameterError
from skecg.finetuning import WaveAnnotations, waves_of

TABLE = np.array([[50, 60, 80, 0], [100, 110, 130, 1], [160, 190, 220, 2], [400, 420, 440, 1]])


def record_with_peaks(table: np.ndarray, n_samples: int = 600) -> ECGRecord:
    signal = np.zeros((2, n_samples))
    for onset, peak, offset, _ in table:
        signal[:, onset : offset + 1] = np.interp(np.arange(onset, offset + 1), [onset, peak, offset], [0, 1, 0])
    return ECGRecord(signal, 500.0, ["I", "II"], "r")


def test_labels_give_back_the_waves_that_made_them() -> None:
    labels = np.maximum(lead_labels(TABLE, 600), 0).astype(np.int8)

    np.testing.assert_array_equal(waves_of(labels, record_with_peaks(TABLE)).table, TABLE)


def test_waves_that_are_too_short_are_none_and_short_pauses_within_one_are_closed() -> None:
    labels = np.zeros(600, dtype=np.int8)
    labels[10:15] = 2  # 10 ms
    labels[100:150], labels[120:124] = 1, 0  # a pause of 8 ms
    labels[300:350], labels[320:324] = 3, 1  # another wave of 8 ms within one
    labels[400:412], labels[415:425] = 2, 2  # each long enough only together

    found = waves_of(labels, record_with_peaks(TABLE))

    assert found.table[:, [0, 2, 3]].tolist() == [[100, 149, 0], [300, 349, 2], [400, 424, 1]]


def test_twenty_milliseconds_are_a_wave_and_a_pause_and_a_sample_less_is_neither() -> None:
    labels = np.zeros(600, dtype=np.int8)
    labels[10:20], labels[30:39] = 1, 2
    labels[100:150], labels[120:130] = 3, 0
    labels[200:250], labels[220:229] = 3, 0

    found = waves_of(labels, record_with_peaks(TABLE)).table[:, [0, 2, 3]].tolist()

    assert found == [[10, 19, 0], [100, 119, 2], [130, 149, 2], [200, 249, 2]]


def test_a_record_of_background_has_no_waves() -> None:
    found = waves_of(np.zeros(600, dtype=np.int8), record_with_peaks(TABLE))

    assert len(found) == 0
    assert found.symbol == []
    assert repr(found) == "WaveAnnotations('r': 0 P, 0 QRS, 0 T, 500 Hz)"


@pytest.mark.parametrize("rate", [250.0, 500.0, 360.0, 128.5])
def test_files_written_are_read_alike_by_wfdb_and_by_us(tmp_path: Path, rate: float) -> None:
    far = np.vstack([TABLE, [[90_000, 90_010, 90_020, 0]]])  # farther than one word of the file can say
    annotations = WaveAnnotations(far, rate, "r-1")

    annotations.write(tmp_path / "new" / "r-1.waves")

    read = wfdb.rdann(str(tmp_path / "new" / "r-1"), "waves")
    assert read.sample.tolist() == annotations.sample.tolist()
    assert read.symbol == annotations.symbol == list("(p)(N)(t)(N)(p)")
    assert read.fs == rate
    np.testing.assert_array_equal(read_wave_marks(tmp_path / "new" / "r-1.waves"), far)
    made = annotations.to_wfdb()
    assert isinstance(made, wfdb.Annotation)
    assert (made.record_name, made.extension, made.symbol) == ("r-1", "waves", annotations.symbol)


def test_real_files_survive_reading_and_writing(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "data" / "raw" / "ludb").glob("*.ii"))[:5]:
        table = read_wave_marks(path)
        whole = table[(table[:, :3] >= 0).all(axis=1)]
        WaveAnnotations(whole, 500.0).write(tmp_path / f"{path.stem}.ii")

        before, after = wfdb.rdann(str(path.with_suffix("")), "ii"), wfdb.rdann(str(tmp_path / path.stem), "ii")

        assert after.fs == before.fs == 500
        if len(whole) == len(table):
            assert after.sample.tolist() == before.sample.tolist()
            assert after.symbol == before.symbol
        np.testing.assert_array_equal(read_wave_marks(tmp_path / f"{path.stem}.ii"), whole)


@pytest.mark.parametrize("name", ["X[0].waves", "r", "r.w1", "a b.waves"])
def test_names_that_wfdb_does_not_allow_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="expected the record's name"):
        WaveAnnotations(TABLE, 500.0).write(tmp_path / name)


def test_nothing_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no annotations"):
        WaveAnnotations(np.empty((0, 4)), 500.0).write(tmp_path / "r.waves")


def test_seconds_are_samples_over_the_rate() -> None:
    np.testing.assert_array_equal(WaveAnnotations(TABLE, 500.0).seconds(), TABLE[:, :3] / 500.0)
