"""Packed files: an ``.npz`` of many recordings, their labels and, where they are marked, their waves.

For samples that are small enough to be one file. Keys that are needed are ``signals`` (n_records, n_leads, n_samples)
of integers with ``lsb`` (size of one step), ``units`` and ``fs`` (Hz), and ``leads`` (n_leads,) or
(n_records, n_leads). How large a step is can be told also where each lead was divided by its own standard deviation.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.annotations import Waves
from skecg.datasets.base import LabelledECGs, number, sex_of
from skecg.errors import DamagedRecordError, ParameterError, RecordNotFoundError, UnitsError
from skecg.leads import LIMB_COEFFICIENTS, canonical_leads
from skecg.preprocessing.units import STANDARDIZED, TYPICAL_MV
from skecg.records import ECGRecord, millivolts_per_unit
from skecg.validation import check_number

__all__ = [
    "NEEDED_KEYS",
    "STANDARDIZED",
    "TYPICAL_MV",
    "checked_arrays",
    "join_datasets",
    "millivolts_a_step",
    "read_packed",
]

#: The keys that every packed file has.
NEEDED_KEYS = ("signals", "lsb", "units", "fs", "leads")

# Columns of PTB-XL's labels, with what their entries begin with in `codes`.
_PTBXL_COLUMNS = {"super_class": "super:", "sub_class": "sub:", "form": "form:", "rhythm": "rhythm:"}

# What there may be with a value a recording, beside `limb_sigma_rel`, which has six.
_COLUMNS = ("record_ids", "patient_ids", "strat_fold", "age", "sex", "labels", "valid_len", *_PTBXL_COLUMNS)

# What a patient that is not known becomes when a column is saved.
_NOBODY = ["", "nan", "none", "<na>", "nat"]

_LARGEST_FOLD = 2**15 - 1  # shards hold folds in 16 bits

# Names that packed files write without the underscore of PTB-XL.
_PTBXL_NAMES = {"sub:NST": "sub:NST_", "sub:ISC": "sub:ISC_", "sub:AVB": "sub:_AVB", "form:NST": "form:NST_"}

_PTBXL_NAMES |= {"form:STE": "form:STE_"}

Arrays = Mapping[str, NDArray[Any]]


def millivolts_a_step(units: str, lsb: float, leads: Sequence[str], limb_ratios: Any = None) -> NDArray[np.float64]:
    """Return how many millivolts one step of each lead is.

    Parameters
    ----------
    units : str
        A unit of voltage, or :data:`STANDARDIZED`.
    lsb : float
        Size of one step in that unit.
    leads : sequence of str of length n_leads
        Canonical names.
    limb_ratios : array-like of shape (6,), optional
        The limb leads' standard deviations over that of one of them, in canonical order, where they are known.

    Returns
    -------
    ndarray of shape (n_leads, 1), float64
        A standardized lead is given the standard deviation that is typical of it (:data:`TYPICAL_MV`); limb leads the
        typical one of the six together, shared out by their ratios.

    Raises
    ------
    UnitsError
        When the unit is neither.
    """
    if units != STANDARDIZED:
        factor = millivolts_per_unit(units)
        if factor is None:
            raise UnitsError(f"Got units={units!r}, expected a unit of voltage or {STANDARDIZED!r}.")
        return np.full((len(leads), 1), lsb * factor)
    ratios = np.ones(6) if limb_ratios is None else np.asarray(limb_ratios, dtype=np.float64)
    limb = ratios / np.sqrt(np.square(ratios).mean()) * TYPICAL_MV["limb"]
    typical = {**TYPICAL_MV, **dict(zip(LIMB_COEFFICIENTS, limb, strict=True))}
    return np.array([[lsb * typical.get(lead, TYPICAL_MV["limb"])] for lead in leads])


def read_packed(path: str | os.PathLike[str]) -> LabelledECGs:
    """Read a packed file.

    Parameters
    ----------
    path : path
        Of an ``.npz`` file with the keys ``signals``, ``lsb``, ``units``, ``fs`` and ``leads``. Those of one entry a
        recording that are used where they are there: ``record_ids``, ``patient_ids``, ``strat_fold``, ``age``, ``sex``,
        ``labels``; ``super_class``, ``sub_class``, ``form`` and ``rhythm`` of PTB-XL; ``valid_len``, behind which a
        recording is padding; ``limb_sigma_rel``. And ``waves`` with ``waves_columns``, ``licence``, ``citation``.

    Returns
    -------
    LabelledECGs
        `records` are one array in mV, or ECGRecords where recordings differ in length or leads. Pieces of one recording
        have the same patient.

        `codes` have likelihood 100. They are the ``labels``, which commas or bars separate; in a file with PTB-XL's
        columns, those instead, with the column's name before each entry: ``"super:MI"``, ``"sub:IMI"``,
        ``"form:QWAVE"``, ``"rhythm:SR"``, in PTB-XL's own spelling (``"sub:_AVB"``, ``"sub:NST_"``). Such files do not
        store the 44 diagnostic statements themselves.

        In recordings in units of ``"per-lead standard deviation"`` each lead is given the deviation that is typical of
        it (0.12 to 0.26 mV), and limb leads the ratios among them that ``limb_sigma_rel`` tells: Einthoven's law holds
        as far as the file keeps it. The sizes of the chest leads and of whole recordings are not known.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When it is no packed file, or its arrays do not fit together.
    UnitsError
        When the unit is neither one of voltage nor ``"per-lead standard deviation"``.
    """
    path = Path(path)
    arrays = _load(path)
    n_records = len(arrays["signals"])
    ids = _texts(arrays, "record_ids", np.arange(n_records).astype(str))
    records, leads, rate = _records(arrays, ids)
    patients = _texts(arrays, "patient_ids", ids)
    ages = _texts(arrays, "age", np.full(n_records, "", dtype=str))
    sexes = _texts(arrays, "sex", np.full(n_records, "", dtype=str))
    return LabelledECGs(
        name=path.stem,
        records=records,
        sampling_rate=rate,
        leads=leads,
        codes=_codes(arrays, n_records),
        # A recording without a patient is one of its own, as everywhere.
        patients=np.where(patients == "", ids, patients),
        folds=np.maximum(arrays.get("strat_fold", np.zeros(n_records, dtype=np.int64)), 0),
        sexes=np.array([sex_of(str(sex)) for sex in sexes], dtype=str),
        ages=np.array([number(str(age)) for age in ages], dtype=np.float64),
        licence=str(arrays.get("licence", "")),
        citation=str(arrays.get("citation", "")),
        folder=path.parent,
        waves=_waves(arrays, ids, path),
        record_ids=ids,
    )


def join_datasets(parts: Sequence[LabelledECGs]) -> LabelledECGs:
    """Join parts of one archive that lie in several files, such as the folds of PTB-XL.

    Patients of the same name are the same person, in whatever file they are.

    Parameters
    ----------
    parts : sequence of LabelledECGs
        Of arrays of the same leads, rate and length, or of records that carry their own.

    Returns
    -------
    LabelledECGs
        All recordings, in the order of the parts.

    Raises
    ------
    ParameterError
        When there is no part, the parts' arrays differ in shape, or a recording is in two of them.
    """
    if not parts:
        raise ParameterError("Got no data sets to join, expected at least one.")
    first = parts[0]
    if len(parts) == 1:
        return first
    shapes = {(part.leads, part.sampling_rate, np.shape(part.records)[1:] if part.leads else ()) for part in parts}
    if len(shapes) > 1:
        described = "; ".join(f"{part.name!r}: {part.leads} at {part.sampling_rate} Hz" for part in parts)
        raise ParameterError(
            f"Got parts of different leads, rate or length ({described}), expected the same in all. Evaluate each "
            "by itself."
        )
    # Pieces of one recording have one name, so that a name may come several times in one part, but in no other.
    ids, counts = np.unique(np.concatenate([np.unique(part.record_ids) for part in parts]), return_counts=True)
    if counts.max() > 1:
        raise ParameterError(
            f"Got recording {str(ids[counts.argmax()])!r} in more than one of {', '.join(p.name for p in parts)}, "
            "expected each once: tests would be trained on. Leave out the file that repeats it."
        )
    records: Any = (
        np.concatenate([np.asarray(part.records) for part in parts])
        if first.leads
        else [record for part in parts for record in part.records]
    )
    return LabelledECGs(
        name=" + ".join(part.name for part in parts),
        records=records,
        sampling_rate=first.sampling_rate,
        leads=first.leads,
        codes=tuple(codes for part in parts for codes in part.codes),
        patients=np.concatenate([part.patients for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        sexes=np.concatenate([part.sexes for part in parts]),
        ages=np.concatenate([part.ages for part in parts]),
        licence="; ".join(dict.fromkeys(part.licence for part in parts if part.licence)),
        citation="; ".join(dict.fromkeys(part.citation for part in parts if part.citation)),
        folder=first.folder,
        record_ids=np.concatenate([part.record_ids for part in parts]),
    )


def _load(path: Path) -> Arrays:
    """Load all arrays without unpickling anything, and see that they fit together."""
    if not path.is_file():
        raise RecordNotFoundError(f"There is no packed file {str(path)!r}. Check the path.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            # An .npy, which is a single array, has no names.
            arrays = {key: loaded[key] for key in getattr(loaded, "files", ())}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedRecordError(
            f"{path} could not be read as a packed file ({type(error).__name__}): it is truncated, another format, or "
            "holds Python objects, which are never unpickled. Copy the file again."
        ) from error
    arrays = checked_arrays(arrays, path)
    if not len(arrays["signals"]):
        raise DamagedRecordError(f"Got no recordings in {path}, expected at least one.")
    return arrays


def checked_arrays(arrays: Arrays, path: Path) -> dict[str, NDArray[Any]]:
    """Check that arrays are those of a packed file and fit together.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    path : Path
        For messages.

    Returns
    -------
    dict of str to ndarray
        The same, bytes as text, lengths and folds as integers, and patients that are not known as ``""``: one patient
        of whom nothing is known would be all of them.

    Raises
    ------
    DamagedRecordError
        When keys are missing, of another shape than :func:`read_packed` says, or hold no numbers where it says so.
    UnitsError
        When the unit is neither one of voltage nor :data:`STANDARDIZED`.
    """
    lacking = [key for key in NEEDED_KEYS if key not in arrays]
    if lacking:
        raise DamagedRecordError(f"Got {path} without {', '.join(lacking)}, expected {', '.join(NEEDED_KEYS)}.")
    checked = {key: _decoded(values) for key, values in arrays.items()}
    _check_shapes(checked, path)
    # Before anything is made of the signals: a wrong unit would put every recording out by a thousand.
    units = checked["units"].item()
    if units != STANDARDIZED and millivolts_per_unit(units) is None:
        raise UnitsError(f"Got units={units!r} in {path}, expected a unit of voltage or {STANDARDIZED!r}.")
    for key in [key for key in ("lsb", "fs", "waves_fs") if key in checked]:
        check_number(f"{path}: {key}", checked[key].item(), 0, error=DamagedRecordError)
    limits = {"valid_len": (0, checked["signals"].shape[-1]), "strat_fold": (-_LARGEST_FOLD, _LARGEST_FOLD)}
    checked |= {key: _whole_numbers(checked[key], key, *limits[key], path) for key in limits if key in checked}
    if "patient_ids" in checked:
        patients = checked["patient_ids"].astype(str)
        checked["patient_ids"] = np.where(np.isin(np.char.lower(np.char.strip(patients)), _NOBODY), "", patients)
    return checked


def _decoded(values: NDArray[Any]) -> NDArray[Any]:
    """Return bytes as text, and anything else as it is: str() would write b'II'."""
    return np.asarray(np.char.decode(values, "utf-8", "backslashreplace")) if values.dtype.kind == "S" else values


def _check_shapes(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Raise unless there is one value for all recordings or one each, and a name for every row of a signal."""
    signals = arrays["signals"]
    if signals.ndim != 3 or signals.dtype.kind not in "iufb":
        raise DamagedRecordError(
            f"Got signals of shape {signals.shape} and type {signals.dtype} in {path}, expected numbers (n_records, "
            "n_leads, n_samples). Write those of one lead as signals[:, None]."
        )
    n_records, n_leads, _ = signals.shape
    for key in ("lsb", "units", "fs", "waves_fs"):
        if key in arrays and arrays[key].size != 1:
            raise DamagedRecordError(
                f"Got {key} of shape {arrays[key].shape} in {path}, expected one value for all recordings. Write a "
                "file for each value."
            )
    names = np.atleast_1d(arrays["leads"])
    arrays["leads"] = names[0] if names.shape == (1, n_leads) else names
    if arrays["leads"].shape not in ((n_leads,), (n_records, n_leads)):
        raise DamagedRecordError(
            f"Got leads of shape {arrays['leads'].shape} in {path}, expected ({n_leads},) or ({n_records}, {n_leads}): "
            "a name for every row of a signal."
        )
    shapes = dict.fromkeys(_COLUMNS, (n_records,)) | {"limb_sigma_rel": (n_records, len(LIMB_COEFFICIENTS))}
    for key, shape in shapes.items():
        if key in arrays and arrays[key].shape != shape:
            raise DamagedRecordError(
                f"Got {key} of shape {arrays[key].shape} in {path}, expected {shape}, one for each of {n_records} "
                "records."
            )


def _whole_numbers(values: NDArray[Any], key: str, low: int, high: int, path: Path) -> NDArray[np.int64]:
    """Return whole numbers, of whatever type they were saved in; raise where one is none, or not between two."""
    numbers = np.array([number(str(value)) for value in values], dtype=np.float64)
    odd = np.flatnonzero(~((numbers == np.rint(numbers)) & (low <= numbers) & (numbers <= high)))
    if odd.size:
        raise DamagedRecordError(
            f"Got {key} {values[odd[0]].item()!r} in {path}, expected whole numbers from {low} to {high}"
            f"{', -1 for a recording that is in no fold' if low < 0 else ''}."
        )
    return numbers.astype(np.int64)


def _texts(arrays: Arrays, key: str, otherwise: NDArray[np.str_]) -> NDArray[np.str_]:
    return np.asarray(arrays[key]).astype(str) if key in arrays else otherwise


def _records(
    arrays: Arrays, ids: NDArray[np.str_]
) -> tuple[NDArray[np.float32] | list[ECGRecord], tuple[str, ...] | None, float | None]:
    """Return signals as one array with its leads and rate, or as records that know theirs."""
    signals, rate = _millivolts(arrays), float(arrays["fs"].item())
    lengths = arrays.get("valid_len", np.full(len(signals), signals.shape[-1]))
    if arrays["leads"].ndim == 1 and np.all(lengths == signals.shape[-1]):
        return signals, _leads(arrays["leads"]), rate
    rows = np.broadcast_to(arrays["leads"], signals.shape[:2])
    return (
        [
            ECGRecord(signal[:, :length], rate, _leads(leads), str(name))
            for signal, length, leads, name in zip(signals, lengths, rows, ids, strict=True)
        ],
        None,
        None,
    )


def _leads(names: NDArray[Any]) -> tuple[str, ...]:
    """Return canonical names, without what a file adds in parentheses."""
    return canonical_leads([str(name).partition("(")[0].strip() for name in names])


def _millivolts(arrays: Arrays) -> NDArray[np.float32]:
    """Scale the steps, shape (n_records, n_leads, n_samples)."""
    units, lsb = arrays["units"].item(), float(arrays["lsb"].item())
    shape = arrays["signals"].shape
    leads = [_leads(row) for row in np.broadcast_to(arrays["leads"], shape[:2])]
    ratios = arrays["limb_sigma_rel"] if "limb_sigma_rel" in arrays else [None] * shape[0]
    steps = [millivolts_a_step(units, lsb, *of_row) for of_row in zip(leads, ratios, strict=True)]
    signals = np.empty(shape, dtype=np.float32)
    # Computed in float64 and rounded once, without a float64 copy of all signals.
    return np.multiply(arrays["signals"], np.stack(steps), out=signals, dtype=np.float64, casting="same_kind")


def _codes(arrays: Arrays, n_records: int) -> tuple[Mapping[str, float], ...]:
    """Read the statements on each recording."""
    columns = {key: prefix for key, prefix in _PTBXL_COLUMNS.items() if key in arrays}
    if columns:
        found = [[p + name for key, p in columns.items() for name in _split(arrays[key][i])] for i in range(n_records)]
        return tuple({_PTBXL_NAMES.get(name, name): 100.0 for name in names} for names in found)
    labels = arrays.get("labels", np.full(n_records, "", dtype=str))
    return tuple({name: 100.0 for name in _split(label) if not name.startswith("<")} for label in labels)


def _split(label: Any) -> list[str]:
    """Take labels apart: at bars, else at commas and semicolons."""
    text = str(label)
    # Where bars separate labels, commas may be part of one.
    names = text.split("|") if "|" in text else re.split(r"[,;]", text)
    return [bare for name in names if (bare := name.strip().rstrip(". "))]


@dataclass(frozen=True, eq=False)
class _PackedWaves:
    """The waves of one file, by position of the recording."""

    tables: tuple[tuple[NDArray[np.int64], ...], ...]
    leads: tuple[tuple[str, ...], ...]
    sampling_rate: float

    def __call__(self, row: int) -> Waves:
        return Waves(self.sampling_rate, self.leads[row], self.tables[row])


def _waves(arrays: Arrays, ids: Sequence[str] | NDArray[np.str_], path: Path) -> _PackedWaves | None:
    """Sort marked waves by recording and lead.

    The first column tells the recording, by position (``record_index``) or by what it is called (``record``); the
    second the lead, or whoever looked at all leads at once, of whom the first is believed.
    """
    if "waves" not in arrays or "waves_columns" not in arrays:
        return None
    names = [str(name).partition("(")[0] for name in arrays["waves_columns"]]
    waves = np.asarray(arrays["waves"], dtype=np.int64)
    if names[2:] != ["type", "onset", "peak", "offset"] or waves.ndim != 2 or waves.shape[1] != len(names):
        raise DamagedRecordError(
            f"Got waves with columns {names} in {path}, expected recording, lead_index or annotator, type, onset, peak "
            "and offset."
        )
    owners = np.arange(len(ids)).astype(str) if names[0] == "record_index" else np.asarray(ids)
    leads = [_leads(row) for row in np.broadcast_to(arrays["leads"], arrays["signals"].shape[:2])]
    by_owner = _grouped(waves, 0)
    tables = []
    for owner, of_record in zip(owners, leads, strict=True):
        by_lead = _grouped(by_owner.get(int(owner), waves[:0]), 1)
        # Who looked at all leads at once marked the same waves for each.
        numbers = range(len(of_record)) if names[1] == "lead_index" else [0] * len(of_record)
        tables.append(tuple(by_lead.get(lead, waves[:0])[:, [3, 4, 5, 2]] for lead in numbers))
    return _PackedWaves(tuple(tables), tuple(leads), float(arrays.get("waves_fs", arrays["fs"]).item()))


def _grouped(waves: NDArray[np.int64], column: int) -> dict[int, NDArray[np.int64]]:
    """Split rows by a column, each group in the order of peaks."""
    ordered = waves[np.lexsort((waves[:, 4], waves[:, column]))]
    values, starts = np.unique(ordered[:, column], return_index=True)
    return dict(zip(values.tolist(), np.split(ordered, starts[1:]), strict=False)) if len(values) else {}
