"""Does a token know where it is in the heart beat? P, QRS and T waves from frozen tokens by a linear head.

The encoder is frozen and its tokens come through :meth:`skecg.JEPAEmbedder.transform_tokens`. A linear map predicts,
from the features of one token, the class of every instant in its span (4 ms apart), see
:mod:`skecg.evaluation.token_head`; its penalty is chosen among a few on a fifth of the training patients. Patients are
split in five, and every record is predicted by the head that its patient had no part in. Nothing is smoothed.

No number of a frozen encoder under a linear token head on LUDB is known to us. The nearest are Beat-SSL's (a
pre-trained encoder and a trained decoder, F1 0.911 by instant) and Kim's (frozen and linear, mean intersection over
union of the four classes 0.888, on PTB-XL with labels made by a segmentation model).

Which lead's labels a token is held to depends on what it sees, and has to be said with every number (`target`):

``"each"``
    Every lead by itself, as annotated. A leadwise encoder's token is held to its own lead, with one head for all; a
    temporal encoder's token, which sees all leads, has one head for each.
``"majority"``
    One trace a record: what most of the leads say. A leadwise encoder's tokens of one slice of time are set side by
    side.
a lead's name
    That lead alone, otherwise as ``"majority"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skecg.datasets.labelled import Waves
from skecg.devices import resolve_device
from skecg.errors import ParameterError, ShapeError
from skecg.evaluation.token_head import TokenHead
from skecg.evaluation.token_slices import Slices, slices_of
from skecg.evaluation.wave_labels import WAVE_CLASSES, Trace, wave_traces
from skecg.progress import count_progress
from skecg.tokens import RecordTokens

__all__ = ["PredictedTrace", "WaveProtocol", "patient_folds", "predict_background", "predict_waves"]

_VALIDATION_FOLDS = 5


@dataclass(frozen=True)
class WaveProtocol:
    """How the head is asked; every number is to be given with it.

    Parameters
    ----------
    target : str, default="majority"
        Whose labels; see the module.
    context : int, default=0
        Tokens on either side whose features the head sees as well.
    grid_hz : float, default=250.0
        Instants a second (Hz) that are predicted and scored.
    n_folds : int, default=5
        Parts of the patients.
    penalties : tuple of float, default=(1e-2, 1e-3, 1e-4)
        To choose from, see :mod:`skecg.evaluation.token_head`.
    seed : int, default=0
        Decides who is in which part.
    device : str, default="cpu"
        Where the head is fitted.
    """

    target: str = "majority"
    context: int = 0
    grid_hz: float = 250.0
    n_folds: int = 5
    penalties: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.context < 0 or self.n_folds < 2 or not self.grid_hz > 0 or not self.penalties:
            raise ParameterError(
                f"Got {self}, expected context of 0 or more, 2 folds or more, a positive grid and a penalty."
            )


@dataclass(frozen=True, eq=False)
class PredictedTrace:
    """What a head said of one trace that it was not fitted on.

    Parameters
    ----------
    record : int
        Number of the record.
    labels : ndarray of shape (n_instants,), int8
        Index into :data:`skecg.evaluation.wave_labels.WAVE_CLASSES`, from 0 s on.
    grid_hz : float
        Labels a second (Hz).
    truth : Trace
    """

    record: int
    labels: NDArray[np.int8]
    grid_hz: float
    truth: Trace

    @property
    def true_labels(self) -> NDArray[np.int8]:
        """The annotations at the instants predicted."""
        return self.truth.at(np.arange(len(self.labels)) / self.grid_hz)


def predict_waves(
    tokens: Sequence[RecordTokens],
    waves: Sequence[Waves],
    patients: ArrayLike,
    protocol: WaveProtocol | None = None,
    *,
    verbose: int = 0,
) -> list[PredictedTrace]:
    """Predict every record by heads fitted on other patients.

    Parameters
    ----------
    tokens : sequence of RecordTokens
        From a frozen encoder, or :func:`skecg.evaluation.token_slices.raw_tokens`.
    waves : sequence of Waves
        Annotations of the same records.
    patients : array-like of shape (n_records,)
        Who each record is of.
    protocol : WaveProtocol, optional
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    list of PredictedTrace
        One for each record, or for each lead of each record with ``target="each"``. Score them with
        :func:`skecg.evaluation.wave_scores.score_waves`.
    """
    how = protocol or WaveProtocol()
    who = np.asarray(patients)
    if not len(tokens) == len(waves) == len(who) or who.ndim != 1:
        raise ShapeError(
            f"Got {len(tokens)} tokens, {len(waves)} waves, {who.shape} patients; expected one for each record."
        )
    folds, found = patient_folds(who, how.n_folds, how.seed), []
    heads = _traces_by_head(tokens, waves, how.target)
    with count_progress(len(heads) * how.n_folds, "wave probe", "fit", verbose=verbose) as shown:
        for traces in heads.values():
            slices = [slices_of(tokens[row], trace, how.target, how.context, how.grid_hz) for row, trace in traces]
            fold_of = np.array([folds[row] for row, _ in traces])
            of_patient = who[[row for row, _ in traces]]
            for fold in range(how.n_folds):
                train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
                head = _fit([slices[i] for i in train], of_patient[train], how)
                found += [
                    PredictedTrace(traces[i][0], _apply(head, slices[i]), how.grid_hz, traces[i][1]) for i in test
                ]
                shown.update(1)
    return sorted(found, key=lambda trace: trace.record)


def predict_background(
    waves: Sequence[Waves], target: str = "majority", grid_hz: float = 250.0
) -> list[PredictedTrace]:
    """Call every instant background, the most frequent class: the floor of every score."""
    return [
        PredictedTrace(row, np.zeros(round(len(trace.labels) / trace.sampling_rate * grid_hz), np.int8), grid_hz, trace)
        for row, some in enumerate(waves)
        for trace in wave_traces(some, target)
    ]


def patient_folds(patients: NDArray[np.generic], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Give each record the fold (from 0) of its patient; folds hold equally many patients, or one more."""
    names, index = np.unique(patients, return_inverse=True)
    if len(names) < n_folds:
        raise ParameterError(f"Got {len(names)} patients for {n_folds} folds, expected a patient for each.")
    return (np.random.default_rng(seed).permutation(len(names)) % n_folds)[index]


def _traces_by_head(
    tokens: Sequence[RecordTokens], waves: Sequence[Waves], target: str
) -> dict[str, list[tuple[int, Trace]]]:
    """Say which head learns which traces: one learns all, or each lead's its own where tokens see all leads."""
    heads: dict[str, list[tuple[int, Trace]]] = {}
    for row, (some, known) in enumerate(zip(tokens, waves, strict=True)):
        sees_all = bool((some.leads == "all").all())
        for trace in wave_traces(known, target):
            if target != "each" or sees_all or trace.lead in some.leads:
                heads.setdefault(trace.lead if target == "each" and sees_all else "", []).append((row, trace))
    return heads


def _fit(slices: Sequence[Slices], patients: NDArray[np.generic], how: WaveProtocol) -> TokenHead:
    """Fit a head, its penalty chosen on a fifth of the patients."""
    device, best = resolve_device(how.device), None
    if len(how.penalties) > 1:
        best = _best_of(
            slices, patient_folds(patients, min(_VALIDATION_FOLDS, len(np.unique(patients))), how.seed), how
        )
    penalty = how.penalties[0] if best is None else best.penalty
    return TokenHead(len(WAVE_CLASSES), penalty, device).fit(*_known(slices, np.ones(len(slices), dtype=bool)), best)


def _best_of(slices: Sequence[Slices], part: NDArray[np.int64], how: WaveProtocol) -> TokenHead:
    """Fit all penalties on the parts but the first, each from where the last ended, and give the best on the first."""
    train, held = _known(slices, part != 0), _known(slices, part == 0)
    heads: list[TokenHead] = []
    for penalty in how.penalties:
        head = TokenHead(len(WAVE_CLASSES), penalty, resolve_device(how.device))
        heads.append(head.fit(*train, heads[-1] if heads else None))
    return min(heads, key=lambda head: head.cross_entropy(*held))


def _known(slices: Sequence[Slices], chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Collect the tokens of the traces chosen whose every instant has a label."""
    some = [part for part, use in zip(slices, chosen, strict=True) if use]
    known = [(part.labels >= 0).all(axis=1) for part in some]
    features = np.concatenate([part.features[rows] for part, rows in zip(some, known, strict=True)])
    return features, np.concatenate([part.labels[rows] for part, rows in zip(some, known, strict=True)])


def _apply(head: TokenHead, slices: Slices) -> NDArray[np.int8]:
    """Label every instant of a trace; where tokens overlap by the mean of what they say."""
    scores = np.exp(head.log_probabilities(slices.features))
    instants = slices.first_instants[:, None] + np.arange(scores.shape[1])
    total = np.zeros((int(instants.max()) + 1, scores.shape[2]), dtype=np.float64)
    np.add.at(total, instants, scores)
    return total.argmax(axis=1).astype(np.int8)
