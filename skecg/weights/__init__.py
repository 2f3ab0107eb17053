"""Weights: folders that carry an encoder together with its table manners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skecg.encoders import Encoder
from skecg.errors import ParameterError
from skecg.spec import InputSpec
from skecg.weights.card import write_card
from skecg.weights.folder import FORMAT_VERSION, WeightsInfo, read_info, read_state, write_weights
from skecg.weights.golden import Verification, verify_weights, write_golden
from skecg.weights.loaded import forget_encoders, loaded_encoder
from skecg.weights.names import find_weights, list_models

__all__ = [
    "FORMAT_VERSION",
    "Verification",
    "WeightsInfo",
    "find_weights",
    "forget_encoders",
    "list_models",
    "load_encoder",
    "loaded_encoder",
    "read_info",
    "save_encoder",
    "verify_weights",
]


def load_encoder(
    model: str | Path, *, revision: str | None = None, device: str | None = None
) -> tuple[Encoder, InputSpec]:
    """Load a model's encoder and the description of its input.

    Parameters
    ----------
    model : str or Path
        A name of :func:`skecg.list_models` (or ``"default"``), a weights folder, or ``"owner/name"`` on the Hub.
    revision : str, optional
        Branch, tag or commit, for weights on the Hub.
    device : str, optional
        Where to put it; the CPU when not given, ``"auto"`` for the best device here.

    Returns
    -------
    encoder : Encoder
        A ``torch.nn.Module`` of your own, in evaluation mode.
    spec : InputSpec
        What :func:`skecg.prepare` needs to feed it.

    Raises
    ------
    WeightsError
        When the weights cannot be found, are damaged, or are of a newer format.

    Examples
    --------
    >>> import skecg
    >>> encoder, spec = skecg.load_encoder("default")
    >>> spec.sampling_rate, encoder.config.architecture
    (250.0, 'temporal')
    """
    from skecg.devices import resolve_device

    info = find_weights(model, revision=revision)
    return read_state(info).to(resolve_device(device or "cpu")), info.spec


def save_encoder(
    folder: str | Path, encoder: Encoder, spec: InputSpec, *, pooling: str = "mean", **provenance: Any
) -> None:
    """Write a weights folder: configuration, tensors, golden vectors and a card.

    Parameters
    ----------
    folder : str or Path
        Created when absent; files of these names in it are replaced.
    encoder : Encoder
    spec : InputSpec
        What the encoder expects to be fed.
    pooling : {"mean", "max", "mean+std", "cls"}, default="mean"
        How its tokens are pooled unless the user says otherwise.
    **provenance
        Where the weights come from, as plain JSON values: ``name``, ``trained`` (bool), ``licence``, ``data``,
        ``source``, …

    Raises
    ------
    ParameterError
        When they are no encoder and no input specification.
    WeightsFormatError
        When the encoder and the input specification do not fit each other.
    """
    for name, value, kind in (("encoder", encoder, Encoder), ("spec", spec, InputSpec)):
        if not isinstance(value, kind):
            raise ParameterError(
                f"Got {name} of type {type(value).__name__}, expected an {kind.__name__}. load_encoder gives both."
            )
    info = write_weights(folder, encoder, spec, pooling, provenance)
    write_golden(info, read_state(info))
    write_card(info)
