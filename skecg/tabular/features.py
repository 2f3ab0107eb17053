"""Features of the records of a table, and warnings of recordings that are in it twice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skecg.datasets.tables import LABEL_SEPARATOR
from skecg.embedder import JEPAEmbedder
from skecg.errors import LeakageWarning, ParameterError, SkecgWarning, user_stacklevel
from skecg.inference.inputs import RecordSource
from skecg.records import ECGRecord
from skecg.splits import equal_rows
from skecg.tabular.table import RecordTable

__all__ = ["embed_table", "read_as_embedded"]


def read_as_embedded(
    path: str,
    *,
    sampling_rate: float | None = None,
    leads: Sequence[str] | Mapping[str, str] | None = None,
    units: str | None = None,
) -> ECGRecord:
    """Read a file as an embedder does that was told these, which are for files that do not say them."""
    return RecordSource([path], sampling_rate=sampling_rate, leads=leads, units=units or "mV")[0]


def embed_table(table: RecordTable, embedder: JEPAEmbedder) -> tuple[RecordTable, NDArray[np.float32]]:
    """Embed the records of a table, without those that cannot be.

    Parameters
    ----------
    table : RecordTable
    embedder : JEPAEmbedder
        With ``on_bad_record="nan"``.

    Returns
    -------
    table : RecordTable
        Of the records that have features.
    features : ndarray of shape (n_records, n_features), float32

    Warns
    -----
    LeakageWarning
        When equal recordings are said to be of different patients.
    SkecgWarning
        When equal recordings have different labels.
    """
    # Before embedding, which may take hours, and after it, when records without features are gone.
    table.check_learnable()
    features = embedder.fit_transform(table.paths)
    good = np.isfinite(features).all(axis=1)
    first = next(iter(embedder.bad_records_.values()), "the encoder gave numbers that are not finite")
    used = table.select(good, f"no features (the first: {first})")
    if not len(used):
        raise ParameterError(f"Got {table.name!r}, of which no record can be embedded. The first: {first}")
    used.check_learnable()
    _warn_of_equal_recordings(used, features[good])
    return used, features[good]


def _warn_of_equal_recordings(table: RecordTable, features: NDArray[np.float32]) -> None:
    """Warn where a recording is there again: of another patient, so on both sides of a split, or with another label."""
    # By features, which are at hand: equal samples have equal ones, whatever the files are called.
    twins = equal_rows(features)
    y = None if table.target is None else table.target.y
    _warn_of_twins(
        table,
        [(one, another) for one, another in twins if table.groups[one] != table.groups[another]],
        "of another patient ({}), so scores will be too good. Remove copies from the table, or name their patients in "
        "the column of groups.",
        LeakageWarning,
    )
    _warn_of_twins(
        table,
        [(one, another) for one, another in twins if y is not None and np.any(y[one] != y[another])],
        f"with another label ({{}}). Correct the table; several labels of one recording are one row, with "
        f"{LABEL_SEPARATOR!r} between them.",
        SkecgWarning,
    )


def _warn_of_twins(table: RecordTable, twins: list[tuple[int, int]], what: str, kind: type[SkecgWarning]) -> None:
    """Warn of equal recordings, naming the first of them; say nothing where there are none."""
    if twins:
        one, another = (table.paths[row] for row in twins[0])
        said = what.format(f"{one} and {another} are the first")
        warnings.warn(f"Got {len(twins)} recordings that equal others {said}", kind, stacklevel=user_stacklevel())
