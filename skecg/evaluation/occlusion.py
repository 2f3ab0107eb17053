"""Which leads and which moments a probability rests on: hide them, and see what is left of it.

A piece of a lead is hidden by the straight line between its ends, so that nothing jumps where it begins and ends. What
a piece is worth is how far the log-odds fall without it (Zeiler and Fergus, 2014): probabilities near 0 and 1 hardly
move, whatever is hidden. Pieces that say the same, as leads do that are computed from each other, hide each other's
worth; hence also whole leads, and all leads of a moment, are hidden. Beats say the same, too: hence a phase of all
beats is hidden at once (the P waves, the QRS complexes, the ST segments, the T waves), by the level before the QRS
complex: between the ends of an elevated ST segment the straight line is elevated, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.errors import ParameterError, SignalWarning, SkecgWarning, UnitsWarning, user_stacklevel
from skecg.inference.inputs import read_as
from skecg.io import read_record
from skecg.preprocessing.r_peaks import find_r_peaks
from skecg.preprocessing.signals import fill_gaps
from skecg.records import ECGRecord
from skecg.validation import check_choice, check_integer, is_number

__all__ = ["Explanation", "explain"]

FloatArray = NDArray[np.float64]

#: Phases of a beat, and when they begin and end: seconds from the R peak.
PHASES = {"P": (-0.25, -0.08), "QRS": (-0.08, 0.08), "ST": (0.08, 0.2), "T": (0.2, 0.45)}

_LEVEL_SECONDS = 0.03

# A probability of 0 or 1 has log-odds, too. Nearer to 1 there are hardly any numbers left.
_LEAST_PROBABILITY = 1e-15
_MOST_LOG_ODDS = 0.999 * float(np.log(1 / _LEAST_PROBABILITY))  # of such a one, whatever rounding


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a probability rests on.

    Parameters
    ----------
    record : ECGRecord
    target : object
        Class, or number of the column of probabilities.
    probability : float
        Of the whole record.
    edges : ndarray of shape (n_pieces + 1,), float64
        Where pieces begin and end (s).
    pieces : ndarray of shape (n_leads, n_pieces), float64
        How far the log-odds fall without a piece of a lead; below 0 where they rise.
    leads : ndarray of shape (n_leads,), float64
        Without a whole lead; NaN where the record has a single one.
    moments : ndarray of shape (n_pieces,), float64
        Without all leads of a piece of time.
    phases : ndarray of shape (4,), float64
        Without the P waves, QRS complexes, ST segments and T waves of all beats, in all leads; NaN where no beat was
        found.
    """

    record: ECGRecord
    target: Any
    probability: float
    edges: FloatArray
    pieces: FloatArray
    leads: FloatArray
    moments: FloatArray
    phases: FloatArray

    def plot(self, of: str = "leads", **options: Any) -> Any:
        """Draw the record with what is worth something behind it.

        Parameters
        ----------
        of : {"leads", "pieces", "phases"}, default="leads"
            How faithful each is: :doc:`/explaining`.
        **options
            As of :func:`skecg.plotting.plot_explanation`.

        Raises
        ------
        ParameterError
            For leads of a record that has a single one, and for phases of one in which no beat was found.
        """
        from skecg.plotting import plot_explanation

        check_choice("of", of, ("leads", "pieces", "phases"))
        if of == "leads":
            if len(self.leads) == 1:
                raise ParameterError(
                    f"Got of='leads' for {self.record.name!r}, which has a single lead. Draw pieces or phases."
                )
            return plot_explanation(self.record, self.leads[:, None], self.edges[[0, -1]], **options)
        if of == "pieces":
            return plot_explanation(self.record, self.pieces, self.edges, **options)
        return plot_explanation(self.record, *self._painted_phases(), **options)

    def _painted_phases(self) -> tuple[FloatArray, FloatArray]:
        """Return what each stretch of time is worth in each lead, and where stretches begin and end."""
        spans = _phase_spans(self.record)
        if not spans:
            raise ParameterError(
                f"Got of='phases' for {self.record.name!r}, in which no beat was found. Draw leads or pieces."
            )
        cuts = np.unique([0, self.record.n_samples, *(edge for *_, span in spans for edge in (span.start, span.stop))])
        worth = np.zeros(len(cuts) - 1)
        for phase, _, span in spans:
            worth[(cuts[:-1] >= span.start) & (cuts[1:] <= span.stop)] = self.phases[phase]
        return np.tile(worth, (len(self.record.leads), 1)), cuts / self.record.sampling_rate


def explain(
    pipeline: Any,
    record: ECGRecord | str | Path,
    target: Any = None,
    *,
    piece_seconds: float = 0.4,
    batch_records: int = 128,
) -> Explanation:
    """Attribute a fitted pipeline's probability to leads and moments by hiding them.

    Parameters
    ----------
    pipeline : estimator
        Fitted, with ``predict_proba`` of records: a pipeline that begins with :class:`skecg.JEPAEmbedder`, whose cache
        makes a second look free; or a :class:`skecg.FineTunedClassifier`.
    record : ECGRecord, str or Path
        A file is read with the rate, leads and unit that the embedder was told.
    target : object, optional
        Class to explain; of several labels the number of the column. None takes the most probable.
    piece_seconds : float, default=0.4
        Length of what is hidden at a time, half of the record at most. A record of twelve leads and 10 s is predicted
        342 times.
    batch_records : int, default=128
        Copies of the record in memory at a time.

    Returns
    -------
    Explanation

    Raises
    ------
    ParameterError
        When the pipeline has no probabilities, no such class, or a number is not allowed.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skecg import JEPAEmbedder, explain
    >>> from skecg.datasets import make_ecg
    >>> records, labels = make_ecg(12, conduction=["normal", "lbbb"], sampling_rate=250, random_state=0)
    >>> pipeline = make_pipeline(JEPAEmbedder(), LogisticRegression()).fit(records, labels["conduction"])
    >>> explain(pipeline, records[0], "lbbb", piece_seconds=5.0).pieces.shape
    (12, 2)
    """
    if not hasattr(pipeline, "predict_proba"):
        raise ParameterError(f"Got {type(pipeline).__name__}, which has no predict_proba. Pass a fitted classifier.")
    check_integer("batch_records", batch_records, 1)
    if not (is_number(piece_seconds) and piece_seconds > 0):
        raise ParameterError(f"Got piece_seconds={piece_seconds!r}, expected a positive number of seconds.")
    whole = record if isinstance(record, ECGRecord) else _read(pipeline, record)
    n_leads, n_samples = whole.signal.shape
    # Pieces of equal length as near to the wanted one as divides the record: a short rest would look worthless. Of one
    # piece nothing would be left, and what is flat in all leads is no recording.
    n_pieces = max(2, round(n_samples / (piece_seconds * whole.sampling_rate)))
    cuts = np.linspace(0, n_samples, min(n_pieces, n_samples) + 1).round().astype(np.int64)
    # The whole record goes through the same call as its copies, so that rounding is the same for all.
    copies = chain([whole], _hidden(whole, cuts))
    _log_odds(pipeline, [whole])  # by itself first, which warns of what is odd about the record as it is
    with warnings.catch_warnings():
        # Of flat leads, which were hidden here, and of what the record itself was said to be.
        for category in (SignalWarning, UnitsWarning):
            warnings.simplefilter("ignore", category)
        odds = np.concatenate(
            [_log_odds(pipeline, some) for some in iter(lambda: list(islice(copies, batch_records)), [])]
        )
    column, name = _column_of(pipeline, odds[0], target)
    if abs(odds[0, column]) >= _MOST_LOG_ODDS:
        warnings.warn(
            f"Got a probability of {'1' if odds[0, column] > 0 else '0'} for {name!r}, as far as numbers go: what is "
            "hidden may change nothing that can be seen, and seem to be worth 0. Explain a classifier with a stronger "
            "penalty, whose probabilities are less sure.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )
    falls = odds[0, column] - odds[1:, column]
    n_hidden = n_leads if n_leads > 1 else 0
    pieces, leads, moments, phases = np.split(falls, np.cumsum([n_leads * (len(cuts) - 1), n_hidden, len(cuts) - 1]))
    return Explanation(
        whole,
        name,
        float(1 / (1 + np.exp(-odds[0, column]))),
        cuts / whole.sampling_rate,
        pieces.reshape(n_leads, -1),
        leads if len(leads) else np.full(n_leads, np.nan),
        moments,
        phases if len(phases) else np.full(len(PHASES), np.nan),
    )


def _read(pipeline: Any, path: str | Path) -> ECGRecord:
    """Read a file as what reads in a pipeline does, however it is wrapped; plainly where nothing is seen to read."""
    reader = pipeline
    while reader is not None and not all(hasattr(reader, name) for name in ("sampling_rate", "leads", "units")):
        steps = getattr(reader, "steps", None)
        inner = (getattr(reader, name, None) for name in ("best_estimator_", "estimator_", "estimator", "embedder"))
        reader = steps[0][1] if steps else next((one for one in inner if one is not None), None)
    return read_record(path) if reader is None else read_as(reader, path)


def _hidden(record: ECGRecord, cuts: NDArray[np.int64]) -> Iterator[ECGRecord]:
    """Yield the record without each piece of each lead, each whole lead, and each moment of all leads."""
    every = slice(None)
    spans = [slice(first, last) for first, last in pairwise(cuts)]
    rows = [slice(row, row + 1) for row in range(len(record.leads))]
    places = [(row, span) for row in rows for span in spans]
    # Without its only lead nothing would be left of a record.
    whole = [(row, slice(0, record.signal.shape[1])) for row in rows if len(rows) > 1]
    places += whole + [(every, span) for span in spans]
    for row, span in places:
        signal = record.signal.copy()
        signal[row, span] = _line_through(signal[row], span)
        yield ECGRecord(signal, record.sampling_rate, record.leads, record.name)
    yield from _without_phases(record)


def _without_phases(record: ECGRecord) -> Iterator[ECGRecord]:
    """Yield the record without each phase of all beats in all leads; nothing where no beat was found."""
    spans = _phase_spans(record)
    before = max(1, round(_LEVEL_SECONDS * record.sampling_rate))
    for hidden in range(len(PHASES)) if spans else []:
        signal = record.signal.copy()
        for phase, peak, span in spans:
            if phase == hidden:
                stop = max(1, peak + round(PHASES["QRS"][0] * record.sampling_rate))
                level = record.signal[:, max(0, stop - before) : stop]
                signal[:, span] = _medians(level)
        yield ECGRecord(signal, record.sampling_rate, record.leads, record.name)


def _phase_spans(record: ECGRecord) -> list[tuple[int, int, slice]]:
    """Return phases of beats, their R peaks, and where they are; none reaches into the next beat's P wave."""
    rate, n_samples = record.sampling_rate, record.n_samples
    peaks = find_r_peaks(np.nan_to_num(fill_gaps(record.signal)), rate)
    ends = np.append(peaks[1:] + round(PHASES["P"][0] * rate), n_samples)[: len(peaks)]
    spans = []
    for peak, last in zip(peaks.tolist(), ends.tolist(), strict=True):
        for phase, (begin, end) in enumerate(PHASES.values()):
            start, stop = max(0, peak + round(begin * rate)), min(last, n_samples, peak + round(end * rate))
            if start < stop:
                spans.append((phase, peak, slice(start, stop)))
    return spans


def _line_through(signal: NDArray[np.float32], span: slice) -> NDArray[np.float32]:
    """Return the line between the ends of a piece, but for gaps there; a whole lead's is level, at its median."""
    piece = signal[:, span]
    if piece.shape[1] == signal.shape[1]:
        return np.broadcast_to(_medians(piece), piece.shape)
    known, rows = np.isfinite(piece), np.arange(len(piece))
    first, last = known.argmax(axis=1), piece.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.linspace(piece[rows, first], piece[rows, last], piece.shape[1], axis=1, dtype=np.float32)


def _medians(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median of each lead (n_leads, 1), gaps left out; NaN of a lead that is all gap."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(signal, axis=1, keepdims=True)


def _log_odds(pipeline: Any, records: list[ECGRecord]) -> FloatArray:
    """Return log-odds (n_records, n_classes or n_labels)."""
    found = pipeline.predict_proba(records)
    if isinstance(found, list):  # a table for each label, as scikit-learn's MultiOutputClassifier has them
        shapes = {table.shape[1] for table in found}
        if shapes != {2}:
            raise ParameterError(
                f"Got labels of {', '.join(map(str, sorted(shapes)))} classes, expected two of each. Explain a "
                "classifier of one label at a time."
            )
        found = np.stack([table[:, 1] for table in found], axis=1)
    found = np.clip(np.asarray(found, dtype=np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.log(found) - np.log1p(-found)


def _column_of(pipeline: Any, odds: FloatArray, target: Any) -> tuple[int, Any]:
    """Return which column of probabilities is asked for, and what it is called."""
    classes = getattr(pipeline, "classes_", None)
    names = list(range(len(odds)) if classes is None or np.ndim(classes) != 1 else np.asarray(classes).tolist())
    if target is None:
        return int(odds.argmax()), names[int(odds.argmax())]
    if target not in names:
        raise ParameterError(f"Got target={target!r}, expected one of {', '.join(map(repr, names))}.")
    return names.index(target), target
