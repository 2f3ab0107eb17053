"""PTB-XL: 21,799 recordings of 10 seconds, ten folds that no patient crosses.

References
----------
.. [1] Wagner P. et al. (2020). PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7, 154.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretraining.corpora.corpus import KEPT_OUT_FOLDS, Corpus, FileReader, Item, keep_folds_out
from skecg.datasets.tables import read_rows, whole_number

__all__ = ["open_ptbxl"]

_FILE_COLUMNS = {"records500": "filename_hr", "records100": "filename_lr"}


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
        rate = "records500" if (root / "records500").is_dir() else "records100"
    column = _FILE_COLUMNS[rate]
    rows = read_rows(root / "ptbxl_database.csv", [column, "patient_id", "strat_fold"])
    items = (Item(name, row[column], whole_number(row["patient_id"]), int(float(row["strat_fold"]))) for row in rows)
    kept, left_out = keep_folds_out(items, kept_out_folds)
    return Corpus(name, kept, FileReader(root), left_out)
