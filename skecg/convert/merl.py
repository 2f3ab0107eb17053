"""Checkpoints of MERL's ResNet-18 (Liu et al., ICML 2024, arXiv:2403.06659) to weights folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from skecg.convert.checkpoint import (
    Checkpoint,
    ConversionReport,
    check_folder,
    check_tensors,
    open_checkpoint,
    write_folder,
)
from skecg.encoders.resnet import ResnetConfig
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["convert_merl"]

# The authors exchange rows 4 and 5 of the usual order before the encoder sees them.
_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
_SAMPLING_RATE, _WINDOW_SAMPLES = 500.0, 5000
_N_STAGES, _N_BLOCKS = 4, 2
_NORM_EPS = 1e-5
_PART = "the ECG encoder, batch normalization folded into the convolutions"
_OURS = (
    "Theirs is the first 10 s of a record at 500 Hz, scaled by its one minimum and maximum. Ours: other rates are "
    "resampled by polyphase filtering; a record longer than 10 s is scaled as a whole, cut into windows, and its "
    "features are their mean; a shorter one is not padded; limb leads that are absent are computed from two others."
)
_CONTRADICTION = (
    "The authors' linear probe leaves batch normalization in training mode on the frozen encoder, so that its "
    "statistics move with each batch; here it is as the checkpoint has it."
)


def convert_merl(file: str | Path, folder: str | Path, *, sha256: str | None = None) -> ConversionReport:
    """Turn MERL's ResNet-18 into a weights folder.

    Parameters
    ----------
    file : str or Path
        The encoder's state dict as the pre-training script saves it (``*_encoder.pth``), or as safetensors.
    folder : str or Path
        Weights folder to write; files of its names are replaced.
    sha256 : str, optional
        Digest that the file must have, when you know it.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ForeignCheckpointError
        When the file is truncated, altered, carries code, or is another model's.
    ParameterError
        When `folder` is a file.

    Notes
    -----
    The weights expect twelve leads at 500 Hz in windows of 10 s, aVF before aVL, scaled to 0 to 1 by one minimum and
    maximum of the record; features are the mean over time of the last stage.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    state, dropped = _encoder(checkpoint)
    config = _config_of(checkpoint, state)
    check_tensors(checkpoint, state, _wanted(config))
    # One minimum and maximum of all leads, as theirs: a single artefact rescales the whole record.
    spec = InputSpec(_LEADS, _SAMPLING_RATE, _WINDOW_SAMPLES, normalization="minmax")
    write_folder(folder, checkpoint, config, _folded(config, state), spec, _provenance(checkpoint))
    return ConversionReport(
        folder, checkpoint.path, checkpoint.sha256, None, config, spec, _PART, dropped, (_OURS, _CONTRADICTION)
    )


def _encoder(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the tensors that features need; batches are counted for training alone."""
    found = checkpoint.mapping("model") if "model" in checkpoint.content else {}
    if "conv1.weight" not in found or "layer1.0.conv1.weight" not in found:
        raise checkpoint.refuse_other(
            f"{checkpoint.keys_in_words}, no ResNet at the top level",
            "the state dict of MERL's ResNet-18 ('conv1.weight', 'layer1.0.conv1.weight', ...). Its ViT is not "
            "supported.",
        )
    state = {
        name: value
        for name, value in found.items()
        if not name.startswith("linear.") and not name.endswith(".num_batches_tracked")
    }
    return state, ("linear",) * any(name.startswith("linear.") for name in found)


def _config_of(checkpoint: Checkpoint, state: dict[str, Any]) -> ResnetConfig:
    """Read the encoder's widths off its tensors."""
    firsts = [state.get(f"layer{stage}.0.conv1.weight") for stage in range(1, _N_STAGES + 1)]
    if not all(isinstance(first, Tensor) and first.ndim == 3 for first in firsts):
        raise checkpoint.refuse(f"no convolutions in all {_N_STAGES} stages", "MERL's ResNet-18.")
    widths = tuple(len(first) for first in firsts if first is not None)
    return ResnetConfig(len(_LEADS), _WINDOW_SAMPLES, widths, _N_BLOCKS)


def _convolutions(config: ResnetConfig) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Return our name of each convolution to theirs, to its norm's, and to its weight's shape."""
    found: dict[str, tuple[str, str, tuple[int, ...]]] = {
        "stem": ("conv1", "bn1", (config.widths[0], config.n_leads, 7))  # shape (out, in, samples)
    }
    before = config.widths[0]
    for stage, width in enumerate(config.widths):
        for block in range(config.blocks_per_stage):
            theirs, ours = f"layer{stage + 1}.{block}.", f"levels.{stage}.{block}."
            found[f"{ours}conv1"] = f"{theirs}conv1", f"{theirs}bn1", (width, before, 3)
            found[f"{ours}conv2"] = f"{theirs}conv2", f"{theirs}bn2", (width, width, 3)
            # Where neither width nor length changes, the authors' shortcut is the identity and has no tensors.
            if block == 0 and (stage > 0 or width != before):
                found[f"{ours}shortcut"] = f"{theirs}shortcut.0", f"{theirs}shortcut.1", (width, before, 1)
            before = width
    return found


def _wanted(config: ResnetConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of an encoder's tensors."""
    wanted: dict[str, tuple[int, ...]] = {}
    for convolution, norm, shape in _convolutions(config).values():
        wanted[f"{convolution}.weight"] = shape
        wanted |= {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    return wanted


def _folded(config: ResnetConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the factor and the shift of each norm into its convolution."""
    ours = {}
    for name, (convolution, norm, _) in _convolutions(config).items():
        # In float64: the product of four rounded numbers is rounded once.
        scale, shift, mean, variance = (
            state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        # In use a norm is a fixed factor and shift, which the convolution can take over for nothing.
        factor = scale / (variance + _NORM_EPS).sqrt()
        ours[f"{name}.weight"] = (state[f"{convolution}.weight"].double() * factor[:, None, None]).float()
        ours[f"{name}.bias"] = (shift - mean * factor).float()
    return ours


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": f"merl-{checkpoint.path.stem}",
        "description": "The ResNet-18 of MERL, trained to agree with reports, converted from its authors' format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT is the licence of the authors' code (2024 Che Liu); none is stated for the weights.",
        "data": "MIMIC-IV-ECG, as published; not recorded in the file",
        "source": checkpoint.path.name,
        "part": _PART,
        "ours": _OURS,
        "contradictions": _CONTRADICTION,
        "citation": "Liu C., Wan Z., Ouyang C., et al. (2024). Zero-Shot ECG Classification with Multimodal Learning "
        "and Test-time Clinical Knowledge Enhancement. ICML 2024, arXiv:2403.06659.",
    }
