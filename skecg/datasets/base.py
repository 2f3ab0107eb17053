"""LabelledECGs, recordings of a public data set and what is known of each; and how such sets' tables are read."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.annotations import Waves
from skecg.errors import DamagedRecordError, ParameterError, RecordNotFoundError

__all__ = ["LabelledECGs", "comments_of", "number", "read_rows", "sex_of", "whole_number"]

_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


@dataclass(frozen=True, eq=False)
class LabelledECGs:
    """Recordings, and what is known of each of them.

    All sequences have one entry a recording, in the same order.

    Parameters
    ----------
    name : str
        What the data set is called: ``"ptbxl"``, ``"cpsc2018"``, ``"ludb"``, or the stem of a packed file.
    records : sequence or ndarray of shape (n_records, n_leads, n_samples)
        What :meth:`skecg.JEPAEmbedder.transform` takes: paths (read when they are embedded), a sequence that makes an
        ECGRecord of a file when it is asked for one, or an array.
    sampling_rate : float or None
        Samples a second (Hz) of an array; None where the records carry their own.
    leads : tuple of str or None
        Leads of an array; None where the records carry their own.
    codes : tuple of mapping
        Statements on each recording, with their likelihood in per cent: 100 in data sets that know none, and in PTB-XL
        0 where the annotators gave none, which says that the statement was made and nothing else.
    patients : ndarray of shape (n_records,), str
        Whose recording it is. Where a data set does not say, each recording is a patient of its own.
    folds : ndarray of shape (n_records,), int64
        Folds that the data set comes with, 0 where it has none.
    sexes : ndarray of shape (n_records,), str
        ``"F"``, ``"M"``, or ``""`` where it is not known.
    ages : ndarray of shape (n_records,), float64
        In years, NaN where it is not known.
    licence, citation : str
        Of the data set, not of skecg.
    folder : Path
        Where it lies.
    waves : callable or None, default=None
        Gives the annotated waves of the recording at a position (``waves(3)``), reading them when it is called; None
        where there are none.
    record_ids : ndarray of shape (n_records,), str, optional
        What the data set calls each recording; by default its position.
    units : str, default="mV"
        Of an array, and of files that do not say theirs.

    Raises
    ------
    ParameterError
        When a sequence does not have one entry a recording.
    """

    name: str
    records: Sequence[Any] | NDArray[Any]
    sampling_rate: float | None
    leads: tuple[str, ...] | None
    codes: tuple[Mapping[str, float], ...]
    patients: NDArray[np.str_]
    folds: NDArray[np.int64]
    sexes: NDArray[np.str_]
    ages: NDArray[np.float64]
    licence: str
    citation: str
    folder: Path
    waves: Callable[[int], Waves] | None = None
    record_ids: NDArray[np.str_] = field(default_factory=lambda: np.array([], dtype=str))
    units: str = "mV"

    def __post_init__(self) -> None:
        if not len(self.record_ids):
            object.__setattr__(self, "record_ids", np.arange(len(self.records)).astype(str))
        for name in ("codes", "patients", "folds", "sexes", "ages", "record_ids"):
            if len(getattr(self, name)) != len(self.records):
                raise ParameterError(
                    f"Got {len(getattr(self, name))} {name} for {len(self.records)} records of {self.name!r}, expected "
                    "one for each."
                )

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        n_patients, n_codes = len(np.unique(self.patients)), len({code for codes in self.codes for code in codes})
        return f"LabelledECGs({self.name!r}: {len(self)} records of {n_patients} patients, {n_codes} statements)"

    def select(self, indices: ArrayLike) -> LabelledECGs:
        """Return some of the recordings, in the order asked for; nothing is read.

        Parameters
        ----------
        indices : array-like of int or of bool, or slice
            As NumPy takes them.

        Returns
        -------
        LabelledECGs
        """
        rows = _rows(indices, len(self))
        return replace(
            self,
            records=_take(self.records, rows),
            codes=tuple(self.codes[row] for row in rows),
            patients=self.patients[rows],
            folds=self.folds[rows],
            sexes=self.sexes[rows],
            ages=self.ages[rows],
            record_ids=self.record_ids[rows],
            waves=None if self.waves is None else _SomeWaves(self.waves, rows),
        )


@dataclass(frozen=True, eq=False)
class _SomeWaves:
    """The waves of chosen recordings, by their new positions."""

    waves: Callable[[int], Waves]
    rows: NDArray[np.int64]

    def __call__(self, row: int) -> Waves:
        return self.waves(int(self.rows[row]))


def _rows(indices: Any, n_records: int) -> NDArray[np.int64]:
    """Turn an index or a mask into row numbers."""
    if not isinstance(indices, slice):
        # An empty list would become floats, which are no indices.
        indices = np.asarray(indices, dtype=None if np.size(indices) else np.int64)
    try:
        rows: NDArray[np.int64] = np.arange(n_records)[indices]
    except IndexError as error:
        raise ParameterError(
            f"Got indices that do not fit {n_records} records ({error}), expected row numbers from 0 or one boolean a "
            "record."
        ) from error
    if rows.ndim != 1:
        raise ParameterError(f"Got indices of shape {np.shape(indices)}, expected one dimension: [i] for one record.")
    return rows


def _take(records: Any, rows: NDArray[np.int64]) -> Any:
    """Choose records without reading any."""
    if isinstance(records, np.ndarray):
        return records[rows]
    if hasattr(records, "take"):
        return records.take(rows)
    return [records[row] for row in rows]


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a line of names, refusing one that lacks some of the columns.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When a column is not there, or a row is cut short.
    """
    if not path.is_file():
        raise RecordNotFoundError(f"There is no table {str(path)!r}. Give the folder that holds {path.name}.")
    # utf-8-sig: tables that went through a spreadsheet begin with a byte order mark.
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            raise DamagedRecordError(
                f"Got {path} without the column(s) {', '.join(lacking)}, expected {', '.join(columns)}. "
                "Download the table again."
            )
        return list(reader)


def number(text: str) -> float:
    """Read a number, NaN where there is none; ``>89`` becomes 90, as for everybody whose age is kept secret."""
    bare = text.strip()
    try:
        return float(bare[1:]) + 1.0 if bare.startswith(">") else float(bare)
    except ValueError:
        return float("nan")


def whole_number(text: str) -> str:
    """Write an identifier without the fraction that some tables give it ("15709.0")."""
    whole, _, fraction = text.strip().partition(".")
    return whole if not fraction.strip("0") else text.strip()


def sex_of(text: str) -> str:
    """Return ``"F"``, ``"M"``, or ``""`` for anything else."""
    return _SEXES.get(text.strip().lower(), "")


def comments_of(header: Path) -> list[str]:
    """Return the comments of a WFDB header without their marks."""
    # Comments of old archives are in any encoding, and only some of their words are looked at.
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip().lstrip("#").strip() for line in lines if line.strip().startswith("#")]
