"""A segmenter on disk: the weights folder of its encoder, and beside it the decoder and what it was fitted with.

``segmenter.json`` says what ``decoder.safetensors`` is and which parameters the estimator had. Nothing here opens a
pickle or runs code from a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from skecg.errors import DamagedWeightsError, ParameterError, WeightsError, WeightsFormatError, WeightsNotFoundError
from skecg.evaluation.wave_labels import WAVE_CLASSES
from skecg.finetuning.folders import Origin
from skecg.segmenting.decoder import SegmentingNetwork, build_decoder
from skecg.weights import WeightsInfo, load_encoder, read_info, save_encoder
from skecg.weights.reading import read_json
from skecg.weights.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from skecg.encoders import Encoder
    from skecg.segmenting.decoder import WaveDecoder
    from skecg.segmenting.segmenter import Segmenter

__all__ = ["DECODER_NAME", "SEGMENTER_NAME", "read_segmenter", "write_segmenter"]

#: Names of the files beside those of the weights folder, and the version of their layout.
SEGMENTER_NAME, DECODER_NAME, SEGMENTER_VERSION = "segmenter.json", "decoder.safetensors", 1

_FIELDS = ("skecg_segmenter", "classes", "decoder_sha256", "weights_sha256", "parameters", "fitted", "origin")
# What stays on the machine that trained: a generator's state, and where to compute.
_NOT_SAVED = ("random_state", "device", "n_jobs", "verbose")
_KEPT = ("licence", "licence_note", "data", "data_licences")

Estimator = TypeVar("Estimator", bound="Segmenter")


def write_segmenter(segmenter: Segmenter, folder: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a fitted segmenter."""
    folder = Path(folder)
    parameters = {k: _plain(k, v) for k, v in segmenter.get_params().items() if k not in _NOT_SAVED}
    # The old description goes first: it must not be found beside a new decoder should this be interrupted.
    if folder.is_dir():
        (folder / SEGMENTER_NAME).unlink(missing_ok=True)
    known = {**_provenance(segmenter, folder), **provenance}
    save_encoder(folder, segmenter.network_.encoder, segmenter.spec_, pooling=segmenter.pooling_, **known)
    decoder = {name: tensor.contiguous() for name, tensor in segmenter.network_.head.state_dict().items()}
    save_tensors(folder / DECODER_NAME, decoder, {"format": "pt"})
    values = {
        "skecg_segmenter": SEGMENTER_VERSION,
        "classes": list(WAVE_CLASSES),
        "decoder_sha256": _sha256(folder / DECODER_NAME),
        "weights_sha256": read_info(folder).sha256,
        "parameters": parameters,
        "fitted": {"n_features_in": getattr(segmenter, "n_features_in_", None)},
        "origin": asdict(segmenter.origin_),
    }
    (folder / SEGMENTER_NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _provenance(segmenter: Segmenter, folder: Path) -> dict[str, Any]:
    """Say where the encoder comes from: what was known of the weights at the start, and that they were trained on."""
    origin = segmenter.origin_
    start = str(origin.provenance.get("name") or "other weights")
    return {
        "name": folder.resolve().name,
        "description": f"The encoder of a segmenter that was fine-tuned from {start} with skecg.",
        "trained": True,
        "fine_tuned_from": start,
        "fine_tuned_from_sha256": origin.sha256,
        "fine_tuned_stages": segmenter.stages,
        **{key: value for key, value in origin.provenance.items() if key in _KEPT},
    }


def _plain(name: str, value: Any) -> Any:
    """Give a parameter as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"Got {name}={value!r}, which cannot be written as JSON ({error}). Set it to text, numbers, booleans or "
            "None, and fit again."
        ) from error
    return value


def read_segmenter(cls: type[Estimator], folder: str | Path) -> Estimator:
    """Read a fitted segmenter."""
    folder = Path(folder)
    values = _read_values(folder)
    info = read_info(folder)
    _check_digests(folder, values, info)
    encoder, spec = load_encoder(folder)
    try:
        segmenter = cls(**values["parameters"])
        origin, n_features = Origin(**values["origin"]), values["fitted"]["n_features_in"]
        decoder = _read_decoder(folder, encoder, int(segmenter.width))
    except WeightsError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsFormatError(f"{folder / SEGMENTER_NAME} is malformed ({error}). Save the segmenter again.") from (
            error
        )
    segmenter.network_ = SegmentingNetwork(encoder, decoder).requires_grad_(False).eval()
    segmenter.spec_, segmenter.pooling_, segmenter.origin_ = spec, info.pooling, origin
    segmenter.classes_ = np.arange(len(WAVE_CLASSES), dtype=np.int8)
    if n_features is not None:
        segmenter.n_features_in_ = int(n_features)
    return segmenter


def _read_values(folder: Path) -> dict[str, Any]:
    path = folder / SEGMENTER_NAME
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{folder} holds no {SEGMENTER_NAME}; expected a folder that Segmenter.save wrote. Weights without a "
            "segmenter are loaded by JEPAEmbedder or skecg.load_encoder."
        )
    values = read_json(path)
    version = values.get("skecg_segmenter") if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise WeightsFormatError(f"{path} describes no segmenter: it has no 'skecg_segmenter'. Save it again.")
    if version > SEGMENTER_VERSION:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {SEGMENTER_VERSION}. "
            "Run `pip install --upgrade skecg`."
        )
    if set(values) != set(_FIELDS) or values["classes"] != list(WAVE_CLASSES):
        raise WeightsFormatError(f"{path} lacks or adds a field, or has other classes. Save the segmenter again.")
    return dict(values)


def _check_digests(folder: Path, values: Mapping[str, Any], info: WeightsInfo) -> None:
    """Refuse a decoder that was altered, or that lies beside another encoder than its own."""
    path = folder / DECODER_NAME
    if not path.is_file() or _sha256(path) != values["decoder_sha256"]:
        raise DamagedWeightsError(f"{path} is missing or not what {SEGMENTER_NAME} describes. Restore the folder.")
    if info.sha256 != values["weights_sha256"]:
        raise DamagedWeightsError(
            f"The encoder in {folder} is not the one that its segmenter was trained with. Restore the folder."
        )


def _read_decoder(folder: Path, encoder: Encoder, width: int) -> WaveDecoder:
    """Build the decoder, refusing anything but exactly its tensors."""
    state = load_tensors(folder / DECODER_NAME)
    if state["unfold.bias"].numel() != encoder.config.patch_samples * width:
        raise WeightsFormatError(
            f"{folder / SEGMENTER_NAME} is malformed (a decoder that is not {width} wide). Save the segmenter again."
        )
    decoder = build_decoder(encoder, len(WAVE_CLASSES), width, seed=0)
    decoder.load_state_dict(state, strict=True)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise DamagedWeightsError(f"{folder / DECODER_NAME} holds values that are not finite. Restore the folder.")
    return decoder.float()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
