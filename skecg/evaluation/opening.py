"""From a path to a labelled data set, whatever it is that lies there."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from skecg.datasets.cpsc2018 import CPSC2018, fetch_cpsc2018
from skecg.datasets.labelled import LabelledECGs
from skecg.datasets.packed import read_packed
from skecg.datasets.physionet import Fetching, Source, find_copy
from skecg.datasets.ptbxl import PTBXL, fetch_ptbxl
from skecg.errors import DatasetNotFoundError, ParameterError

__all__ = ["open_dataset"]

# Published evaluations of encoders leave out shorter recordings of CPSC2018.
_CPSC2018_MIN_SECONDS = 10.0
_HIGH_RATE, _LOW_RATE = 500, 100


def open_dataset(path: str | os.PathLike[str], *, sampling_rate: int | None = None) -> LabelledECGs:
    """Open a copy of a data set; nothing is downloaded.

    Parameters
    ----------
    path : path
        The folder of PTB-XL or of CPSC2018, or one that holds it; or a packed ``.npz`` file, or a folder with exactly
        one.
    sampling_rate : {500, 100}, optional
        Which of PTB-XL's two sets of recordings; by default 500 where it is there.

    Returns
    -------
    LabelledECGs
        For CPSC2018 recordings of at least 10 s, with the Challenge's parts ``g1`` to ``g7`` as folds.

    Raises
    ------
    DatasetNotFoundError
        When there is no such path, or nothing known in it.
    ParameterError
        When a folder holds several packed files.
    """
    where = Path(path).expanduser()
    if where.is_file() and where.suffix == ".npz":
        return read_packed(where)
    if not where.is_dir():
        raise DatasetNotFoundError(f"Got {str(where)!r}, which does not exist; expected {_WANTED}. Check the path.")
    if (folder := _copy_of(PTBXL, where)) is not None:
        has_high = (folder / f"records{_HIGH_RATE}").is_dir()
        rate = sampling_rate or (_HIGH_RATE if has_high else _LOW_RATE)
        return fetch_ptbxl(folder, sampling_rate=rate, download_if_missing=False, verbose=0)
    if (folder := _copy_of(CPSC2018, where)) is not None:
        found = fetch_cpsc2018(folder, min_seconds=_CPSC2018_MIN_SECONDS, download_if_missing=False, verbose=0)
        return replace(found, folds=np.array([_part(name) for name in found.record_ids], dtype=np.int64))
    return _only_packed(where)


_WANTED = (
    "the folder of PTB-XL (with ptbxl_database.csv) or of CPSC2018 (with g1 to g7), or a packed .npz file of records "
    "with labels"
)


def _copy_of(source: Source, where: Path) -> Path | None:
    """Find the folder of a copy, in a folder or below it."""
    folder = find_copy(source, where, Fetching(download_if_missing=False, verbose=0)).folder
    return folder if any(next(folder.glob(sign), None) is not None for sign in source.signs) else None


def _part(record_id: str) -> int:
    """Give the number of the Challenge's part, 0 where the copy does not say."""
    found = re.match(r"g(\d+)/", record_id)
    return int(found[1]) if found else 0


def _only_packed(where: Path) -> LabelledECGs:
    packed = sorted(where.glob("*.npz"))
    if len(packed) > 1:
        names = ", ".join(path.name for path in packed[:6])
        raise ParameterError(
            f"Got {str(where)!r} with {len(packed)} packed files ({names}), expected one. Name the file."
        )
    if not packed:
        names = ", ".join(sorted(path.name for path in where.iterdir())[:6]) or "nothing"
        raise DatasetNotFoundError(
            f"Got {str(where)!r}, which holds {names}; expected {_WANTED}. skecg.datasets.fetch_ptbxl downloads PTB-XL."
        )
    return read_packed(packed[0])
