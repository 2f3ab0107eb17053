"""How good are the features on labelled records, while training goes on.

The records take skecg's own road (prepare, encode_windows, pooling), so the score is that of the weights once exported.
A logistic regression of fixed strength is fitted on some records and judged on others. Choose training decisions by it,
and keep a further set, never looked at, for what is reported at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.datasets import LabelledECGs, read_packed
from skecg.datasets.tables import read_label_table
from skecg.errors import LeakageWarning, ParameterError, ShapeError, user_stacklevel
from skecg.io import read_records
from skecg.metrics import area_under_roc
from skecg.records import ECGRecord

if TYPE_CHECKING:
    from pretraining.data.shards import ShardSet
    from skecg.encoders import Encoder
    from skecg.preprocessing.windows import Windows
    from skecg.spec import InputSpec

__all__ = ["SUPERCLASSES", "Labelled", "OnlineProbe", "load_label_table", "load_labelled", "synthetic_labelled"]

#: PTB-XL's diagnostic superclasses.
SUPERCLASSES = ("CD", "HYP", "MI", "NORM", "STTC")

# PTB-XL's own split: folds 9 and 10 are for validation and test, and are left for whoever judges the run.
_TRAIN_FOLDS, _TEST_FOLDS = (1, 2, 3, 4, 5, 6, 7), (8,)
# Strong enough for twice the width of an encoder on some hundred records; features are standardized before.
_INVERSE_STRENGTH = 0.01

# What rows of shards have been through: a run's shards are filtered as its encoder wants it.
_UNFILTERED: dict[str, Any] = {"highpass_hz": None, "lowpass_hz": None, "notch_hz": None, "baseline_samples": None}

# Folds that are left for whoever judges the run, as those of PTB-XL are.
_KEPT_FOLDS = (9, 10)


class Labelled(NamedTuple):
    """Labelled records and their split.

    Attributes
    ----------
    records : list of ECGRecord of length n
    labels : ndarray of shape (n, n_classes), 0 or 1; or float, for numbers to be predicted
    train, test : ndarray of int
        Rows to fit on and to judge by.
    classes : tuple of str
    is_filtered : bool
        Whether the records have been filtered already, as an encoder's input says.
    """

    records: list[ECGRecord]
    labels: NDArray[Any]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    classes: tuple[str, ...]
    is_filtered: bool = False


class OnlineProbe:
    """A labelled set that encoders are scored on, again and again.

    Parameters
    ----------
    records : sequence of ECGRecord of length n
    labels : array-like of shape (n, n_classes)
        Zeros and ones, of which a record may have several; or, as floats, numbers that a ridge regression predicts.
    train, test : array-like of int
        Rows to fit on and to judge by; they share no record.
    classes : sequence of str, optional
        Names of the columns; their numbers when not given.
    is_filtered : bool, default=False
        Whether the records have been filtered already, so that this is not done again.
    max_records : int, optional
        At most so many records are used, of both parts in proportion, always the same ones.

    Raises
    ------
    ShapeError
        When records and labels do not fit each other.
    ParameterError
        When the parts overlap or are empty, or no class has both values in both.
    """

    def __init__(
        self,
        records: Sequence[ECGRecord],
        labels: ArrayLike,
        train: ArrayLike,
        test: ArrayLike,
        classes: Sequence[str] | None = None,
        is_filtered: bool = False,
        *,
        max_records: int | None = None,
    ) -> None:
        table = np.asarray(labels)
        self.is_regression = np.issubdtype(table.dtype, np.floating) and not np.isin(table, (0, 1)).all()
        fits = np.isfinite(table).all() if self.is_regression else np.isin(table, (0, 1)).all()
        if table.ndim != 2 or len(table) != len(records) or not fits:
            raise ShapeError(
                f"Got labels of shape {table.shape} for {len(records)} records, expected (n_records, n_classes) of 0 "
                "and 1, or of finite floats to be predicted."
            )
        parts = [np.unique(np.asarray(part, dtype=np.int64)) for part in (train, test)]
        shared = np.intersect1d(parts[0], parts[1]).size
        if shared:
            raise ParameterError(f"Got {shared} records in both train and test, expected none.")
        if max_records is not None:
            share = min(1.0, max_records / max(1, sum(map(len, parts))))
            parts = [_sample(part, int(len(part) * share)) for part in parts]
        chosen = np.concatenate(parts)
        self.records = [records[row] for row in chosen]
        _warn_of_copies(self.records, len(parts[0]))
        self.labels = table[chosen] if self.is_regression else table[chosen].astype(np.int64)
        self.n_train = len(parts[0])
        names = tuple(classes) if classes is not None else tuple(map(str, range(table.shape[1])))
        self.classes = {name: column for column, name in enumerate(names) if self._has_both(column)}
        if not self.classes:
            raise ParameterError(
                f"No class has both values among the {len(parts[0])} records to fit on and the {len(parts[1])} to "
                "judge by. Take more records, or other classes."
            )
        self.is_filtered = is_filtered
        self._windows: tuple[InputSpec, Windows] | None = None

    def score(self, encoder: Encoder, spec: InputSpec, pooling: str = "mean+std") -> dict[str, float]:
        """Score an encoder.

        Parameters
        ----------
        encoder : Encoder
            On any device, in any mode; it is left as it was.
        spec : InputSpec
            What it expects to be fed. Windows are prepared the first time and kept.
        pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}, default="mean+std"

        Returns
        -------
        dict of str to float
            ``probe``, the mean over classes of the area under the ROC curve, and that of each as ``probe_NAME``; for
            numbers the share of their variance that is explained (R²).
        """
        features = self.features(encoder, spec, pooling)
        fitted, judged = features[: self.n_train], features[self.n_train :]
        found = {}
        for name, column in self.classes.items():
            labels = self.labels[:, column]
            judge = _explained if self.is_regression else _auroc
            found[f"probe_{name}"] = judge(fitted, labels[: self.n_train], judged, labels[self.n_train :])
        return {"probe": float(np.mean(list(found.values())))} | found

    @property
    def key(self) -> str:
        """A digest of what is asked: scores of another key are not to be compared with these."""
        shapes = [record.signal.shape for record in self.records]
        # Labels and shapes and not samples: enough to tell two questions apart, and quick.
        asked = [self.labels.tolist(), list(self.classes), self.n_train, shapes]
        asked += ["filtered"] if self.is_filtered else []
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    @property
    def measure(self) -> str:
        """What scores are: ``"macro_auroc"``, or ``"r2"`` where numbers are predicted."""
        return "r2" if self.is_regression else "macro_auroc"

    def features(self, encoder: Encoder, spec: InputSpec, pooling: str = "mean+std") -> NDArray[np.float32]:
        """Embed the records, those to fit on first: (n_records, n_features)."""
        from skecg.encoders.encode import Encoding, encode_windows
        from skecg.encoders.pooling import pool_windows

        windows = self._prepared(spec)
        training = encoder.training
        try:
            vectors = encode_windows(encoder.eval(), windows, Encoding(pooling))
        finally:
            encoder.train(training)
        return pool_windows(vectors, windows.owner, len(self.records))

    def _prepared(self, spec: InputSpec) -> Windows:
        from skecg.preprocessing.windows import prepare

        if self._windows is None or self._windows[0] != spec:
            made = dataclasses.replace(spec, **_UNFILTERED) if self.is_filtered else spec
            self._windows = spec, prepare(self.records, made, short_records="pad")
        return self._windows[1]

    def _has_both(self, column: int) -> bool:
        labels = self.labels[:, column]
        return all(len(np.unique(part)) >= 2 for part in (labels[: self.n_train], labels[self.n_train :]))


def load_labelled(
    path: str | Path,
    *,
    train_folds: Collection[int] = _TRAIN_FOLDS,
    test_folds: Collection[int] = _TEST_FOLDS,
    classes: Sequence[str] = SUPERCLASSES,
) -> Labelled:
    """Read labelled records of PTB-XL's kind from an ``.npz`` file.

    Parameters
    ----------
    path : path-like
        A packed file (:func:`skecg.datasets.read_packed`) with ``super_class`` and ``strat_fold``.
    train_folds, test_folds : collection of int
        By default 1 to 7 and 8.
    classes : sequence of str
        The columns of the labels.

    Returns
    -------
    Labelled

    Raises
    ------
    ParameterError
        When the file is not there, or has no labels or folds.
    DamagedRecordError
        When it is no packed file.
    """
    if not Path(path).is_file():
        raise ParameterError(f"Got {str(path)!r} for the probe's records, which is no file.")
    packed = read_packed(path)
    names = [{code.removeprefix("super:") for code in codes if code.startswith("super:")} for codes in packed.codes]
    if not any(names) or not packed.folds.any():
        raise ParameterError(f"{path} lacks super_class or strat_fold; the probe needs signals, labels and folds.")
    rows = np.flatnonzero(np.isin(packed.folds, [*train_folds, *test_folds]))
    labels = np.array([[name in names[row] for name in classes] for row in rows], dtype=np.int64)
    parts = [np.flatnonzero(np.isin(packed.folds[rows], list(part))) for part in (train_folds, test_folds)]
    return Labelled([_record(packed, row) for row in rows.tolist()], labels, parts[0], parts[1], tuple(classes))


def load_label_table(path: str | Path, shards: ShardSet | None = None) -> Labelled:
    """Read labelled records of one's own from a table.

    Parameters
    ----------
    path : path-like
        As :mod:`skecg.datasets.tables` describes; a column ``row`` instead of ``path`` names rows of the shards, which
        say whose they are where the table does not: rows of one recording stay together.
    shards : ShardSet, optional
        Whose rows those are.

    Returns
    -------
    Labelled
        Folds 9 and 10 are left alone; of the others the last quarter is judged by.

    Raises
    ------
    ParameterError
        When the table names rows that are not there, or holds too few folds.
    """
    table = read_label_table(path, whose=None if shards is None else partial(_whose, shards, path))
    folds = sorted(set(table.folds.tolist()) - set(_KEPT_FOLDS))
    if len(folds) < 2:
        raise ParameterError(f"Got folds {folds} in {path} besides 9 and 10, which are left alone; expected several.")
    # The last quarter of the folds judges.
    judging = folds[-max(1, len(folds) // 4) :]
    used = np.flatnonzero(np.isin(table.folds, folds))
    is_test = np.isin(table.folds[used], judging)
    _warn_of_both_sides(path, table.patients[used], is_test)
    sources = [table.sources[row] for row in used]
    files = [table.files[row] for row in used]
    records = _rows_of(shards, sources, path) if table.by_row else read_records(files)
    labels, names = (table.labels, table.classes) if table.classes else (table.targets, table.target_names)
    parts = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Labelled(records, labels[used], *parts, names, is_filtered=table.by_row)


def _warn_of_both_sides(path: str | Path, patients: NDArray[np.str_], is_test: NDArray[np.bool_]) -> None:
    """Warn of patients, or recordings of nobody, that the table's own folds put on both sides."""
    shared = np.intersect1d(patients[is_test], patients[~is_test])
    if shared.size:
        message = (
            f"Got {shared.size} patients of {path} on both sides of the probe ({str(shared[0])!r} is the first), so "
            "its scores will be too good. Give all that is of one the same fold."
        )
        warnings.warn(message, LeakageWarning, stacklevel=user_stacklevel())


def _row_numbers(shards: ShardSet | None, sources: Sequence[str], path: str | Path) -> NDArray[np.int64]:
    if shards is None or not all(source.isdecimal() and int(source) < shards.n_records for source in sources):
        raise ParameterError(f"Got the column 'row' in {path}, expected numbers of rows of the run's shards, from 0.")
    return np.array(sources, dtype=np.int64)


def _whose(shards: ShardSet, path: str | Path, sources: Sequence[str]) -> list[str]:
    """Return whom rows of the shards are of: a patient of their corpus, or else the recording itself."""
    rows = _row_numbers(shards, sources, path)
    names = np.where(shards.patients[rows] == "", shards.sources[rows], shards.patients[rows])
    return [f"{shards.corpora[k]}/{name}" for k, name in zip(shards.corpus_of[rows].tolist(), names, strict=True)]


def _rows_of(shards: ShardSet | None, sources: Sequence[str], path: str | Path) -> list[ECGRecord]:
    """Return rows of the shards as records."""
    rows = _row_numbers(shards, sources, path)
    assert shards is not None
    millivolts = shards.gather(rows) * (shards.scale_uv[rows] / 1e3)[:, None, None]
    return [
        ECGRecord(signal[mask, :n], shards.sampling_rate, np.array(shards.leads)[mask].tolist())
        for signal, mask, n in zip(millivolts, shards.lead_mask[rows], shards.valid_samples[rows].tolist(), strict=True)
    ]


def _record(packed: LabelledECGs, row: int) -> ECGRecord:
    record = packed.records[row]
    if isinstance(record, ECGRecord):
        return record
    assert packed.sampling_rate is not None
    assert packed.leads is not None
    return ECGRecord(record, packed.sampling_rate, packed.leads)


def synthetic_labelled(n_records: int = 400, *, sampling_rate: float = 250.0, seed: int = 0) -> Labelled:
    """Make labelled records of hearts that never beat.

    Parameters
    ----------
    n_records : int, default=400
        Three quarters of them to fit on.
    sampling_rate : float, default=250.0
    seed : int, default=0

    Returns
    -------
    Labelled
        Classes ``af``, ``pvc``, ``lbbb`` and ``rbbb``.
    """
    from skecg.datasets import make_ecg

    records, labels = make_ecg(
        n_records,
        sampling_rate=sampling_rate,
        rhythm={"sinus": 2, "af": 1, "pvc": 1},
        conduction={"normal": 2, "lbbb": 1, "rbbb": 1},
        noise=(0.01, 0.08),
        random_state=seed,
    )
    kinds = (("rhythm", "af"), ("rhythm", "pvc"), ("conduction", "lbbb"), ("conduction", "rbbb"))
    table = np.column_stack([labels[kind] == name for kind, name in kinds]).astype(np.int64)
    rows = np.arange(n_records)
    n_train = 3 * n_records // 4
    return Labelled(records, table, rows[:n_train], rows[n_train:], tuple(name for _, name in kinds))


def _warn_of_copies(records: Sequence[ECGRecord], n_train: int) -> None:
    """Warn of records to judge by that equal records to fit on, whatever they are called."""
    digests = [hashlib.sha256(record.signal.tobytes()).digest() for record in records]
    fitted = dict(zip(digests[:n_train], records, strict=False))
    copies = [
        (record, fitted[d]) for d, record in zip(digests[n_train:], records[n_train:], strict=True) if d in fitted
    ]
    if copies:
        one, another = (record.name or "without a name" for record in copies[0])
        message = (
            f"Got {len(copies)} records to judge by that equal records to fit on ({one} and {another} are the first), "
            "so the probe's scores will be too good. Remove copies, or give them the same patient."
        )
        warnings.warn(message, LeakageWarning, stacklevel=user_stacklevel())


def _sample(rows: NDArray[np.int64], n_kept: int) -> NDArray[np.int64]:
    """Pick rows at random, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:n_kept])


def _explained(
    fitted: NDArray[np.float32], values: NDArray[Any], judged: NDArray[np.float32], truth: NDArray[Any]
) -> float:
    """Fit a ridge regression on standardized features and return the share of variance that it explains elsewhere."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge(alpha=1 / _INVERSE_STRENGTH))
    model.fit(fitted.astype(np.float64), values)
    return float(model.score(judged.astype(np.float64), truth))


def _auroc(
    fitted: NDArray[np.float32], labels: NDArray[np.int64], judged: NDArray[np.float32], truth: NDArray[np.int64]
) -> float:
    """Fit a logistic regression on standardized features and give the area under its ROC curve elsewhere."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Double precision: the features of a collapsed encoder differ by little more than float32 can tell apart.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_STRENGTH, max_iter=2000))
    model.fit(fitted.astype(np.float64), labels)
    return float(area_under_roc(truth, model.decision_function(judged.astype(np.float64)))[0])
