"""Tokens in the order of time, beside their neighbours, with the labels of the instants they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skecg.embedder import JEPAEmbedder
from skecg.errors import ShapeError
from skecg.evaluation.crops import source_of
from skecg.evaluation.wave_labels import Trace
from skecg.spec import LeadwiseConfig, MultiscaleConfig
from skecg.tokens import RecordTokens
from skecg.windows import Windows, prepare

__all__ = ["Slices", "raw_tokens", "slices_of"]


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
    row_at = {round(start / span_seconds, 3): row for row, start in enumerate(starts)}
    parts = []
    for step in range(-context, context + 1):
        part = np.zeros_like(features)
        for row, start in enumerate(starts):
            neighbour = row if step == 0 else row_at.get(round(start / span_seconds + step, 3))
            if neighbour is not None:
                part[row] = features[neighbour]
        parts.append(part)
    return parts[0] if context == 0 else np.concatenate(parts, axis=1)


def raw_tokens(embedder: JEPAEmbedder, X: Any) -> list[RecordTokens]:
    """Give in the place of tokens the samples that each token sees, prepared as the encoder wants them.

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
    source, recipe = source_of(embedder, X), embedder.recipe()
    shape = recipe.info.encoder
    by_lead = isinstance(shape, LeadwiseConfig) or (isinstance(shape, MultiscaleConfig) and shape.lead_groups > 1)
    found = []
    for row in range(len(source)):
        policies = {"missing_leads": embedder.missing_leads, "short_records": embedder.short_records}
        windows = prepare([source[row]], recipe.info.spec, stride=embedder.stride, **policies)
        found.append(_cut(windows, shape.patch_samples, by_lead))
    return found


def _cut(windows: Windows, patch_samples: int, by_lead: bool) -> RecordTokens:
    """Cut the windows of one record into slices of time."""
    rate, n_leads = windows.spec.sampling_rate, len(windows.spec.leads)
    parts, starts = [], []
    for values, start, n_valid in zip(windows.values, windows.start_samples, windows.valid_samples, strict=True):
        n_slices = -(-int(n_valid) // patch_samples)
        slices = values[:, : n_slices * patch_samples].reshape(n_leads, n_slices, patch_samples)
        parts.append(slices if by_lead else slices.transpose(1, 0, 2).reshape(1, n_slices, -1))
        starts.append((start + np.arange(n_slices) * patch_samples) / rate)
    joined = np.concatenate(parts, axis=1)
    begins = np.tile(np.concatenate(starts), len(joined))
    names = np.repeat(np.array(windows.spec.leads if by_lead else ["all"]), joined.shape[1])
    return RecordTokens(joined.reshape(-1, joined.shape[2]), begins, begins + patch_samples / rate, names)
