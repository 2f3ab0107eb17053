"""Data sets with the folds of ecgbench: its own package says what their tables mean."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_sets import steps, wfdb_files, write

from skecg import read_record
from skecg.datasets import read_ecgbench
from skecg.errors import DamagedRecordError, DatasetNotFoundError, MissingDependencyError, ParameterError
from skecg.evaluation.tasks import open_dataset

NAMES = ("A0001", "A0002", "A0003")
CODES = ("59118001", "164889003,59118001", "426783006")
FOLDS = "record_name,signal_path,fold,default_split\n" + "".join(
    f"{name},Training_WFDB/{name}.mat,{fold},{split}\n"
    for name, fold, split in zip(NAMES, (1, 9, 10), ("train", "val", "test"), strict=True)
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """CPSC2018 as ecgbench takes it, with what ``ecgbench splits`` writes."""
    files = {
        "original/folds.csv": FOLDS.encode(),
        "clean/folds.csv": "".join(FOLDS.splitlines(keepends=True)[:3]).encode(),
        "manifest.json": json.dumps({"dataset": "cpsc_2018"}).encode(),
    }
    for seed, (name, codes) in enumerate(zip(NAMES, CODES, strict=True)):
        comments = ("Age: 74", "Sex: Female", f"Dx: {codes}", "Rx: Unknown", "Hx: Unknown", "Sx: Unknown")
        files |= wfdb_files(f"Training_WFDB/{name}", 500, steps(seed, 600), suffix=".mat", comments=comments)
    return write(files, tmp_path / "copy")


def edit(table: Path, change: Callable[[str], str]) -> None:
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")


def test_without_the_package_the_error_says_how_to_get_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ecgbench", None)
    monkeypatch.setitem(sys.modules, "ecgbench.config", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'skecg\[ecgbench\]'"):
        read_ecgbench(home)


def test_a_folder_without_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"clean/folds\.csv"):
        read_ecgbench(tmp_path)
    with pytest.raises(ParameterError, match="'clean' or 'original'"):
        read_ecgbench(tmp_path, version="best")


def test_folds_labels_and_recordings_come_together(home: Path) -> None:
    pytest.importorskip("ecgbench")
    data = read_ecgbench(home, version="original")
    assert data.name == "cpsc_2018"
    assert data.record_ids.tolist() == data.patients.tolist() == list(NAMES)
    assert data.folds.tolist() == [1, 9, 10]
    assert data.codes[1] == {"164889003": 100.0, "59118001": 100.0}
    assert data.sexes.tolist() == ["F"] * 3
    assert data.ages.tolist() == [74.0] * 3
    np.testing.assert_array_equal(read_record(data.records[2]).signal, np.float32(steps(2, 600).T / 1000))


def test_clean_folds_leave_out_what_was_found_spoilt_and_evaluation_takes_them(home: Path) -> None:
    pytest.importorskip("ecgbench")
    assert open_dataset(home).record_ids.tolist() == list(NAMES[:2])


def test_folds_may_lie_elsewhere_under_the_name_of_their_data_set(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("ecgbench")
    elsewhere = write({"clean/folds.csv": FOLDS.encode()}, tmp_path / "cpsc_2018")
    assert read_ecgbench(home, elsewhere).folds.tolist() == [1, 9, 10]
    assert read_ecgbench(home, elsewhere, name="cpsc_2018", labels="dx_abbreviations").codes[0] == {"RBBB": 100.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: text.replace("fold,", "part,"), DamagedRecordError, "fold"),
        (lambda text: text.replace(",9,", ",nine,"), DamagedRecordError, "'nine'"),
        (lambda text: text.replace("A0002,", "A0001,"), DamagedRecordError, "'A0001' twice"),
        (lambda text: text.splitlines()[0], DamagedRecordError, "without a recording"),
        (lambda text: text.replace("Training_WFDB/A0002", "../A0002"), DamagedRecordError, r"\.\./A0002"),
        (lambda text: text.replace("Training_WFDB/A0002", "Training_WFDB/A0009"), DatasetNotFoundError, r"A0009\.hea"),
    ],
)
def test_spoilt_tables_are_refused_by_what_is_wrong(
    home: Path, change: Callable[[str], str], error: type[Exception], message: str
) -> None:
    pytest.importorskip("ecgbench")
    edit(home / "clean" / "folds.csv", change)
    with pytest.raises(error, match=message):
        read_ecgbench(home)


def test_what_ecgbench_does_not_know_is_refused(home: Path) -> None:
    pytest.importorskip("ecgbench")
    with pytest.raises(ParameterError, match="'mine'"):
        read_ecgbench(home, name="mine")
    with pytest.raises(ParameterError, match="sampling_rate=250"):
        read_ecgbench(home, sampling_rate=250)
    with pytest.raises(ParameterError, match="labels='mine'"):
        read_ecgbench(home, labels="mine")
    with pytest.raises(ParameterError, match="'hdf5'"):
        read_ecgbench(home, name="code15")
    (home / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedRecordError, match=r"manifest\.json"):
        read_ecgbench(home)


def test_patients_likelihoods_and_sexes_of_ptb_xl_are_those_of_its_own_reader(tmp_path: Path) -> None:
    pytest.importorskip("ecgbench")
    from small_sets import ptbxl_files

    from skecg.datasets import fetch_ptbxl

    home = write(ptbxl_files(), tmp_path / "ptb-xl")
    ours = fetch_ptbxl(home, sampling_rate=100, download_if_missing=False)
    lines = ["ecg_id,patient_id,filename_lr,filename_hr,fold,default_split"]
    for number, (path, patient) in enumerate(zip(ours.records, ours.patients, strict=True)):
        name = Path(path).relative_to(home)
        lines.append(f"{int(ours.record_ids[number])},{patient}.0,{name},{name},{ours.folds[number]},train")
    write({"clean/folds.csv": "\n".join(lines).encode()}, tmp_path / "ptbxl")
    data = read_ecgbench(home, tmp_path / "ptbxl", sampling_rate=100)
    assert data.codes == ours.codes
    np.testing.assert_equal(data.ages, ours.ages)
    for field in ("patients", "sexes", "folds"):
        assert getattr(data, field).tolist() == getattr(ours, field).tolist()
