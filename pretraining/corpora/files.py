"""Any folder or pattern of files that skecg reads, and Chapman/Ningbo, which is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePath

from pretraining.corpora.corpus import Corpus, FileReader, Item
from skecg.io import find_records

__all__ = ["open_chapman_ningbo", "open_files"]

_WILDCARDS = frozenset("*?[")


def open_files(name: str, source: str | Path) -> Corpus:
    """List whatever :func:`skecg.io.find_records` finds; nothing is known of patients.

    Parameters
    ----------
    name : str
    source : str or Path
        A folder, a glob pattern, or one file.

    Returns
    -------
    Corpus
        Sources are the paths within the folder, or within what precedes the pattern's first wildcard, sorted.
    """
    folder = _anchor(Path(source))
    found = sorted(path.relative_to(folder).as_posix() for path in find_records(source))
    return Corpus(name, tuple(Item(name, path) for path in found), FileReader(folder))


def open_chapman_ningbo(name: str, folder: Path) -> Corpus:
    """List Chapman/Ningbo (``WFDBRecords/NN/NNN``), 45,152 recordings of as many patients [1]_.

    References
    ----------
    .. [1] Zheng J. et al. (2022). A large scale 12-lead electrocardiogram database for arrhythmia study. PhysioNet.
    """
    inner = folder / "WFDBRecords"
    corpus = open_files(name, inner if inner.is_dir() else folder)
    items = tuple(item._replace(patient=PurePath(item.source).stem) for item in corpus.items)
    return dataclasses.replace(corpus, items=items)


def _anchor(source: Path) -> Path:
    """Give the folder that sources are named within."""
    if source.is_dir():
        return source
    parts = source.parts
    fixed = next((i for i, part in enumerate(parts) if _WILDCARDS & set(part)), len(parts) - 1)
    return Path(*parts[:fixed]) if fixed else Path()
