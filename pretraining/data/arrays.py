"""Packed arrays: ``.npz`` files that each hold many recordings.

Keys: ``signals`` (n, leads, samples) with ``lsb`` (size of one step), ``units`` and ``fs``; ``leads`` (leads,) or
(n, leads); and where they are known ``record_ids``, ``patient_ids``, ``strat_fold``, ``seg_index``, ``valid_len``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.data.corpus import KEPT_OUT_FOLDS, UNKNOWN_FOLD, Corpus, Item, keep_folds_out
from skecg.datasets.packed import STANDARDIZED, TYPICAL_MV, millivolts_a_step
from skecg.errors import DamagedRecordError, InputError, RecordReadError, SkecgError, UnitsError
from skecg.leads import canonical_leads
from skecg.records import MILLIVOLTS_PER_UNIT, ECGRecord
from skecg.validation import check_integer, check_number, is_integer

__all__ = ["ArrayReader", "is_packed_array", "open_arrays"]

_NEEDED = ("signals", "lsb", "units", "fs", "leads")
# What there may be, with a value a recording.
_COLUMNS = ("record_ids", "patient_ids", "strat_fold", "valid_len", "limb_sigma_rel")

# What a patient that is not known becomes when a column is saved.
_NOBODY = frozenset({"", "nan", "none", "<na>", "nat"})
# The index of shards holds folds in 16 bits.
_LARGEST_FOLD = 2**15 - 1


def is_packed_array(path: Path) -> bool:
    """Return whether a file is an ``.npz`` with the keys of packed arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    with _open(path) as file:
        return set(_NEEDED) <= set(file.files)


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
    with _open(path) as file:
        lacking = [key for key in _NEEDED if key not in file.files]
        if lacking:
            raise DamagedRecordError(f"Got {path} without {', '.join(lacking)}, expected {', '.join(_NEEDED)}.")
        arrays = {key: _member(file, key, path) for key in (*_NEEDED, *_COLUMNS) if key in file.files}
    _check_shapes(arrays, path)
    # Before anything is packed: a wrong unit would put every record of the file out by a thousand.
    units = str(arrays["units"].item())
    if units != STANDARDIZED and units.strip().lower() not in MILLIVOLTS_PER_UNIT:
        raise UnitsError(f"Got units={units!r} in {path}, expected a unit of voltage or {STANDARDIZED!r}.")
    for key in ("lsb", "fs"):
        check_number(f"{path}: {key}", arrays[key].item(), 0, error=DamagedRecordError)
    kept, left_out = keep_folds_out(_items(name, len(arrays["signals"]), arrays, path), kept_out_folds)
    return Corpus(name, kept, ArrayReader(path), left_out, _notes(name, units))


def _check_shapes(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Check that arrays have one value for all recordings, or one each, and that every row of a signal has a name."""
    signals = arrays["signals"]
    if signals.ndim != 3:
        raise DamagedRecordError(
            f"Got signals of shape {signals.shape} in {path}, expected (n, leads, samples). Write those of one lead as "
            "signals[:, None]."
        )
    n_records, n_leads, _ = signals.shape
    for key in ("lsb", "units", "fs"):
        if arrays[key].size != 1:
            raise DamagedRecordError(
                f"Got {key} of shape {arrays[key].shape} in {path}, expected one value for all recordings. Write a "
                "file for each value."
            )
    if arrays["leads"].shape not in ((n_leads,), (n_records, n_leads)):
        raise DamagedRecordError(
            f"Got leads of shape {arrays['leads'].shape} in {path}, expected ({n_leads},) or ({n_records}, {n_leads}): "
            "a name for every row of a signal."
        )
    for key in _COLUMNS:
        if key in arrays and arrays[key].shape[:1] != (n_records,):
            raise DamagedRecordError(
                f"Got {key} of shape {arrays[key].shape} in {path}, expected one for each of {n_records} rows."
            )
    for length in arrays["valid_len"].tolist() if "valid_len" in arrays else ():
        check_integer(f"{path}: valid_len", _whole(length), 0, error=DamagedRecordError)


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
    leads = canonical_leads([str(lead) for lead in names])
    ratios = arrays["limb_sigma_rel"][row] if "limb_sigma_rel" in arrays else None
    units, lsb = str(arrays["units"].item()), float(arrays["lsb"].item())
    scale = millivolts_a_step(units, lsb, leads, ratios).astype(np.float32)
    valid = int(arrays["valid_len"][row]) if "valid_len" in arrays else arrays["signals"].shape[-1]
    signal = arrays["signals"][row, :, :valid].astype(np.float32) * scale
    return ECGRecord(signal, float(arrays["fs"].item()), leads, source)


def _items(name: str, n_records: int, arrays: Mapping[str, NDArray[Any]], path: Path) -> list[Item]:
    """List all rows."""
    texts = {key: arrays[key].tolist() for key in _COLUMNS if key in arrays}
    records = texts.get("record_ids", [""] * n_records)
    patients = texts.get("patient_ids", [""] * n_records)
    folds = texts.get("strat_fold", [UNKNOWN_FOLD] * n_records)
    rows = zip(records, map(str, patients), folds, strict=True)
    return [
        # One patient of whom nothing is known would be all of them.
        Item(name, f"{record}#{i}", "" if patient.strip().lower() in _NOBODY else patient, _fold(fold, path))
        for i, (record, patient, fold) in enumerate(rows)
    ]


def _fold(value: Any, path: Path) -> int:
    """Read the number of a fold."""
    fold = _whole(value)
    if not is_integer(fold) or abs(fold) > _LARGEST_FOLD:
        raise DamagedRecordError(
            f"Got strat_fold {value!r} in {path}, expected whole numbers up to {_LARGEST_FOLD}, and {UNKNOWN_FOLD} for "
            "a recording that is in no fold."
        )
    return fold


def _whole(value: Any) -> Any:
    """Return a number that is whole as an integer, and anything else as it is."""
    try:
        return int(value) if float(value).is_integer() else value
    except (TypeError, ValueError):
        return value


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
    with _open(path) as file:
        wanted = {*_NEEDED, "limb_sigma_rel", "valid_len"}
        return {key: _member(file, key, path) for key in file.files if key in wanted}


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
