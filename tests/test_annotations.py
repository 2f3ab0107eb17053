"""Labels become waves, and these files that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from skecg import ECGRecord
from skecg.annotations import Waves, lead_labels, read_wave_marks, wave_traces
from skecg.errors import InputError, LeadError, ParameterError, ShapeError
from skecg.finetuning import WaveAnnotations, waves_of
from skecg.finetuning.sample_labels import read_sample_labels

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


def test_a_peak_is_no_sample_that_was_lost() -> None:
    labels = np.maximum(lead_labels(TABLE, 600), 0).astype(np.int8)
    whole = record_with_peaks(TABLE)
    signal = np.array(whole.signal) + 1.5  # far from 0, as recordings come
    signal[:, TABLE[:, 0] + 5] = np.nan
    signal[0, 400:441] = np.nan

    found = waves_of(labels, ECGRecord(signal, 500.0, whole.leads)).table

    np.testing.assert_array_equal(found, TABLE)
    signal[:] = np.nan
    assert len(waves_of(labels, ECGRecord(signal, 500.0, whole.leads))) == len(TABLE)


def test_edges_that_are_not_marked_are_left_out_of_files_and_have_no_time(tmp_path: Path) -> None:
    table = np.array([[50, 60, -1, 0], [-1, 110, 130, 1], [-1, 190, -1, 2]])
    waves = WaveAnnotations(table, 500.0)

    waves.write(tmp_path / "r.waves")

    assert wfdb.rdann(str(tmp_path / "r"), "waves").symbol == waves.symbol == ["(", "p", "N", ")", "t"]
    np.testing.assert_array_equal(read_wave_marks(tmp_path / "r.waves"), table)
    np.testing.assert_array_equal(waves.seconds(), [[0.1, 0.12, np.nan], [np.nan, 0.22, 0.26], [np.nan, 0.38, np.nan]])


def test_waves_that_overlap_cannot_be_written(tmp_path: Path) -> None:
    waves = WaveAnnotations([[100, 150, 210, 2], [200, 215, 230, 0]], 500.0)
    for way in (waves.to_wfdb, lambda: waves.write(tmp_path / "r.waves")):
        with pytest.raises(ParameterError, match="a mark at sample 200 after one at 210"):
            way()


def test_a_file_of_another_rate_is_not_one_of_this_record(tmp_path: Path) -> None:
    WaveAnnotations(TABLE, 1000.0).write(tmp_path / "r.waves")

    np.testing.assert_array_equal(read_wave_marks(tmp_path / "r.waves", 1000.0), TABLE)
    with pytest.raises(InputError, match="at 1000 Hz, for a record at 500 Hz"):
        read_wave_marks(tmp_path / "r.waves", 500.0)
    with pytest.raises(InputError, match="at 1000 Hz, for a record at 500 Hz"):
        read_sample_labels(str(tmp_path / "r.waves"), record_with_peaks(TABLE), "majority", 0)


@pytest.mark.parametrize("as_file", [True, False])
def test_waves_of_several_channels_are_not_mixed(tmp_path: Path, as_file: bool) -> None:
    samples, symbols = np.array([100, 102, 110, 112, 120, 122]), ["(", "(", "N", "N", ")", ")"]

    def read(channels: list[int]) -> np.ndarray:
        wfdb.wrann("r", "atr", samples, symbols, chan=np.array(channels), fs=500, write_dir=str(tmp_path))
        item = tmp_path / "r.atr" if as_file else wfdb.rdann(str(tmp_path / "r"), "atr")
        return read_sample_labels(item, record_with_peaks(TABLE), "majority", 0)

    with pytest.raises(InputError, match=r"channels 0, 1 in .*expected those of one"):
        read([0, 1, 0, 1, 0, 1])
    assert np.flatnonzero(read([1] * 6) == 2)[[0, -1]].tolist() == [102, 120]


def test_a_wave_without_a_peak_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="a wave without a peak"):
        WaveAnnotations([[10, 20, 30, 1], [50, -1, 70, 2]], 500.0).write(tmp_path / "r.waves")


def test_each_lead_has_a_table_of_its_own() -> None:
    with pytest.raises(ShapeError, match="1 tables for 2 leads"):
        Waves(500.0, ("I", "II"), (TABLE,))


def test_waves_of_no_lead_have_no_traces() -> None:
    with pytest.raises(LeadError, match="of no lead"):
        wave_traces(Waves(500.0, (), ()), "majority")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]], r"shape \(4, 3\), expected \(n_waves, 4\)"),
        ([10, 20, 30, 1], r"shape \(4,\)"),
        ([[0.5, 1.0, 1.5, 1]], "other places than whole samples"),
        ([[1.0, np.inf, 3.0, 1.0]], "other places than whole samples"),
        ([[1.0, np.nan, 3.0, 1.0]], "other places than whole samples"),
        ([[-2, 20, 30, 1]], "other places than whole samples"),
        ([["a", "b", "c", "d"]], "other places than whole samples"),
        ([[10, 20, 30, 3]], r"kinds \[3\], expected 0 \(P\), 1 \(QRS\) and 2 \(T\)"),
    ],
)
def test_what_is_no_table_of_waves_is_refused(table: list, message: str) -> None:
    for make in (lambda: WaveAnnotations(table, 500.0), lambda: Waves(500.0, ("II",), (table,))):
        with pytest.raises((ParameterError, ShapeError), match=message):
            make()


@pytest.mark.parametrize("wave", [[30, 20, 10, 1], [10, 40, 30, 1], [30, 20, -1, 1], [-1, 20, 10, 1], [30, -1, 20, 1]])
def test_a_wave_that_ends_before_it_begins_is_refused(wave: list[int]) -> None:
    with pytest.raises(ParameterError, match="onset, peak and offset in this order"):
        WaveAnnotations([wave], 500.0)
    sound = [[10, -1, 30, 1], [10, 20, -1, 1], [10, -1, -1, 1], [-1, -1, 30, 1], [5.0, 5.0, 5.0, 0.0]]
    assert len(WaveAnnotations(sound, 500.0)) == len(sound)
