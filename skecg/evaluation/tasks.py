"""Tasks: which labels a recording has, by the rules of the literature; and the data sets that have them.

PTB-XL's tasks are those of its benchmark: a recording has every statement that its annotation names, whatever its
likelihood (0, which stands for "not given", included); statements are kept by the flags of PTB-XL's table
(diagnostic, form, rhythm) or mapped to their diagnostic class or subclass; recordings without any label of the task are
left out; no class is dropped for being rare.

References
----------
.. [1] Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7:154.
.. [2] Strodthoff N. et al. (2021). Deep learning for ECG analysis: benchmarks and insights from PTB-XL. IEEE Journal of
       Biomedical and Health Informatics 25:1519.
.. [3] Liu F. et al. (2018). An open access database for evaluating the algorithms of electrocardiogram rhythm and
       morphology abnormality detection. Journal of Medical Imaging and Health Informatics 8:1368.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.base import LabelledECGs
from skecg.datasets.cpsc2018 import CPSC2018, fetch_cpsc2018
from skecg.datasets.ecgbench import read_ecgbench
from skecg.datasets.packed import read_packed
from skecg.datasets.physionet import Fetching, Source, find_copy
from skecg.datasets.ptbxl import PTBXL, fetch_ptbxl
from skecg.datasets.tables import is_table, read_label_table
from skecg.errors import DatasetNotFoundError, ParameterError

if TYPE_CHECKING:
    from skecg.datasets.base import LabelledECGs

__all__ = [
    "CPSC2018_TASKS",
    "OWN_LABELS",
    "PTBXL_TASKS",
    "TASKS",
    "Task",
    "TaskRule",
    "check_task",
    "make_task",
    "open_dataset",
    "task_labels",
]

_STATEMENTS = Path(__file__).with_name("scp_statements.csv")

# The nine classes of CPSC2018 by the numbers of its own table and by SNOMED CT, in the order of the numbers.
_CPSC2018 = {
    "Normal": ("1", "426783006"),
    "AF": ("2", "164889003"),
    "I-AVB": ("3", "270492004"),
    "LBBB": ("4", "164909002"),
    "RBBB": ("5", "59118001"),
    "PAC": ("6", "284470004"),
    "PVC": ("7", "164884008"),
    "STD": ("8", "429622005"),
    "STE": ("9", "164931005"),
}

#: Names of PTB-XL's tasks.
PTBXL_TASKS = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm", "superclass-single")

#: Names of CPSC2018's tasks.
CPSC2018_TASKS = ("cpsc2018",)

#: The task of labels that are anybody's own: each one is a class.
OWN_LABELS = "labels"

#: Names of all tasks on public data sets.
TASKS = PTBXL_TASKS + CPSC2018_TASKS

# Published evaluations of encoders leave out shorter recordings of CPSC2018.
_CPSC2018_MIN_SECONDS = 10.0

_HIGH_RATE, _LOW_RATE = 500, 100

_WANTED = (
    "the folder of PTB-XL (with ptbxl_database.csv) or of CPSC2018 (with g1 to g7), a packed .npz file of records "
    "with labels, or a table of them (.csv)"
)


@dataclass(frozen=True)
class TaskRule:
    """How a task's labels follow from statements.

    Parameters
    ----------
    name : str
    rule : str
        In words, for reports.
    classes : tuple of str
        In alphabetical order for PTB-XL (that of the benchmark's binarizer).
    class_of : mapping of str to str
        Statement to class; statements that are not in it do not count.
    single : bool, default=False
        Whether recordings with more than one of the classes are left out.
    """

    name: str
    rule: str
    classes: tuple[str, ...]
    class_of: Mapping[str, str]
    single: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """Labels of recordings.

    Parameters
    ----------
    name : str
    rule : str
        How they were made, in words.
    classes : tuple of str
    labels : ndarray of shape (n_records, n_classes), int8
        Ones for the classes that a recording has.
    keep : ndarray of shape (n_records,), bool
        Recordings that are part of the task.
    """

    name: str
    rule: str
    classes: tuple[str, ...]
    labels: NDArray[np.int8]
    keep: NDArray[np.bool_]


def task_labels(dataset: LabelledECGs, name: str) -> Task:
    """Return the labels of a data set's recordings in a task.

    Parameters
    ----------
    dataset : LabelledECGs
        Its `codes` are read, nothing else.
    name : str
        One of :data:`TASKS`, or ``"labels"``: each label that is found is a class.

    Returns
    -------
    Task

    Raises
    ------
    ParameterError
        When there is no such task, or the data set's statements are not those that it needs.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> recordings = SimpleNamespace(name="two", codes=[{"IMI": 100.0, "SR": 0.0}, {"NORM": 80.0}])
    >>> task = task_labels(recordings, "superdiagnostic")
    >>> task.classes, task.labels.tolist()
    (('CD', 'HYP', 'MI', 'NORM', 'STTC'), [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
    """
    return make_task(dataset.codes, name, dataset.name)


def make_task(codes: Sequence[Mapping[str, float]], name: str, of: str = "the data") -> Task:
    """Return the labels of recordings by their statements; as :func:`task_labels`, for whoever has statements only."""
    rule = _own_labels(codes) if name == OWN_LABELS else _find_rule(name)
    column = {label: number for number, label in enumerate(rule.classes)}
    column |= {statement: column[label] for statement, label in rule.class_of.items()}
    labels = np.zeros((len(codes), len(rule.classes)), dtype=np.int8)
    # Likelihoods are not looked at: in PTB-XL 0 means that none was given.
    for row, statements in enumerate(codes):
        for statement in statements:
            if (place := column.get(statement) if statement in rule.class_of else None) is not None:
                labels[row, place] = 1
    if not labels.any():
        raise ParameterError(_no_labels(codes, rule, of))
    counts = labels.sum(axis=1)
    # With labels of one's own, none at all is an answer, too.
    keep = counts == 1 if rule.single else (counts > 0) | (name == OWN_LABELS)
    return Task(rule.name, rule.rule, rule.classes, labels, keep)


def check_task(name: str) -> None:
    """Raise for the name of a task that does not exist, with the nearest that does."""
    if name != OWN_LABELS:
        _find_rule(name)


def _own_labels(codes: Sequence[Mapping[str, float]]) -> TaskRule:
    """Return the rule by which each statement that is found is a class."""
    classes = tuple(sorted({code for statements in codes for code in statements}))
    rule = "every label that a recording has; those without one have none of the classes"
    return TaskRule(OWN_LABELS, rule, classes, {code: code for code in classes})


def _find_rule(name: str) -> TaskRule:
    rules = _rules()
    if name not in rules:
        close = difflib.get_close_matches(str(name), [*rules, OWN_LABELS], n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else "Name one of these."
        raise ParameterError(f"Got task {name!r}, expected one of {', '.join([*rules, OWN_LABELS])}. {hint}")
    return rules[name]


def _no_labels(codes: Sequence[Mapping[str, float]], rule: TaskRule, of: str) -> str:
    found = sorted({statement for statements in codes for statement in statements})
    some = ", ".join(found[:6]) + (", …" if len(found) > 6 else "")
    return (
        f"Got {of} with {len(codes)} records and {len(found)} statements ({some or 'none'}), of which none is in task "
        f"{rule.name!r}; expected statements such as {', '.join(sorted(rule.class_of)[:4])}. Choose a task of these "
        f"data: {', '.join(_possible(set(found))) or 'there is none'}."
    )


def _possible(statements: set[str]) -> list[str]:
    return [name for name, rule in _rules().items() if statements & set(rule.class_of)]


@lru_cache(maxsize=1)
def _rules() -> dict[str, TaskRule]:
    """Make the rules of all tasks, once."""
    likelihood = "every statement counts, whatever its likelihood; records without one of them are left out"
    single = "superdiagnostic, of records with exactly one of the classes"
    rules = [
        _ptbxl("all", f"all SCP statements; {likelihood}", lambda row: row["statement"]),
        _ptbxl("diagnostic", f"diagnostic SCP statements; {likelihood}", _flagged("diagnostic")),
        _ptbxl("subdiagnostic", f"diagnostic subclasses; {likelihood}", lambda row: row["diagnostic_subclass"], "sub"),
        _ptbxl(
            "superdiagnostic", f"diagnostic superclasses; {likelihood}", lambda row: row["diagnostic_class"], "super"
        ),
        _ptbxl("form", f"SCP statements on form; {likelihood}", _flagged("form"), "form"),
        _ptbxl("rhythm", f"SCP statements on rhythm; {likelihood}", _flagged("rhythm"), "rhythm"),
        _ptbxl("superclass-single", single, lambda row: row["diagnostic_class"], "super", single=True),
        _cpsc2018(),
    ]
    return {rule.name: rule for rule in rules}


def _flagged(flag: str) -> Callable[[Mapping[str, str]], str]:
    """Choose the statements with a flag; each is a class of its own."""
    return lambda row: row["statement"] if row[flag] == "1" else ""


def _ptbxl(
    name: str, rule: str, class_of: Callable[[Mapping[str, str]], str], kind: str = "", *, single: bool = False
) -> TaskRule:
    """Make a rule from the table of statements.

    Packed samples hold no SCP statements of diagnosis but classes by their kind, without the underscores of PTB-XL
    ("super:MI", "sub:AVB", "form:STD", "rhythm:SR").
    """
    mapping = {row["statement"]: label for row in _statements() if (label := class_of(row))}
    classes = tuple(sorted(set(mapping.values())))
    if kind:
        mapping |= {f"{kind}:{spelt}": label for label in classes for spelt in (label, label.strip("_"))}
    return TaskRule(name, rule, classes, mapping, single)


def _cpsc2018() -> TaskRule:
    mapping = {code: label for label, codes in _CPSC2018.items() for code in codes}
    rule = "the nine classes of the challenge, every one that a record has"
    return TaskRule("cpsc2018", rule, tuple(_CPSC2018), mapping)


@lru_cache(maxsize=1)
def _statements() -> list[dict[str, str]]:
    """Read the 71 statements of PTB-XL and what they are."""
    with _STATEMENTS.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def open_dataset(path: str | os.PathLike[str], *, sampling_rate: int | None = None) -> LabelledECGs:
    """Open a copy of a data set; nothing is downloaded.

    Parameters
    ----------
    path : path
        The folder of PTB-XL or of CPSC2018, or one that holds it; or a packed ``.npz`` file, or a folder with exactly
        one; or a table of recordings and labels (:mod:`skecg.datasets.tables`); or a data set with the folds of
        ecgbench in it (:func:`skecg.datasets.read_ecgbench`).
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
    if is_table(where):
        return read_label_table(where).to_dataset()
    if not where.is_dir():
        raise DatasetNotFoundError(f"Got {str(where)!r}, which does not exist; expected {_WANTED}. Check the path.")
    if any((where / version / "folds.csv").is_file() for version in ("clean", "original")):
        return read_ecgbench(where, sampling_rate=sampling_rate)
    if (folder := _copy_of(PTBXL, where)) is not None:
        # A copy may hold only one of PTB-XL's two rates.
        has_high = (folder / f"records{_HIGH_RATE}").is_dir()
        rate = sampling_rate or (_HIGH_RATE if has_high else _LOW_RATE)
        return fetch_ptbxl(folder, sampling_rate=rate, download_if_missing=False, verbose=0)
    if (folder := _copy_of(CPSC2018, where)) is not None:
        found = fetch_cpsc2018(folder, min_seconds=_CPSC2018_MIN_SECONDS, download_if_missing=False, verbose=0)
        return replace(found, folds=np.array([_part(name) for name in found.record_ids], dtype=np.int64))
    return _only_packed(where)


def _copy_of(source: Source, where: Path) -> Path | None:
    """Find the folder of a copy, in a folder or below it."""
    folder = find_copy(source, where, Fetching(download_if_missing=False, verbose=0)).folder
    return folder if any(next(folder.glob(sign), None) is not None for sign in source.signs) else None


def _part(record_id: str) -> int:
    """Return the number of the Challenge's part, 0 where the copy does not say."""
    found = re.match(r"g(\d+)/", record_id)
    # Fold 0 is never chosen.
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
