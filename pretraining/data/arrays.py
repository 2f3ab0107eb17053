"""Packed arrays: ``.npz`` files that each hold many recordings.

Keys: ``signals`` (n, leads, samples) with ``lsb`` (size of one step), ``units`` and ``fs``; ``leads`` (leads,) or
(n, leads); and where they are known ``record_ids``, ``patient_ids``, ``strat_fold``, ``seg_index``, ``valid_len``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.data.corpus import KEPT_OUT_FOLDS, UNKNOWN_FOLD, Corpus, Item, keep_folds_out
from skecg.datasets.packed import NEEDED_KEYS, STANDARDIZED, TYPICAL_MV, checked_arrays, millivolts_a_step
from skecg.errors import DamagedRecordError, InputError, RecordReadError, SkecgError
from skecg.leads import canonical_leads
from skecg.records import ECGRecord

__all__ = ["ArrayReader", "is_packed_array", "open_arrays"]

# What there may be, with a value a recording.
_COLUMNS = ("record_ids", "patient_ids", "strat_fold", "valid_len", "limb_sigma_rel")


def is_packed_array(path: Path) -> bool:
    """Return whether a file is an ``.npz`` with the keys of packed arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    with _open(path) as file:
        return set(NEEDED_KEYS) <= set(file.files)


def open_arrays(name: str, path: Path, *, kept_out_folds: Sequence[int] = KEPT_OUT_FOLDS) -> Corpus:
    """List the recordings of a packed array.

    Parameters
    ----------
    name : str
    path : Path
    kept_out_folds : sequence of int, default=(9, 10)
        Folds that are kept out where the file has ``strat_fold``.

    Returns
    -------
    Corpus
        Sources are the record's name and, behind a ``#``, its row.

    Raises
    ------
    DamagedRecordError
        When keys are missing, cannot be read, are of another shape than :mod:`pretraining.data.arrays` says, or hold
        no numbers where it says so.
    UnitsError
        When the unit is neither one of voltage nor :data:`~skecg.datasets.packed.STANDARDIZED`.
    """
    arrays = _arrays(path, {*NEEDED_KEYS, *_COLUMNS})
    kept, left_out = keep_folds_out(_items(name, arrays), kept_out_folds)
    return Corpus(name, kept, ArrayReader(path), left_out, _notes(name, arrays["units"].item()))


@dataclass(frozen=True)
class ArrayReader:
    """Reads rows of a packed array."""

    path: Path

    def __call__(self, items: Sequence[Item]) -> Iterator[ECGRecord | SkecgError]:
        """Read one row an item; the array is unpacked once."""
        # The time of change is part of the key, so that a file that was written anew is read anew.
        arrays = _load(self.path, self.path.stat().st_mtime_ns)
        for item in items:
            try:
                yield _read_row(arrays, int(item.source.rpartition("#")[2]), item.source)
            except InputError as error:
                yield error


def _read_row(arrays: Mapping[str, NDArray[Any]], row: int, source: str) -> ECGRecord:
    """Take one row in millivolts, without its padding."""
    names = arrays["leads"] if arrays["leads"].ndim == 1 else arrays["leads"][row]
    leads = canonical_leads(list(map(str, names)))
    ratios = arrays["limb_sigma_rel"][row] if "limb_sigma_rel" in arrays else None
    units, lsb = arrays["units"].item(), float(arrays["lsb"].item())
    scale = millivolts_a_step(units, lsb, leads, ratios).astype(np.float32)
    valid = int(arrays["valid_len"][row]) if "valid_len" in arrays else arrays["signals"].shape[-1]
    signal = arrays["signals"][row, :, :valid].astype(np.float32) * scale
    return ECGRecord(signal, float(arrays["fs"].item()), leads, source)


def _items(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[Item]:
    """List all rows."""
    n_records = len(arrays["signals"])
    columns = {key: arrays[key].tolist() for key in _COLUMNS if key in arrays}
    records = columns.get("record_ids", [""] * n_records)
    patients = columns.get("patient_ids", [""] * n_records)
    folds = columns.get("strat_fold", [UNKNOWN_FOLD] * n_records)
    rows = zip(records, patients, folds, strict=True)
    return [Item(name, f"{record}#{i}", patient, fold) for i, (record, patient, fold) in enumerate(rows)]


def _notes(name: str, units: str) -> tuple[str, ...]:
    """Describe what was done to recordings that are not in a unit of voltage."""
    if units != STANDARDIZED:
        return ()
    typical = ", ".join(f"{lead} {value:g}" for lead, value in TYPICAL_MV.items())
    return (
        f"{name}: amplitudes are not known, each lead was divided by its own standard deviation. Leads were given "
        f"typical ones ({typical} mV; limb leads shared out by their known ratios, where the file has them).",
    )


# One file: recordings come file by file, and an unpacked one may take gigabytes.
@lru_cache(maxsize=1)
def _load(path: Path, modified: int) -> dict[str, NDArray[Any]]:
    """Unpack the arrays that reading needs, once a process."""
    return _arrays(path, {*NEEDED_KEYS, "limb_sigma_rel", "valid_len"})


def _arrays(path: Path, wanted: Set[str]) -> dict[str, NDArray[Any]]:
    """Unpack some of the arrays, and check them."""
    with _open(path) as file:
        return checked_arrays({key: _member(file, key, path) for key in file.files if key in wanted}, path)


def _member(file: Any, key: str, path: Path) -> NDArray[Any]:
    """Unpack one array."""
    try:
        values: NDArray[Any] = file[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedRecordError(
            f"Got {path}, of which {key} cannot be read ({error}). Write it again; names as text, not as Python's "
            "objects: np.array(names, dtype=str)."
        ) from error
    return values


def _open(path: Path) -> Any:
    """Open an ``.npz`` without unpickling anything."""
    try:
        # Asked first, for NumPy leaves a file open that turns out to be none.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no whole archive of arrays")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordReadError(f"{path} cannot be opened ({type(error).__name__}: {error}). Check the file.") from error
