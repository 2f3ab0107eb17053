"""Names and places to corpora: ``open_corpus("ptbxl", folder)`` lists recordings without reading their signals.

Known names bring their tables and splits along. Any other name stands for a folder or pattern of files that skecg
reads, and Chapman/Ningbo is one of those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path, PurePath

from pretraining.data.arrays import is_packed_array, open_arrays
from pretraining.data.code15 import open_code15
from pretraining.data.corpus import Corpus, FileReader, Item, LeftOut
from pretraining.data.physionet import SUBSETS, open_challenge, open_mimic, open_ptbxl
from skecg.encoders.plugins import load_installed_plugins
from skecg.errors import ParameterError, RecordNotFoundError
from skecg.io import find_records
from skecg.validation import check_choice

__all__ = [
    "CORPORA",
    "Corpus",
    "Item",
    "LeftOut",
    "open_chapman_ningbo",
    "open_corpus",
    "open_files",
    "parse_corpus",
    "register_corpus",
]

_WILDCARDS = frozenset("*?[")

_CHALLENGES = ("cinc2020", "cinc2021")


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
    # One recording a patient, as published: the record's name will do for the patient's.
    items = tuple(item._replace(patient=PurePath(item.source).stem) for item in corpus.items)
    return dataclasses.replace(corpus, items=items)


def _anchor(source: Path) -> Path:
    """Return the folder that sources are named within."""
    if source.is_dir():
        return source
    parts = source.parts
    # The last folder before a wildcard, so that sources are named alike wherever the archive lies.
    fixed = next((i for i, part in enumerate(parts) if _WILDCARDS & set(part)), len(parts) - 1)
    return Path(*parts[:fixed]) if fixed else Path()


#: Corpora that are known by name, and what opens their folder.
CORPORA: dict[str, Callable[[str, Path], Corpus]] = {
    "ptbxl": open_ptbxl,
    "code15": open_code15,
    "mimic-iv-ecg": open_mimic,
    "cinc2020": open_challenge,
    "cinc2021": open_challenge,
    "chapman-ningbo": open_chapman_ningbo,
}


def register_corpus(name: str, opens: Callable[[str, Path], Corpus]) -> None:
    """Make a corpus known by name.

    Parameters
    ----------
    name : str
        As in ``--corpus NAME=DIR``.
    opens : callable
        Lists, of this name and a folder, the recordings without reading them: a :class:`Corpus`.

    Raises
    ------
    ParameterError
        When another corpus has that name, or it is no word.
    """
    _check_name(name)
    known = CORPORA.setdefault(name, opens)
    if (known.__module__, known.__qualname__) != (opens.__module__, opens.__qualname__):
        raise ParameterError(f"Got a corpus {name!r} of {opens.__module__}, which {known.__module__} has.")
    CORPORA[name] = opens


def open_corpus(name: str, source: str | Path) -> Corpus:
    """List the recordings of a corpus, without reading their signals.

    Parameters
    ----------
    name : str
        One of :data:`CORPORA`, whose own tables and splits are then heeded; ``cinc2021/georgia`` and the like for one
        sub-set of a Challenge; or any other name.
    source : str or Path
        Its folder. For other names a folder, a glob pattern, or a file of any format that :func:`skecg.read_record`
        reads; and for any name an ``.npz`` of packed arrays (see :mod:`pretraining.data.arrays`).

    Returns
    -------
    Corpus

    Raises
    ------
    RecordNotFoundError
        When nothing lies there.
    ParameterError
        When the name is empty, or that of no sub-set.

    Examples
    --------
    >>> open_corpus("ptbxl", "no/such/folder")
    Traceback (most recent call last):
    ...
    skecg.errors.RecordNotFoundError: There is no folder 'no/such/folder' to read the corpus 'ptbxl' from.
    """
    path = Path(source).expanduser()
    # A packed array first, whatever it is called: its fields say more than a name.
    if is_packed_array(path):
        return open_arrays(name, path)
    known, _, subset = name.partition("/")
    if known not in CORPORA:
        load_installed_plugins()
    if known not in CORPORA or (subset and known not in _CHALLENGES):
        _check_name(name)
        return open_files(name, path)
    if not path.is_dir():
        raise RecordNotFoundError(f"There is no folder {str(path)!r} to read the corpus {name!r} from.")
    if subset:
        check_choice(f"the sub-sets of {known}", subset, list(SUBSETS))
        return open_challenge(known, path, subset=subset)
    return CORPORA[known](name, path)


def parse_corpus(assignment: str) -> Corpus:
    """Open a corpus as the command line names it: ``NAME=DIR`` or ``NAME=GLOB``."""
    name, separator, source = assignment.partition("=")
    if not separator or not name.strip() or not source.strip():
        raise ParameterError(f"Got --corpus {assignment!r}, expected NAME=DIR or NAME=GLOB, e.g. ptbxl=data/ptb-xl.")
    return open_corpus(name.strip(), source.strip())


def _check_name(name: str) -> None:
    """Check that a name will do in tables and weights."""
    if not name.strip() or "/" in name or "," in name or "=" in name:
        raise ParameterError(f"Got a corpus named {name!r}, expected a word, or one of {', '.join(CORPORA)}.")
