"""Files to ECGRecords: the only door to wfdb and to the optional format readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skecg.io.folders import find_records
from skecg.io.reading import iter_records, read_record, read_records
from skecg.io.wfdb_signals import from_wfdb

if TYPE_CHECKING:
    from skecg.io.formats import FORMAT_SUFFIXES, read_format
    from skecg.io.tables import TABLE_SUFFIXES, read_table

__all__ = [
    "FORMAT_SUFFIXES",
    "TABLE_SUFFIXES",
    "find_records",
    "from_wfdb",
    "iter_records",
    "read_format",
    "read_record",
    "read_records",
    "read_table",
]


def __getattr__(name: str) -> Any:
    if name in ("FORMAT_SUFFIXES", "read_format"):
        from skecg.io import formats

        return getattr(formats, name)
    if name in ("TABLE_SUFFIXES", "read_table"):
        from skecg.io import tables

        return getattr(tables, name)
    raise AttributeError(f"module 'skecg.io' has no attribute {name!r}")
