"""What a column of labels is: classes, lists of labels, or numbers; and the target that is made of it.

It follows from the cells: numbers other than 0 and 1 are a quantity, cells with semicolons are lists of labels, and
everything else is classes. Several columns are several labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.tables import LABEL_SEPARATOR, is_number
from skecg.errors import ParameterError
from skecg.evaluation.tasks import Task
from skecg.io.statements import are_grouped
from skecg.validation import check_choice

__all__ = ["CLASSES", "KINDS", "LABELS", "NUMBERS", "Target", "kind_of", "read_target"]

#: Kinds of labels: one class a record, any number of labels a record, a quantity.
CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"
KINDS = (CLASSES, LABELS, NUMBERS)

_YES_NO = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
# More numbers than these are no codes of classes, where of a hundred cells at most fifty are none; beside codes with
# letters, as ICD's V45.01 are beside 427.31, at most five.
_MOST_CODES, _HALF, _FEW = 10, 0.5, 0.05
_CODE = re.compile(r"[A-Za-z]\d[\w.]*")
# More values than this share of the records are names of records, not classes.
_MOST_CLASSES = 0.8


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be predicted.

    Parameters
    ----------
    kind : {"classes", "labels", "numbers"}
    name : str
        The column's, or the columns' with commas between them.
    classes : tuple of str
        Sorted; the labels of an indicator; none of a quantity.
    y : ndarray of shape (n_records,) or (n_records, n_labels)
        Number of the class, int64; an indicator, int8; or the quantity, float64.
    """

    kind: str
    name: str
    classes: tuple[str, ...]
    y: NDArray[Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """What each column of the indicator is called; of two classes, the second."""
        if self.kind != CLASSES or len(self.classes) > 2:
            return self.classes
        # A column "af" of 0 and 1 is about af; a label called "1" would say nothing.
        return (self.name,) if self.classes[1] in ("1", "true", "yes") else self.classes[1:]

    @property
    def indicator(self) -> NDArray[np.int8]:
        """The labels (n_records, n_labels) of classes and lists; of two classes one column, of the second."""
        if self.kind == LABELS:
            return np.asarray(self.y, dtype=np.int8)
        has = self.y[:, None] == np.arange(len(self.classes))
        return (has[:, 1:] if len(self.classes) == 2 else has).astype(np.int8)

    def take(self, rows: NDArray[np.int64]) -> Target:
        """Return the target of some of the records."""
        return Target(self.kind, self.name, self.classes, self.y[rows])

    def task(self) -> Task:
        """Return the labels as evaluations take them."""
        what = {CLASSES: "a class", LABELS: "any number of labels"}[self.kind]
        keep = np.ones(len(self.y), dtype=np.bool_)
        return Task(self.name, f"of the table, {what} a record", self.labels, self.indicator, keep)


def read_target(names: list[str], cells: list[list[str | None]], kind: str | None) -> Target:
    """Read labels as what they are."""
    if kind is not None:
        check_choice("--kind", kind, KINDS)
    if len(names) > 1:
        if kind not in (None, LABELS):
            raise ParameterError(f"Got {len(names)} label columns for kind {kind!r}, expected one column, or labels.")
        columns = [_yes_or_no(name, column) for name, column in zip(names, cells, strict=True)]
        return Target(LABELS, ", ".join(names), tuple(names), np.stack(columns, axis=1))
    texts = [str(cell) for cell in cells[0]]
    if kind is None:
        _check_plain(names[0], texts)
    return _READERS[kind or kind_of(texts)](names[0], texts)


def _check_plain(name: str, texts: list[str]) -> None:
    """Raise for classes that look like numbers that went wrong, or like names of the records."""
    values = set(texts)
    if kind_of(texts) != CLASSES or values <= _YES_NO.keys():
        return
    strange = {value for value in values if not is_number(value.replace(",", ".", 1))}
    n_strange = sum(text in strange for text in texts)
    most = len(texts) * (_FEW if all(map(_CODE.fullmatch, strange)) else _HALF)
    if not strange or (len(values) - len(strange) > _MOST_CODES and n_strange <= most):
        odd = min(strange) if strange else next(text for text in texts if "," in text)
        raise ParameterError(
            f"Got the column {name!r} with {odd!r} among numbers, expected numbers such as 60.5, or classes. Correct "
            f"or empty the cell; or pass --kind {CLASSES}."
        )
    if len(values) > max(_MOST_CODES, _MOST_CLASSES * len(texts)):
        raise ParameterError(
            f"Got the column {name!r} with {len(values)} classes of {len(texts)} records, expected classes that "
            f"several records have. Name another column; or pass --kind {CLASSES}."
        )


def kind_of(texts: Sequence[str]) -> str:
    """Return what the cells of one column are."""
    if any(LABEL_SEPARATOR in text for text in texts):
        return LABELS
    # 0 and 1 are an answer far more often than a quantity; --kind numbers says otherwise.
    return NUMBERS if all(map(is_number, texts)) and not all(text in _YES_NO for text in texts) else CLASSES


def _yes_or_no(name: str, cells: list[str | None]) -> NDArray[np.int8]:
    """Read a column of 0 and 1."""
    strange = sorted({str(cell) for cell in cells if str(cell).lower() not in _YES_NO})
    if strange:
        raise ParameterError(
            f"Got the column {name!r} with {', '.join(map(repr, strange[:3]))}, expected 0 and 1 where several columns "
            "are several labels. Name one --label-column for classes or numbers."
        )
    return np.array([_YES_NO[str(cell).lower()] for cell in cells], dtype=np.int8)


def _read_classes(name: str, texts: list[str]) -> Target:
    # True and true are one answer, written by two programs; other classes keep their case.
    spelt = [text.lower() if text.lower() in _YES_NO else text for text in texts]
    classes, y = np.unique(spelt, return_inverse=True)
    if len(classes) < 2:
        raise ParameterError(f"Got the column {name!r} with one class only, {classes.tolist()}, expected two or more.")
    return Target(CLASSES, name, tuple(classes.tolist()), y.astype(np.int64))


def _read_labels(name: str, texts: list[str]) -> Target:
    listed = [{label for part in text.split(LABEL_SEPARATOR) if (label := part.strip())} for text in texts]
    classes = sorted(set().union(*listed))
    if not classes:
        raise ParameterError(f"Got the column {name!r} without any label, expected some. Name another column.")
    y = np.array([[label in some for label in classes] for some in listed], dtype=np.int8)
    return Target(LABELS, name, tuple(classes), y)


def _read_numbers(name: str, texts: list[str]) -> Target:
    grouped = are_grouped(texts)
    strange = [text for text in texts if not is_number(text) or (grouped and "." in text)]
    if strange:
        raise ParameterError(
            f"Got column {name!r} with {strange[0]!r}, expected numbers such as 60.5 or 1500. Mend it, or omit --kind."
        )
    y = np.array([float(text) for text in texts])
    if np.ptp(y) == 0:
        raise ParameterError(f"Got the column {name!r} with {texts[0]} only, expected two values or more.")
    return Target(NUMBERS, name, (), y)


_READERS = {CLASSES: _read_classes, LABELS: _read_labels, NUMBERS: _read_numbers}
