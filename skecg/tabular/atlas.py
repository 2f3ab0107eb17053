"""An atlas of embeddings: maps, what is known of each record, its ECG and its nearest neighbours, in one page.

The page holds all that it shows and fetches nothing, so that it opens from a disk. How it looks and answers is in
``atlas.html`` beside this file; this file says what it holds.
"""

from __future__ import annotations

import base64
import html
import json
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.datasets.tables import Columns, is_number, is_patient_column, read_columns
from skecg.errors import MissingDependencyError, ParameterError, ShapeError, SkecgError, SkecgWarning
from skecg.leads import CANONICAL_LEADS
from skecg.linear_model.distances import Neighbours, similar, standardization
from skecg.plotting.results import principal_plane
from skecg.records import ECGRecord
from skecg.tabular.features import read_as_embedded
from skecg.tabular.page import policy_for, thinned
from skecg.validation import as_numbers, check_choice, check_flag, check_integer

__all__ = ["PROJECTIONS", "Atlas", "make_atlas"]

PROJECTIONS = ("pca", "tsne", "umap")

_RATE, _SECONDS = 50.0, 10.0  # Hz, enough to see rhythm and shape in a small picture
_STEP = 0.02  # millivolts of one of the 255 steps, where that is enough
# Of 2,000 records, in base64, these make 9.2 of the 10 MB that a page may have.
_MOST_BYTES = 3450
# A column with fewer values than this is coloured by value, also where they are numbers.
_FEW_VALUES = 10
_NEIGHBOURS_BEFORE = 50  # components that t-SNE and UMAP start from

# A number whose text comes back from it; 000123, 1E2 and what has more digits than a float holds are names.
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d{0,14}|[1-9]\d*e[+-]\d+|(?:0|[1-9]\d*)?\.\d*(?:e[+-]?\d+)?)", re.IGNORECASE)

_SAME = 1e-9  # of standardized features: no distance at all


@dataclass(frozen=True, eq=False)
class Atlas:
    """Embeddings on maps, and what is known of them.

    Parameters
    ----------
    records : list of str or ECGRecord
        Those that have features: their files, or themselves.
    columns : dict of str to list of (str or None)
        What is known of each.
    maps : dict of str to ndarray of shape (n_records, 2)
        By projection.
    neighbours : Neighbours
        Of each record, without itself.
    n_left_out : int
        Records without features.
    """

    records: list[str | ECGRecord]
    columns: Columns
    maps: dict[str, NDArray[np.float64]]
    neighbours: Neighbours
    n_left_out: int = 0

    @property
    def paths(self) -> list[str]:
        """What the records are called."""
        return [record if isinstance(record, str) else record.name for record in self.records]

    def page(self, title: str = "Atlas", *, ecgs: bool = True, **reading: Any) -> str:
        """Return the atlas as a page of HTML that fetches nothing.

        Parameters
        ----------
        title : str, default="Atlas"
        ecgs : bool, default=True
            Whether the records are read and their first ten seconds put into the page, 5 kB each. A record that cannot
            be read says why in its place.
        **reading
            ``sampling_rate``, ``leads`` and ``units`` of tables and arrays, as for :class:`skecg.JEPAEmbedder`.
        """
        held: dict[str, Any] = {
            "about": self._about(),
            "paths": self.paths,
            "columns": [_column(name, cells) for name, cells in self.columns.items() if any(cells)],
            "maps": [{"name": name, "points": _in_unit_square(points)} for name, points in self.maps.items()],
            "neighbours": self.neighbours.rows.tolist(),
            # Two digits: the page shows no more, and every digit is a byte for each neighbour.
            "distances": np.round(self.neighbours.distances, 2).tolist(),
            "rate": _RATE,
            "seconds": _SECONDS,
        }
        if ecgs:
            held |= _traces(self.records, reading)
            lost = [trace for trace in held["traces"] if isinstance(trace, str)]
            if lost:
                warnings.warn(
                    f"The page shows no ECG for {len(lost)} of {len(self.records)} recordings, expected their files "
                    f"and what these do not say (sampling rate, leads, units). Of the first: {lost[0]}",
                    SkecgWarning,
                    stacklevel=2,
                )
        return _filled(title, held)

    def embedding_atlas(self) -> dict[str, list[Any]]:
        """Return the columns of a table that Apple's Embedding Atlas reads: points, neighbours, and all that is known.

        Of the first map. Rows of ``neighbors`` are numbers of rows, from 0.

        Raises
        ------
        ParameterError
            When a column bears the name of one that is needed for the map.
        """
        points = next(iter(self.maps.values()))
        own = {
            "path": self.paths,
            "projection_x": points[:, 0].tolist(),
            "projection_y": points[:, 1].tolist(),
            "neighbors": [
                {"ids": rows, "distances": gaps}
                for rows, gaps in zip(self.neighbours.rows.tolist(), self.neighbours.distances.tolist(), strict=True)
            ],
        }
        if taken := [name for name in self.columns if name in own]:
            raise ParameterError(
                f"Got the column {taken[0]!r}, a name that Embedding Atlas needs for its own ({', '.join(own)}). "
                "Rename it."
            )
        return {**{name: _typed(name, cells) for name, cells in self.columns.items()}, **own}

    def _about(self) -> str:
        left_out = f" Left out, for they have no features: {self.n_left_out:,}." if self.n_left_out else ""
        return (
            f"{len(self.records):,} records.{left_out} This page holds recordings: treat it as you treat those. "
            "Research use only. Not for diagnosis, treatment decisions, triage or monitoring of patients."
        )


def make_atlas(
    features: ArrayLike,
    records: Sequence[str | ECGRecord],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    projections: Sequence[str] = ("pca",),
    n_neighbours: int = 8,
    standardize: bool = True,
) -> Atlas:
    """Put embeddings on maps and find the nearest neighbours of each.

    Parameters
    ----------
    features : array-like of shape (n_records, n_features)
        Rows with missing values, of records that could not be embedded, are left out and counted.
    records : sequence of str or ECGRecord of length n_records
        Their files, or themselves.
    columns : mapping of str to sequence of length n_records, optional
        What is known of each record; a data frame will do.
    projections : sequence of {"pca", "tsne", "umap"}, default=("pca",)
        The maps. Principal components are there at once; t-SNE (scikit-learn's) takes
        seconds for thousands of records; UMAP needs the package umap-learn.
    n_neighbours : int, default=8
        As :func:`skecg.similar` finds them; fewer where there are not as many records.
    standardize : bool, default=True
        Whether each feature is brought to a deviation of 1 first. False leaves their proportions, for features of
        ``truncate_dim``.

    Returns
    -------
    Atlas

    Raises
    ------
    ShapeError
        When there are fewer than three records with features, or not as many records or cells as features.
    ParameterError
        When a projection is unknown, or `standardize` is neither True nor False.
    MissingDependencyError
        When UMAP is asked for and not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from skecg.tabular.atlas import make_atlas
    >>> atlas = make_atlas(np.eye(4), ["a", "b", "c", "d"], {"sex": ["F", "M", "M", "F"]})
    >>> atlas.maps["pca"].shape
    (4, 2)
    >>> page = atlas.page(ecgs=False)  # to be written to a file
    """
    for projection in projections:
        check_choice("projection", projection, PROJECTIONS)
    check_integer("n_neighbours", n_neighbours, 1)
    table = as_numbers("features", features)
    cells = _as_columns(columns)
    if table.ndim != 2 or any(len(given) != len(table) for given in (records, *cells.values())):
        lengths = sorted({len(records), *map(len, cells.values())})
        raise ShapeError(
            f"Got features of shape {table.shape} for {', '.join(map(str, lengths))} records or cells, expected a row "
            "of features for each."
        )
    complete = np.flatnonzero(np.isfinite(table).all(axis=1))
    if len(complete) < 3:
        raise ShapeError(f"Got {len(complete)} records with features, expected at least 3 for a map.")
    mean, scale = standardization(table[complete], standardize=check_flag("standardize", standardize))
    known = (table[complete] - mean) / scale
    # Of equal records there is nothing to lay out, which scikit-learn's trees do not survive.
    is_spread, at_one = np.abs(known).max(initial=0.0) > _SAME, np.zeros((len(known), 2))
    return Atlas(
        [records[row] for row in complete.tolist()],
        {name: [column[row] for row in complete] for name, column in cells.items()},
        {name: _PROJECTED[name](known) if is_spread else at_one for name in dict.fromkeys(projections)},
        _others(known, min(n_neighbours, len(known) - 1)),
        len(table) - len(complete),
    )


def _as_columns(columns: Mapping[str, Sequence[Any]] | None) -> Columns:
    """Return columns with their cells as text."""
    return {} if columns is None else read_columns(columns)[0]


def _others(features: NDArray[np.float64], k: int) -> Neighbours:
    """Find the `k` nearest of each record but itself, which equal records may come before."""
    found = similar(features, features, k + 1, standardize=False)
    itself = found.rows == np.arange(len(features))[:, None]
    # Of many equal records it may not be among its own nearest: then the farthest is left out.
    itself[~itself.any(axis=1), -1] = True
    return Neighbours(found.rows[~itself].reshape(-1, k), found.distances[~itself].reshape(-1, k))


def _pca(features: NDArray[np.float64]) -> NDArray[np.float64]:
    return principal_plane(features)[0]


def _tsne(features: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    # Its neighbourhoods have to be smaller than what there is.
    perplexity = min(30.0, (len(features) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=0).fit_transform(_leading(features)), dtype=np.float64)


def _umap(features: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingDependencyError(
            "The projection umap needs umap-learn, which is not installed. Run `pip install umap-learn`, or take tsne."
        ) from error
    # One job: with a seed UMAP runs no more, and warns of any other number.
    mapping = UMAP(n_neighbors=min(15, len(features) - 1), random_state=0, n_jobs=1, init="pca")
    return np.asarray(mapping.fit_transform(_leading(features)), dtype=np.float64)


_PROJECTED = {"pca": _pca, "tsne": _tsne, "umap": _umap}


def _leading(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return features along their leading components."""
    from sklearn.decomposition import PCA

    n_components = min(_NEIGHBOURS_BEFORE, *features.shape)
    # "full" and not "auto", which draws random numbers for large tables.
    return np.asarray(PCA(n_components, svd_solver="full").fit_transform(features))


def _in_unit_square(points: NDArray[np.float64]) -> list[list[float]]:
    low, high = points.min(axis=0), points.max(axis=0)
    return np.round((points - low) / np.where(high > low, high - low, 1.0), 4).tolist()


def _typed(name: str, cells: list[str | None]) -> list[Any]:
    """Return cells as numbers, where all of them are, and none a patient's."""
    if is_patient_column(name) or not all(_NUMBER.fullmatch(c) and is_number(c) for c in cells if c is not None):
        return cells
    return [None if cell is None else float(cell) for cell in cells]


def _column(name: str, cells: list[str | None]) -> dict[str, Any]:
    """Return a column as the page takes it: numbers with their range, or classes, the most frequent first."""
    values = [cell for cell in cells if cell is not None]
    typed = _typed(name, cells)
    if len(set(values)) > _FEW_VALUES and typed is not cells:
        numbers = [number for number in typed if number is not None]
        return {"name": name, "kind": "number", "values": typed, "low": min(numbers), "high": max(numbers)}
    # By count, then by name, so that the same table is the same page.
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    classes = sorted(counts, key=lambda value: (-counts[value], value))
    codes = {value: code for code, value in enumerate(classes)}
    return {
        "name": name,
        "kind": "class",
        "classes": classes,
        "values": [-1 if c is None else codes[c] for c in cells],
    }


def _traces(records: Iterable[str | ECGRecord], reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the beginning of each record, packed, and the sets of leads that there are."""
    sets: dict[tuple[str, ...], int] = {}
    traces: list[Any] = []
    for record in records:
        try:
            one = read_as_embedded(record, **reading) if isinstance(record, str) else record
        except SkecgError as error:
            # The reason takes the picture's place: a file that was moved since does not cost the page.
            traces.append(str(error))
            continue
        signal = thinned(one, _RATE, _SECONDS)
        there = [lead for lead, row in zip(one.leads, signal, strict=True) if np.isfinite(row).all()]
        leads = tuple(sorted(there, key=_place_of))
        step, packed = _packed(signal[[one.leads.index(lead) for lead in leads]])
        traces.append([sets.setdefault(leads, len(sets)), step, packed] if leads else "no lead has any samples")
    return {"traces": traces, "leads": list(sets)}


def _place_of(lead: str) -> int:
    return CANONICAL_LEADS.index(lead) if lead in CANONICAL_LEADS else len(CANONICAL_LEADS)


def _packed(signal: NDArray[np.float32]) -> tuple[float, str]:
    """Return the step (mV) and the deflated differences of 8-bit samples, in base64.

    A noisy signal takes coarser steps until it fits, so that the size of a page follows from its records alone.
    """
    # Far peaks take wider steps rather than being cut off.
    step = max(_STEP, float(np.abs(signal).max(initial=0.0)) / 127)
    while True:
        samples = np.round(signal / step).astype(np.int8)
        steps = np.diff(samples, axis=1, prepend=np.int8(0))  # wraps around, and back again when summed
        packed = zlib.compress(steps.tobytes(), 9)
        if len(packed) <= _MOST_BYTES or not samples.any():
            return float(f"{step:.4g}"), base64.b64encode(packed).decode()
        step *= 1.3


def _filled(title: str, held: Mapping[str, Any]) -> str:
    """Put what the page holds into its template."""
    template = resources.files("skecg.tabular").joinpath("atlas.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    # Only the script of the template may run, and nothing may be fetched, whatever stands in tables and paths.
    head, _, rest = template.replace("{policy}", policy_for(script)).partition("<script>")
    # Otherwise a path with </script> in it would end the data and begin a page of its own.
    text = json.dumps(held, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'{head.replace("{title}", html.escape(title))}<script type="application/json" id="data">{text}</script>\n'
        f"<script>{rest}"
    )
