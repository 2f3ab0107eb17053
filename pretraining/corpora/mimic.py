"""MIMIC-IV-ECG: 800,035 recordings of 10 seconds.

Its files carry aVF before aVL; leads are known by their names here, so that this does not matter.

References
----------
.. [1] Gow B. et al. (2023). MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset. PhysioNet.
"""

from __future__ import annotations

from pathlib import Path

from pretraining.corpora.corpus import Corpus, FileReader, Item
from skecg.datasets.tables import read_rows, whole_number

__all__ = ["open_mimic"]


def open_mimic(name: str, folder: Path) -> Corpus:
    """List MIMIC-IV-ECG by the ``record_list.csv`` in its folder, in that table's order, with patients."""
    rows = read_rows(folder / "record_list.csv", ["subject_id", "path"])
    items = (Item(name, row["path"], whole_number(row["subject_id"])) for row in rows)
    return Corpus(name, tuple(items), FileReader(folder))
