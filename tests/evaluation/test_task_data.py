from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skecg.errors import DatasetNotFoundError, ParameterError
from skecg.evaluation.tasks import open_dataset


def pack(path: Path) -> Path:
    """Write a packed file of three records with PTB-XL's columns."""
    signals = np.random.default_rng(0).integers(-500, 500, (3, 12, 500)).astype(np.int16)
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    about = {"lsb": 0.001, "units": "mV", "fs": 250, "leads": np.array(leads)}
    labels = {"super_class": np.array(["NORM", "MI", "MI,CD"]), "strat_fold": np.array([1, 2, 3])}
    np.savez(path, signals=signals, **about, **labels)
    return path


def ptbxl(folder: Path, high: bool) -> Path:
    """Write a PTB-XL of one record, at 100 Hz and perhaps at 500."""
    row = "1,56.0,1,1.0,\"{'NORM': 100.0}\",3,records100/00000/00001_lr,records500/00000/00001_hr"
    head = "ecg_id,age,sex,patient_id,scp_codes,strat_fold,filename_lr,filename_hr"
    folder.mkdir(exist_ok=True)
    (folder / "ptbxl_database.csv").write_text(f"{head}\n{row}\n")
    (folder / "scp_statements.csv").write_text(",diagnostic,form,rhythm,diagnostic_class\nNORM,1.0,,,NORM\n")
    for name in ["records100/00000/00001_lr"] + ["records500/00000/00001_hr"] * high:
        (folder / name).parent.mkdir(parents=True)
        for suffix in (".hea", ".dat"):
            (folder / name).with_suffix(suffix).write_bytes(b"")
    return folder


def test_a_packed_file_and_a_folder_with_one_are_opened(tmp_path: Path) -> None:
    file = pack(tmp_path / "sample.npz")

    assert open_dataset(file).name == open_dataset(tmp_path).name == "sample"
    assert len(open_dataset(file)) == 3


def test_several_packed_files_have_to_be_told_apart(tmp_path: Path) -> None:
    pack(tmp_path / "a.npz")
    pack(tmp_path / "b.npz")

    with pytest.raises(ParameterError, match=r"2 packed files \(a.npz, b.npz\).*Name the file"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("high", "rate", "file"), [(True, None, "_hr"), (False, None, "_lr"), (True, 100, "_lr")])
def test_ptbxl_is_recognized_and_read_at_500_hz_where_it_can_be(
    high: bool, rate: int | None, file: str, tmp_path: Path
) -> None:
    dataset = open_dataset(ptbxl(tmp_path / "ptb", high), sampling_rate=rate)

    assert dataset.name == "ptbxl"
    assert str(dataset.records[0]).endswith(file)


def test_ptbxl_is_found_in_the_folder_that_holds_it(tmp_path: Path) -> None:
    ptbxl(tmp_path / "anything", high=False)

    assert open_dataset(tmp_path).name == "ptbxl"


def test_the_parts_of_cpsc2018_are_its_folds_and_short_records_are_left_out(tmp_path: Path) -> None:
    for part, number, seconds in ((1, 1, 12), (1, 2, 8), (7, 3, 10)):
        folder = tmp_path / f"g{part}"
        folder.mkdir(exist_ok=True)
        name = f"A{number:04d}"
        leads = [f"{name}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")]
        header = [f"{name} 2 500 {500 * seconds}", *leads, "#Age: 50", "#Sex: Male", "#Dx: 426783006"]
        (folder / f"{name}.hea").write_text("\n".join(header) + "\n")
        (folder / f"{name}.mat").write_bytes(b"\0" * (24 + 4 * 500 * seconds))

    dataset = open_dataset(tmp_path)

    assert dataset.name == "cpsc2018"
    assert dataset.record_ids.tolist() == ["g1/A0001", "g7/A0003"]
    assert dataset.folds.tolist() == [1, 7]


def test_what_is_no_data_set_is_told_what_was_found_and_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")

    with pytest.raises(DatasetNotFoundError, match=r"which holds notes\.txt; expected the folder of PTB-XL"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="which does not exist"):
        open_dataset(tmp_path / "nowhere")
