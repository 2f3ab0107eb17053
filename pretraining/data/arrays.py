"""Packed arrays: ``.npz`` files that each hold many recordings.

Keys: ``signals`` (n, leads, samples) with ``lsb`` (size of one step), ``units`` and ``fs``; ``leads`` (leads,) or
(n, leads); and where they are known ``record_ids``, ``patient_ids``, ``strat_fold``, ``seg_index``, ``valid_len``.
"""

from __future__ import annotations

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

__all__ = ["ArrayReader", "is_packed_array", "open_arrays"]

_NEEDED = ("signals", "lsb", "units", "fs", "leads")


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
        When keys are missing, or do not have one value a recording.
    UnitsError
        When the unit is neither one of voltage nor :data:`~skecg.datasets.packed.STANDARDIZED`.
    """
    with _open(path) as file:
        lacking = [key for key in _NEEDED if key not in file.files]
        if lacking:
            raise DamagedRecordError(f"Got {path} without {', '.join(lacking)}, expected {', '.join(_NEEDED)}.")
        units = str(file["units"])
        columns = {key: file[key] for key in ("record_ids", "patient_ids", "strat_fold") if key in file.files}
        n_records = len(file["signals"])
    # Before anything is packed: a wrong unit would put every record of the file out by a thousand.
    if units != STANDARDIZED and units.strip().lower() not in MILLIVOLTS_PER_UNIT:
        raise UnitsError(f"Got units={units!r} in {path}, expected a unit of voltage or {STANDARDIZED!r}.")
    for key, values in columns.items():
        if len(values) != n_records:
            raise DamagedRecordError(f"Got {len(values)} {key} in {path}, expected one for each of {n_records} rows.")
    kept, left_out = keep_folds_out(_items(name, n_records, columns), kept_out_folds)
    return Corpus(name, kept, ArrayReader(path), left_out, _notes(name, units))


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
    scale = millivolts_a_step(str(arrays["units"]), float(arrays["lsb"]), leads, ratios).astype(np.float32)
    valid = int(arrays["valid_len"][row]) if "valid_len" in arrays else arrays["signals"].shape[-1]
    signal = arrays["signals"][row, :, :valid].astype(np.float32) * scale
    return ECGRecord(signal, float(arrays["fs"]), leads, source)


def _items(name: str, n_records: int, columns: Mapping[str, NDArray[Any]]) -> list[Item]:
    """List all rows."""
    texts = {key: values.tolist() for key, values in columns.items()}
    records = texts.get("record_ids", [""] * n_records)
    patients = texts.get("patient_ids", [""] * n_records)
    folds = texts.get("strat_fold", [UNKNOWN_FOLD] * n_records)
    rows = zip(records, patients, folds, strict=True)
    return [Item(name, f"{record}#{i}", str(patient), int(fold)) for i, (record, patient, fold) in enumerate(rows)]


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
        return {key: file[key] for key in file.files if key in wanted}


def _open(path: Path) -> Any:
    """Open an ``.npz`` without unpickling anything."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordReadError(f"{path} cannot be opened ({type(error).__name__}: {error}). Check the file.") from error
