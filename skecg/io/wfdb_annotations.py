"""Annotations of waves as WFDB files, written by wfdb."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skecg.errors import ParameterError
from skecg.io.wfdb_records import import_wfdb

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["make_annotation", "write_annotation"]

_RECORD_NAME, _ANNOTATOR = re.compile(r"[-\w]+", re.ASCII), re.compile(r"[a-zA-Z]+")


def make_annotation(
    name: str, annotator: str, samples: NDArray[np.int64], symbols: Sequence[str], sampling_rate: float
) -> Any:
    """Make a ``wfdb.Annotation``.

    Parameters
    ----------
    name, annotator : str
        The record, and the suffix of the file.
    samples : ndarray of shape (n_annotations,), int64
        Ascending.
    symbols : sequence of str
        One for each.
    sampling_rate : float
        Of the record (Hz).
    """
    return import_wfdb().Annotation(
        record_name=name, extension=annotator, sample=samples, symbol=list(symbols), fs=_plain_rate(sampling_rate)
    )


def write_annotation(path: Path, samples: NDArray[np.int64], symbols: Sequence[str], sampling_rate: float) -> None:
    """Write annotations as ``wfdb.rdann`` and PhysioNet's tools read them; the folder is created when absent.

    Parameters
    ----------
    path : Path
        The record's name, with the annotator as its suffix.
    samples, symbols, sampling_rate
        As in :func:`make_annotation`, but at least one.

    Raises
    ------
    ParameterError
        When WFDB allows no such name, or there is nothing to write.
    """
    annotator = path.suffix[1:]
    if not _RECORD_NAME.fullmatch(path.stem) or not _ANNOTATOR.fullmatch(annotator):
        raise ParameterError(
            f"Got {str(path)!r} as a file of annotations, expected the record's name (letters, digits, - and _), a dot "
            "and the annotator (letters), such as 'rec1.waves'."
        )
    if not len(samples):
        raise ParameterError(f"Got no annotations for {str(path)!r}, expected one or more: WFDB has no empty file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    import_wfdb().wrann(
        path.stem, annotator, samples, list(symbols), fs=_plain_rate(sampling_rate), write_dir=str(path.parent)
    )


def _plain_rate(sampling_rate: float) -> float | int:
    """Give a whole rate as an int: wfdb writes it as it prints."""
    return int(sampling_rate) if float(sampling_rate).is_integer() else float(sampling_rate)
