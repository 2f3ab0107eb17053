"""The same pipeline as the same bytes: skops names parts after addresses in memory and notes the time of day."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import PurePosixPath
from typing import Any

__all__ = ["canonical"]

_SCHEMA = "schema.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def canonical(content: bytes) -> bytes:
    """Give the parts of a skops file numbers in the order of their mention, and forget when it was written."""
    numbers: dict[str, int] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = _renumbered(json.loads(archive.read(_SCHEMA)), numbers)
        parts = {_renamed(name, numbers): archive.read(name) for name in archive.namelist() if name != _SCHEMA}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, part in sorted({**parts, _SCHEMA: json.dumps(schema, indent=1).encode()}.items()):
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), part, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _renumbered(node: Any, numbers: dict[str, int]) -> Any:
    """Replace addresses within a schema; what users named like this are objects there, neither numbers nor text."""
    if isinstance(node, list):
        return [_renumbered(item, numbers) for item in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__" and isinstance(value, int):
            found[key] = _number(str(value), numbers)
        elif key == "file" and isinstance(value, str):
            found[key] = _renamed(value, numbers)
        else:
            found[key] = _renumbered(value, numbers)
    return found


def _renamed(name: str, numbers: dict[str, int]) -> str:
    path = PurePosixPath(name)
    return f"{_number(path.stem, numbers)}{path.suffix}"


def _number(address: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(address, len(numbers) + 1)
