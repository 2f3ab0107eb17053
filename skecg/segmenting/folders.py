"""A segmenter on disk: ``segmenter.json`` and ``decoder.safetensors`` in its encoder's weights folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from skecg.errors import WeightsError, WeightsFormatError
from skecg.evaluation.wave_labels import WAVE_CLASSES
from skecg.finetuning.fitted_folders import SEGMENTER, Origin, parameters_of, read_fitted, read_top, write_fitted
from skecg.segmenting.decoder import SegmentingNetwork, build_decoder
from skecg.weights import load_encoder

if TYPE_CHECKING:
    from skecg.encoders import Encoder
    from skecg.segmenting.decoder import WaveDecoder
    from skecg.segmenting.segmenter import Segmenter

__all__ = ["read_segmenter", "write_segmenter"]

Estimator = TypeVar("Estimator", bound="Segmenter")


def write_segmenter(segmenter: Segmenter, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a fitted segmenter."""
    fitted = {"n_features_in": getattr(segmenter, "n_features_in_", None)}
    write_fitted(SEGMENTER, segmenter, folder, provenance, {"classes": list(WAVE_CLASSES), "fitted": fitted})


def read_segmenter(cls: type[Estimator], folder: str | Path) -> Estimator:
    """Read a fitted segmenter."""
    folder = Path(folder)
    values, info = read_fitted(SEGMENTER, folder)
    if values["classes"] != list(WAVE_CLASSES):
        raise WeightsFormatError(f"{folder / SEGMENTER.description} has other classes than this skecg. Save it again.")
    encoder, spec = load_encoder(folder)
    try:
        segmenter = cls(**parameters_of(values))
        origin, n_features = Origin(**values["origin"]), values["fitted"]["n_features_in"]
        decoder = _read_decoder(folder, encoder, int(segmenter.width))
    except WeightsError:
        raise
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        path = folder / SEGMENTER.description
        raise WeightsFormatError(f"{path} is malformed ({error}). Save the segmenter again.") from error
    segmenter.network_ = SegmentingNetwork(encoder, decoder).requires_grad_(False).eval()
    segmenter.spec_, segmenter.pooling_, segmenter.origin_ = spec, info.pooling, origin
    segmenter.classes_ = np.arange(len(WAVE_CLASSES), dtype=np.int8)
    if n_features is not None:
        segmenter.n_features_in_ = int(n_features)
    return segmenter


def _read_decoder(folder: Path, encoder: Encoder, width: int) -> WaveDecoder:
    """Build the decoder, refusing anything but exactly its tensors."""
    state = read_top(SEGMENTER, folder)
    # Before anything is built: a width that does not belong to the tensors could ask for any amount of memory.
    if state["unfold.bias"].numel() != encoder.config.patch_samples * width:
        raise WeightsFormatError(
            f"{folder / SEGMENTER.description} is malformed (a decoder that is not {width} wide). Save it again."
        )
    decoder = build_decoder(encoder, len(WAVE_CLASSES), width, seed=0)
    decoder.load_state_dict(state, strict=True)
    return decoder.float()
