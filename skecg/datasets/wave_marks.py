"""Waves in MIT-BIH annotation files: brackets around a P wave, QRS complex or T wave, and its peak between them.

References
----------
.. [1] Moody G. et al., WFDB Applications Guide, annot(5), https://www.physionet.org/physiotools/wag/annot-5.htm
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skecg.errors import DamagedRecordError, RecordNotFoundError

__all__ = ["MARK_CODES", "pair_marks", "read_wave_marks"]

# Annotation codes of the format [1].
_ONSET, _OFFSET = 39, 40
_BEATS = {"N": 1, "L": 2, "R": 3, "a": 4, "V": 5, "F": 6, "J": 7, "A": 8, "S": 9, "E": 10, "j": 11, "/": 12, "Q": 13,
          "B": 25, "?": 30, "e": 34, "n": 35, "f": 38, "r": 41}  # fmt: skip
# The peak of a QRS complex is marked by what beat it is of.
_KIND_OF_PEAK = {24: 0, **dict.fromkeys(_BEATS.values(), 1), 27: 2}

#: What marks waves: the symbols of wfdb and their codes in files.
MARK_CODES = {"(": _ONSET, ")": _OFFSET, "p": 24, "t": 27, **_BEATS}
_SKIP, _NUMBER, _SUBTYPE, _CHANNEL, _TEXT = 59, 60, 61, 62, 63


def read_wave_marks(path: Path) -> NDArray[np.int64]:
    """Read the waves of one lead.

    Parameters
    ----------
    path : Path
        A file of annotations.

    Returns
    -------
    ndarray of shape (n_waves, 4), int64
        Onset, peak, offset (sample numbers from 0, -1 where not marked) and kind of wave, in the order of time.

    Raises
    ------
    RecordNotFoundError
        When there is no such file.
    DamagedRecordError
        When it ends in the middle of an annotation.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordNotFoundError(f"There is no file of annotations {str(path)!r}. Download the data set again.") from (
            error
        )
    return pair_marks(list(_marks(content, path)))


def pair_marks(marks: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Make waves of (sample, code) in the order of time: a bracket belongs to the peak right beside it.

    Marks of anything but waves, such as of rhythm or noise, are passed over.
    """
    waves, codes = [], set(MARK_CODES.values())
    marks = [mark for mark in marks if mark[1] in codes]
    for position, (sample, code) in enumerate(marks):
        if code in _KIND_OF_PEAK:
            before = marks[position - 1] if position else (-1, -1)
            after = marks[position + 1] if position + 1 < len(marks) else (-1, -1)
            onset = before[0] if before[1] == _ONSET else -1
            offset = after[0] if after[1] == _OFFSET else -1
            waves.append((onset, sample, offset, _KIND_OF_PEAK[code]))
    return np.array(waves, dtype=np.int64).reshape(-1, 4)


def _marks(content: bytes, path: Path) -> Iterator[tuple[int, int]]:
    """Walk through the words of a file: code in the upper six bits, samples since the last mark in the lower ten."""
    sample, place = 0, 0
    while place + 2 <= len(content):
        word = int.from_bytes(content[place : place + 2], "little")
        code, value = word >> 10, word & 0x3FF
        place += 2
        if word == 0:
            return
        if code == _SKIP:  # four bytes of distance, the upper half first
            if place + 4 > len(content):
                break
            high, low = (int.from_bytes(content[at : at + 2], "little") for at in (place, place + 2))
            sample += (high << 16 | low) - (1 << 32 if high & 0x8000 else 0)
            place += 4
        elif code == _TEXT:
            place += value + value % 2
        elif code not in (_NUMBER, _SUBTYPE, _CHANNEL):
            sample += value
            yield sample, code
    raise DamagedRecordError(
        f"Got {path} without the end of its annotations, expected a whole file. Download the data set again."
    )
