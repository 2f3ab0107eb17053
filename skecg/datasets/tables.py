"""The tables and headers that data sets come with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from skecg.errors import DamagedRecordError, RecordNotFoundError

__all__ = ["comments_of", "number", "read_rows", "sex_of", "whole_number"]

_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


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
    """Give ``"F"``, ``"M"``, or ``""`` for anything else."""
    return _SEXES.get(text.strip().lower(), "")


def comments_of(header: Path) -> list[str]:
    """Give the comments of a WFDB header without their marks."""
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip().lstrip("#").strip() for line in lines if line.strip().startswith("#")]
