"""The tables that corpora come with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from skecg.errors import DamagedRecordError, RecordNotFoundError

__all__ = ["read_rows", "whole_number"]


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header line, refusing one that lacks some of the columns.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When a column is not there.
    """
    if not path.is_file():
        raise RecordNotFoundError(f"There is no table {str(path)!r}. Give the folder that holds {path.name}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise DamagedRecordError(
                f"Got {path} without the column(s) {', '.join(missing)}, expected {', '.join(columns)}. "
                "Download the table again."
            )
        return list(reader)


def whole_number(text: str) -> str:
    """Write the number of a patient without the fraction that some tables give it ("15709.0")."""
    number, _, fraction = text.strip().partition(".")
    return number if not fraction.strip("0") else text.strip()
