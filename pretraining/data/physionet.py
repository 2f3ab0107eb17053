"""Corpora of PhysioNet with tables or sub-sets of their own: PTB-XL, MIMIC-IV-ECG, the Challenges 2020 and 2021.

PTB-XL [1]_ has 21,799 recordings of 10 seconds in ten folds that no patient crosses. MIMIC-IV-ECG [2]_ has 800,035; its
files carry aVF before aVL, which does not matter, since leads are known by their names. Of the Challenges' training
sets [3]_ [4]_ each sub-set is a corpus of its own. Their sub-set ``ptb-xl`` does not say which recording is in which of
PTB-XL's folds, and so may hold what encoders are evaluated on: it is left out unless it is asked for by name.

References
----------
.. [1] Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7, 154.
.. [2] Gow B. et al. (2023). MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset. PhysioNet.
.. [3] Perez Alday E. A. et al. (2020). Classification of 12-lead ECGs: the PhysioNet/Computing in Cardiology Challenge
       2020. Physiological Measurement 41.
.. [4] Reyna M. A. et al. (2021). Will two do? Varying dimensions in electrocardiography: the PhysioNet/Computing in
       Cardiology Challenge 2021. Computing in Cardiology 48.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pretraining.data.corpus import KEPT_OUT_FOLDS, Corpus, FileReader, Item, LeftOut, keep_folds_out
from skecg.datasets.base import read_rows, whole_number
from skecg.errors import ParameterError
from skecg.io import find_records
from skecg.validation import check_choice

__all__ = ["SUBSETS", "open_challenge", "open_mimic", "open_ptbxl", "subset_of"]

_FILE_COLUMNS = {"records500": "filename_hr", "records100": "filename_lr"}

#: Sub-sets, each with the names that its folder has borne, without case and punctuation.
SUBSETS: dict[str, tuple[str, ...]] = {
    "georgia": ("georgia", "wfdbga"),
    "cpsc": ("cpsc2018", "wfdbcpsc2018"),
    "cpsc-extra": ("cpsc2018extra", "cpsc20182", "wfdbcpsc20182"),
    "ptb": ("ptb", "ptbdiagnostic", "wfdbptb"),
    "ptb-xl": ("ptbxl", "wfdbptbxl"),
    "st-petersburg": ("stpetersburgincart", "stpetersburg", "incart", "wfdbstpetersburg"),
    "chapman": ("chapmanshaoxing", "wfdbchapmanshaoxing"),
    "ningbo": ("ningbo", "wfdbningbo"),
}

_SUBSET_OF_FOLDER = {
    folder: subset for subset, folders in SUBSETS.items() for folder in (*folders, subset.replace("-", ""))
}


def open_ptbxl(name: str, folder: Path, *, kept_out_folds: Sequence[int] = KEPT_OUT_FOLDS) -> Corpus:
    """List PTB-XL.

    Parameters
    ----------
    name : str
    folder : Path
        The folder of ``ptbxl_database.csv``, or ``records500`` or ``records100`` in it; without saying which, the
        500 Hz recordings are taken where they lie.
    kept_out_folds : sequence of int, default=(9, 10)

    Returns
    -------
    Corpus
        With patients and folds, in the order of the table.
    """
    root, rate = (folder.parent, folder.name) if folder.name in _FILE_COLUMNS else (folder, "")
    if not rate:
        # The higher rate where it is there: it holds what the lower one holds.
        rate = "records500" if (root / "records500").is_dir() else "records100"
    column = _FILE_COLUMNS[rate]
    rows = read_rows(root / "ptbxl_database.csv", [column, "patient_id", "strat_fold"])
    items = (Item(name, row[column], whole_number(row["patient_id"]), int(float(row["strat_fold"]))) for row in rows)
    kept, left_out = keep_folds_out(items, kept_out_folds)
    return Corpus(name, kept, FileReader(root), left_out)


def open_mimic(name: str, folder: Path) -> Corpus:
    """List MIMIC-IV-ECG by the ``record_list.csv`` in its folder, in that table's order, with patients."""
    rows = read_rows(folder / "record_list.csv", ["subject_id", "path"])
    items = (Item(name, row["path"], whole_number(row["subject_id"])) for row in rows)
    return Corpus(name, tuple(items), FileReader(folder))


def open_challenge(name: str, folder: Path, *, subset: str | None = None) -> Corpus:
    """List the sub-sets that lie in a folder.

    Parameters
    ----------
    name : str
    folder : Path
        Any folder above the sub-sets' own, or that of one of them.
    subset : str, optional
        Take only this one, ``ptb-xl`` too.

    Returns
    -------
    Corpus
        Its items count towards the sub-sets, which bear the names of :data:`SUBSETS`. No patients are known.

    Raises
    ------
    ParameterError
        When there is no such sub-set, or a folder is none of theirs.
    """
    if subset is not None:
        check_choice("the Challenge's sub-sets", subset, list(SUBSETS))
    own = _SUBSET_OF_FOLDER.get(_plain(folder.resolve().name))
    items, left_out, strange = [], [], []
    for path in sorted(path.relative_to(folder).as_posix() for path in find_records(folder)):
        found = subset_of(path) or own
        if found is None:
            strange.append(path)
        elif found == (subset or found) and (found != "ptb-xl" or subset == "ptb-xl"):
            items.append(Item(found, path))
        elif subset is None:
            left_out.append(LeftOut(found, path, "folds unknown", _folds_unknown(name)))
    if strange:
        raise ParameterError(
            f"Got {len(strange)} recordings outside of known sub-sets in {folder} ({strange[0]}, ...), expected "
            f"folders such as georgia or cpsc_2018. Pack others as a corpus of their own: NAME={folder}."
        )
    return Corpus(name, tuple(sorted(items)), FileReader(folder), tuple(left_out))


def subset_of(path: str) -> str | None:
    """Return the sub-set that a file is of, by the folders above it; the innermost with a known name decides."""
    folders = map(_plain, reversed(PurePosixPath(path).parent.parts))
    return next((_SUBSET_OF_FOLDER[folder] for folder in folders if folder in _SUBSET_OF_FOLDER), None)


def _folds_unknown(name: str) -> str:
    return (
        "PTB-XL's folds are not known here, and encoders are evaluated on some of them. "
        f"To take it all the same, name it: {name}/ptb-xl=DIR."
    )


def _plain(folder: str) -> str:
    """Drop case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", folder.lower())
