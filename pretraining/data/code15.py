"""CODE-15 %: 345,779 recordings in HDF5 files, twelve leads at 400 Hz, zero padding on both sides to 4,096 samples.

The tracings carry no lead names; their order is I, II, III, aVR, aVL, aVF, V1 to V6. They are taken as millivolts, as
the PhysioNet Challenge 2025 took them.

References
----------
.. [1] Ribeiro A. H. et al. (2021). CODE-15%: a large scale annotated dataset of 12-lead ECGs. Zenodo 4916206.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.data.corpus import Corpus, Item
from skecg.datasets.base import read_rows, whole_number
from skecg.errors import (
    BadSignalError,
    DamagedRecordError,
    MissingDependencyError,
    RecordNotFoundError,
    RecordReadError,
    SkecgError,
)
from skecg.leads import CANONICAL_LEADS
from skecg.records import ECGRecord

__all__ = ["Code15Reader", "open_code15", "valid_extent"]

SAMPLING_RATE = 400.0  # Hz; padding and all a tracing lasts 10.24 s


def open_code15(name: str, folder: Path) -> Corpus:
    """List CODE-15 %.

    Parameters
    ----------
    name : str
    folder : Path
        Holds ``exams_part*.hdf5`` and, if patients are to be known, ``exams.csv``.

    Returns
    -------
    Corpus
        Sources are ``exams_part3.hdf5:417``, file and row, by number of the file.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When a file is not HDF5 or holds other data.
    MissingDependencyError
        When h5py is not installed.
    """
    files = sorted(folder.glob("exams_part*.hdf5"), key=_part_number)
    if not files:
        raise RecordNotFoundError(f"{str(folder)!r} holds no exams_part*.hdf5. Give the folder that does.")
    table = folder / "exams.csv"
    rows = read_rows(table, ["exam_id", "patient_id"]) if table.is_file() else []
    patients = {whole_number(row["exam_id"]): whole_number(row["patient_id"]) for row in rows}
    items: list[Item] = []
    for file in files:
        exams = _exam_ids(file)
        items += [Item(name, f"{file.name}:{row}", patients.get(str(exam), "")) for row, exam in enumerate(exams)]
    notes = () if rows else (f"{name}: there is no exams.csv, so patients are not known.",)
    return Corpus(name, tuple(items), Code15Reader(folder), notes=notes)


@dataclass(frozen=True)
class Code15Reader:
    """Reads rows of the HDF5 files in a folder, each without its padding."""

    folder: Path

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        """Read one row an item, opening each file once for the rows that follow one another."""
        file: Any = None
        name = ""
        try:
            for item in items:
                file_name, _, row = item.source.rpartition(":")
                # Items are in the order of the files, so one open file at a time is enough.
                if file_name != name:
                    if file is not None:
                        file.close()
                    file, name = _open(self.folder / file_name), file_name
                yield _read_row(file, int(row), item.source)
        finally:
            if file is not None:
                file.close()


def valid_extent(tracing: NDArray[np.floating]) -> tuple[int, int]:
    """Find where a padded recording begins and ends.

    Parameters
    ----------
    tracing : ndarray of shape (n_samples, n_leads)

    Returns
    -------
    start, stop : int
        The first sample at which any lead is not zero, and the one after the last; equal when there is none.
    """
    # In any lead: one that is truly flat must not cut the others short.
    signal = np.flatnonzero(np.any(tracing != 0, axis=1))
    return (int(signal[0]), int(signal[-1]) + 1) if signal.size else (0, 0)


def _read_row(file: Any, row: int, source: str) -> ECGRecord | SkecgError:
    """Read one recording and take its padding away."""
    try:
        tracing = np.asarray(file["tracings"][row], dtype=np.float32)
    except OSError as error:
        unread = DamagedRecordError(f"{source} cannot be read ({error}). Download the file again.")
        unread.__cause__ = error
        return unread
    start, stop = valid_extent(tracing)
    if start == stop:
        return BadSignalError(f"Got {source} with nothing but zeros, expected a recording.")
    return ECGRecord(tracing[start:stop].T, SAMPLING_RATE, CANONICAL_LEADS, source)


def _exam_ids(path: Path) -> NDArray[np.int64]:
    """Read the numbers of a file's recordings, checking what it holds."""
    with _open(path) as file:
        shape = file["tracings"].shape if "tracings" in file else None
        if shape is None or len(shape) != 3 or shape[2] != len(CANONICAL_LEADS):
            raise DamagedRecordError(f"Got {path} with tracings of shape {shape}, expected (n, 4096, 12).")
        if "exam_id" not in file or file["exam_id"].shape != shape[:1]:
            raise DamagedRecordError(f"Got {path} without an exam_id for each of its {shape[0]} tracings.")
        return np.asarray(file["exam_id"][:], dtype=np.int64)


def _open(path: Path) -> Any:
    """Open an HDF5 file."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError("Reading CODE-15 % needs h5py. Run: pip install h5py") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if not path.is_file():
            raise RecordNotFoundError(f"There is no file {str(path)!r}.") from error
        raise RecordReadError(f"{path} cannot be opened as HDF5 ({error}). Download it again.") from error


def _part_number(path: Path) -> tuple[int, str]:
    """Sort exams_part2 before exams_part10."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)
