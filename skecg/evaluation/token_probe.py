"""A linear map from a token to the class of every instant it covers, fitted to the optimum.

Shapes: n tokens, F features of each, S instants within a token, K classes.

For every instant of the token's span there is a multinomial logistic regression on the token's features; all are fitted
together, to minimize the mean cross entropy over tokens and instants plus half the penalty times the sum of squares of
the weights (of standardized features, biases free) over S. That is convex: one optimum, no seed. Least squares to
one-hot targets would be quicker still but is a poor classifier of waves that are rare at every instant: on LUDB with an
untrained encoder it found no P wave (F1 0.005 where this has 0.46).

The solver is that of :class:`skecg.LogisticProbe`, :mod:`skecg.linear_model.newton`, with all instants side by side.
Tokens stand in the order of time, beside their neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skecg.annotations import Trace
from skecg.embedder import JEPAEmbedder
from skecg.errors import ShapeError
from skecg.inference.inputs import record_source
from skecg.inference.pipeline import RecordTokens
from skecg.linear_model.newton import Softmax, minimize, whiten
from skecg.preprocessing.windows import Windows, prepare, prepared_rate

__all__ = ["Slices", "TokenHead", "raw_tokens", "slices_of"]

# Six are enough, but for a class that an instant never has: its bias falls by one a step, without end.
_MAX_STEPS = 12

# Probabilities are then within 3e-4 of the optimum's; ten times as exact costs a third more time.
_TOLERANCE = 1e-2


@dataclass(eq=False)
class TokenHead:
    """Predict the class of every instant of a token.

    Parameters
    ----------
    n_classes : int
    penalty : float
        See the module.
    """

    n_classes: int
    penalty: float
    n_instants: int = field(init=False)
    mean: NDArray[np.float32] = field(init=False)
    scale: NDArray[np.float32] = field(init=False)
    weights: NDArray[np.float32] = field(init=False)
    bias: NDArray[np.float32] = field(init=False)

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.integer]) -> Self:
        """Find the weights.

        Parameters
        ----------
        features : ndarray of shape (n, F), float32
        labels : ndarray of shape (n, S)
            Class numbers, none unknown.

        Returns
        -------
        self
        """
        if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels) or not len(features):
            raise ShapeError(f"Got features {features.shape} and labels {labels.shape}, expected (n, F) and (n, S).")
        if labels.min() < 0 or labels.max() >= self.n_classes:
            raise ShapeError(f"Got labels {labels.min()} to {labels.max()}, expected 0 to {self.n_classes - 1}.")
        self.n_instants = labels.shape[1]
        self.mean, spread = features.mean(axis=0), features.std(axis=0)
        # A feature that never changes (a dead unit) would divide by zero.
        self.scale = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
        design = whiten(self._standardized(features), intercept=True)
        shape = len(features), self.n_instants * self.n_classes
        has = (labels[:, :, None] == np.arange(self.n_classes)).reshape(shape)
        start = np.zeros((design.values.shape[1], shape[1]))
        # Half a token more for each class: one that an instant never has would begin at minus infinity.
        start[-1] = np.log((has.sum(axis=0) + 0.5) / len(features))
        # The solver sums over tokens where the objective is their mean.
        C = np.full(shape[1], np.inf if self.penalty == 0 else 1 / (self.penalty * len(features)))
        loss = Softmax(has, np.ones((1, 1)), self.n_instants)
        weights, bias = design.weights(minimize(design, loss, C, start, tol=_TOLERANCE, max_iter=_MAX_STEPS).u)
        self.weights, self.bias = weights.T.astype(np.float32), bias.astype(np.float32)
        return self

    def log_probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the log-probabilities (n, S, K) of tokens' instants."""
        logits = self._standardized(features) @ self.weights + self.bias
        return special.log_softmax(logits.reshape(len(features), self.n_instants, -1), axis=-1)

    def cross_entropy(self, features: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
        """Return the mean of minus the log-probabilities of the true classes."""
        found = self.log_probabilities(features)
        return -float(np.take_along_axis(found, labels[..., None].astype(np.int64), axis=-1).mean())

    def _standardized(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return (features - self.mean) / self.scale


@dataclass(frozen=True, eq=False)
class Slices:
    """One trace, token by token.

    Parameters
    ----------
    features : ndarray of shape (n_tokens, F), float32
    first_instants : ndarray of shape (n_tokens,), int64
        Number of the first instant in each token's span.
    labels : ndarray of shape (n_tokens, n_instants), int8
        Of the instants in each span; negative where they count nowhere.
    """

    features: NDArray[np.float32]
    first_instants: NDArray[np.int64]
    labels: NDArray[np.int8]


def slices_of(tokens: RecordTokens, trace: Trace, target: str, context: int, grid_hz: float) -> Slices:
    """Join the tokens of a record that speak of a trace with its labels.

    Parameters
    ----------
    tokens : RecordTokens
    trace : Trace
    target : str
        ``"each"`` takes the tokens of the trace's lead where tokens have leads; anything else sets the tokens of all
        leads in one slice of time side by side.
    context : int
        Tokens on either side whose features are set beside each one's; zeros beyond the ends.
    grid_hz : float
        Instants a second (Hz).
    """
    leads = [trace.lead] if target == "each" and trace.lead in tokens.leads else list(dict.fromkeys(tokens.leads))
    features, starts = _side_by_side(tokens, leads)
    span_seconds = float(tokens.stop_seconds[0] - tokens.start_seconds[0])
    first = np.rint(starts * grid_hz).astype(np.int64)
    instants = first[:, None] + np.arange(round(span_seconds * grid_hz))
    labels = trace.at(instants.ravel() / grid_hz).reshape(instants.shape)
    return Slices(_with_neighbours(features, starts, span_seconds, context), first, labels)


def _side_by_side(tokens: RecordTokens, leads: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Set the tokens of leads in one slice of time side by side."""
    rows = [np.flatnonzero(tokens.leads == lead) for lead in leads]
    starts = tokens.start_seconds[rows[0]]
    for some in rows[1:]:
        if not np.array_equal(tokens.start_seconds[some], starts):
            raise ShapeError(f"Got tokens of leads {', '.join(leads)} at different times, expected the same for all.")
    return np.concatenate([tokens.values[some] for some in rows], axis=1), starts


def _with_neighbours(
    features: NDArray[np.float32], starts: NDArray[np.float64], span_seconds: float, context: int
) -> NDArray[np.float32]:
    """Set each token's neighbours beside it, by time and not by row: windows may overlap."""
    # Rounded, for starts are quotients of samples and rates.
    row_at = {round(start / span_seconds, 3): row for row, start in enumerate(starts)}
    parts = []
    for step in range(-context, context + 1):
        # Beyond the ends of the record a neighbour is zero, as an absent lead is.
        part = np.zeros_like(features)
        for row, start in enumerate(starts):
            neighbour = row if step == 0 else row_at.get(round(start / span_seconds + step, 3))
            if neighbour is not None:
                part[row] = features[neighbour]
        parts.append(part)
    return parts[0] if context == 0 else np.concatenate(parts, axis=1)


def raw_tokens(embedder: JEPAEmbedder, X: Any) -> list[RecordTokens]:
    """Return in the place of tokens the samples that each token sees, prepared as the encoder wants them.

    What a linear head finds in these it did not need an encoder for.

    Parameters
    ----------
    embedder : JEPAEmbedder
        Fitted. Its encoder says how long a token is and whether it sees all leads (all are then side by side) or one.
    X : array-like
        What :meth:`JEPAEmbedder.transform` takes.

    Returns
    -------
    list of RecordTokens
        At the times and leads of the encoder's own, with as many values as samples.
    """
    source, config = record_source(embedder, X, None, reset=False), embedder.embedding_config()
    shape = config.info.encoder
    found = []
    for row in range(len(source)):
        policies = {"missing_leads": embedder.missing_leads, "short_records": embedder.short_records}
        record = source[row]
        windows = prepare([record], config.info.spec, stride=embedder.stride, **policies)
        rate = prepared_rate(record, config.info.spec)
        found.append(_cut(windows, shape.stages[-1].token_samples, shape.token_per_lead, rate))
    return found


def _cut(windows: Windows, patch_samples: int, by_lead: bool, rate: float) -> RecordTokens:
    """Cut the windows of one record into slices of time, at the rate that it came to."""
    n_leads = len(windows.spec.leads)
    parts, starts = [], []
    for values, start, n_valid in zip(windows.values, windows.start_samples, windows.valid_samples, strict=True):
        n_slices = -(-int(n_valid) // patch_samples)
        values = np.pad(values, ((0, 0), (0, max(0, n_slices * patch_samples - values.shape[1]))))
        slices = values[:, : n_slices * patch_samples].reshape(n_leads, n_slices, patch_samples)
        parts.append(slices if by_lead else slices.transpose(1, 0, 2).reshape(1, n_slices, -1))
        starts.append((start + np.arange(n_slices) * patch_samples) / rate)
    joined = np.concatenate(parts, axis=1)
    begins = np.tile(np.concatenate(starts), len(joined))
    names = np.repeat(np.array(windows.spec.leads if by_lead else ["all"]), joined.shape[1])
    return RecordTokens(joined.reshape(-1, joined.shape[2]), begins, begins + patch_samples / rate, names)
