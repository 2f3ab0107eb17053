"""Files to ECGRecords: the only door to wfdb and to the optional format readers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skecg.io.folders import find_records
    from skecg.io.formats import FORMAT_SUFFIXES, read_format
    from skecg.io.reading import iter_records, read_record, read_records
    from skecg.io.tables import TABLE_SUFFIXES, read_table
    from skecg.io.wfdb_signals import from_wfdb

# Resolved on first use: files are written, and help is shown, without what reads recordings.
_HOMES = {
    "FORMAT_SUFFIXES": "formats",
    "TABLE_SUFFIXES": "tables",
    "find_records": "folders",
    "from_wfdb": "wfdb_signals",
    "iter_records": "reading",
    "read_format": "formats",
    "read_record": "reading",
    "read_records": "reading",
    "read_table": "tables",
}

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
    if name not in _HOMES:
        raise AttributeError(f"module 'skecg.io' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skecg.io.{_HOMES[name]}"), name)
