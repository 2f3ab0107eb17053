"""Names and places to corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pretraining.config_part import refuse_unknown
from pretraining.corpora.arrays import is_packed_array, open_arrays
from pretraining.corpora.challenge import SUBSETS, open_challenge
from pretraining.corpora.code15 import open_code15
from pretraining.corpora.corpus import Corpus
from pretraining.corpora.files import open_chapman_ningbo, open_files
from pretraining.corpora.mimic import open_mimic
from pretraining.corpora.ptbxl import open_ptbxl
from skecg.errors import ParameterError, RecordNotFoundError

__all__ = ["CORPORA", "open_corpus", "parse_corpus"]

#: Corpora that are known by name, and what opens their folder.
CORPORA: dict[str, Callable[[str, Path], Corpus]] = {
    "ptbxl": open_ptbxl,
    "code15": open_code15,
    "mimic-iv-ecg": open_mimic,
    "cinc2020": open_challenge,
    "cinc2021": open_challenge,
    "chapman-ningbo": open_chapman_ningbo,
}
_CHALLENGES = ("cinc2020", "cinc2021")


def open_corpus(name: str, source: str | Path) -> Corpus:
    """List the recordings of a corpus, without reading their signals.

    Parameters
    ----------
    name : str
        One of :data:`CORPORA`, whose own tables and splits are then heeded; ``cinc2021/georgia`` and the like for one
        sub-set of a Challenge; or any other name.
    source : str or Path
        Its folder. For other names a folder, a glob pattern, or a file of any format that :func:`skecg.read_record`
        reads; and for any name an ``.npz`` of packed arrays (see :mod:`pretraining.corpora.arrays`).

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
    if is_packed_array(path):
        return open_arrays(name, path)
    known, _, subset = name.partition("/")
    if known not in CORPORA or (subset and known not in _CHALLENGES):
        _check_name(name)
        return open_files(name, path)
    if not path.is_dir():
        raise RecordNotFoundError(f"There is no folder {str(path)!r} to read the corpus {name!r} from.")
    if subset:
        refuse_unknown(subset, list(SUBSETS), f"the sub-sets of {known}")
        return open_challenge(known, path, subset=subset)
    return CORPORA[known](name, path)


def parse_corpus(assignment: str) -> Corpus:
    """Open a corpus as the command line names it: ``NAME=DIR`` or ``NAME=GLOB``."""
    name, separator, source = assignment.partition("=")
    if not separator or not name.strip() or not source.strip():
        raise ParameterError(f"Got --corpus {assignment!r}, expected NAME=DIR or NAME=GLOB, e.g. ptbxl=data/ptb-xl.")
    return open_corpus(name.strip(), source.strip())


def _check_name(name: str) -> None:
    """Refuse names that would not do in tables and weights."""
    if not name.strip() or "/" in name or "," in name or "=" in name:
        raise ParameterError(f"Got a corpus named {name!r}, expected a word, or one of {', '.join(CORPORA)}.")
