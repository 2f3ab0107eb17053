"""Folders, patterns and names to the records behind them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.errors import ParameterError, RecordNotFoundError, RecordReadError
from skecg.io.wfdb_files import SIGNAL_SUFFIXES, find_header, similar_names
from skecg.io.wfdb_records import read_wfdb_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skecg.io.reading import PathLike

__all__ = ["find_records"]

_WILDCARDS = frozenset("*?[")
# Settings and results are JSON more often than ECGs are; such a file is taken when it is named.
_SELDOM_ECG = frozenset({".json"})


def find_records(paths: PathLike | Iterable[PathLike], *, recursive: bool = True) -> list[Path]:
    """List the records that folders, patterns and names stand for.

    A WFDB record is listed once, by its header; the segments of a record in several parts are not listed beside it.
    In folders and behind patterns whatever is no ECG is passed over, and so are tables in folders, since they do not
    say what they are. A file that is named is listed as it is.

    Parameters
    ----------
    paths : path or iterable of paths
        Folders, glob patterns (``"data/**/*.hea"``), files, and WFDB record names with or without a suffix.
    recursive : bool, default=True
        Whether to look into the folders of folders, and to let ``**`` reach through them.

    Returns
    -------
    list of Path
        Sorted, each record once.

    Raises
    ------
    RecordNotFoundError
        When one of `paths` stands for nothing; the message lists similar names.
    ParameterError
        When `paths` holds anything but paths.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if isinstance(paths, bytes) or not isinstance(paths, Iterable):
        raise ParameterError(f"Got paths={paths!r}, expected a path or a list of paths.")
    found: set[Path] = set()
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise ParameterError(f"Got a path of type {type(path).__name__}, expected str or Path.")
        found.update(_expand(Path(path), recursive))
    return sorted(found)


def _expand(path: Path, recursive: bool) -> set[Path]:
    """List the records that one path stands for."""
    header = find_header(path)
    if header is not None:
        return {header}
    if path.is_dir():
        files = path.rglob("*") if recursive else path.iterdir()
        return _records_among(files, _format_suffixes() - _SELDOM_ECG, f"The folder {str(path)!r}")
    if path.is_file():
        return {path}
    if _WILDCARDS & set(str(path)):
        matches = (Path(match) for match in glob.iglob(str(path), recursive=recursive))  # noqa: PTH207
        return _records_among(matches, _format_suffixes() | _table_suffixes(), f"The pattern {str(path)!r}")
    raise RecordNotFoundError(f"Nothing answers to {str(path)!r}. {similar_names(path)}")


def _records_among(files: Iterable[Path], suffixes: frozenset[str], where: str) -> set[Path]:
    """Keep the records among files: headers for WFDB, the files themselves for all else."""
    headers, others = set(), set()
    for path in files:
        suffix = path.suffix.lower()
        if suffix == ".hea" or suffix in SIGNAL_SUFFIXES:
            header = find_header(path)
            headers |= {header} if header is not None else set()
        elif suffix in suffixes and path.is_file():
            others.add(path)
    records = headers.difference(*map(_segment_headers, headers)) | others
    if not records:
        raise RecordNotFoundError(
            f"{where} holds no recording, expected WFDB headers (.hea) or "
            f"{', '.join(sorted(suffixes))}. Check the path."
        )
    return records


def _segment_headers(header_path: Path) -> Iterator[Path]:
    """Give the headers of a record's segments; a header that cannot be read has none, reading it will say why."""
    try:
        segments = read_wfdb_header(header_path).segments
    except RecordReadError:
        return
    for segment in segments:
        yield header_path.with_name(f"{segment.name}.hea")


def _format_suffixes() -> frozenset[str]:
    from skecg.io.formats import FORMAT_SUFFIXES

    return FORMAT_SUFFIXES


def _table_suffixes() -> frozenset[str]:
    from skecg.io.tables import TABLE_SUFFIXES

    return TABLE_SUFFIXES
