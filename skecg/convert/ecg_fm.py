"""Checkpoints of ECG-FM (McKeen et al., arXiv:2408.05178) to weights folders."""

from __future__ import annotations

import re
from functools import partial
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
from skecg.encoders.wav2vec import Wav2vecConfig
from skecg.errors import WeightsFormatError
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from pathlib import Path


__all__ = ["convert_ecg_fm"]

_SAMPLING_RATE, _WINDOW_SAMPLES = 500.0, 2500
_HEAD_DIM = 64  # of 12 heads at width 768; no tensor tells it
_PART = "the encoder, without what pre-training alone or a classifier needs"
# Names that the encoder owns; the rest is a quantizer's, a projection's or a head's.
_ENCODER = re.compile(r"(feature_extractor|layer_norm|post_extract_proj|conv_pos|encoder)\.")
_BLOCKS = "encoder.layers."
_POSITIONS = "conv_pos.pos_conv.0."
# The direction and size of the convolution for positions, as torch wrote them until 2025 and as it writes them since.
_OLD_NAMES = {
    f"{_POSITIONS}weight_{letter}": f"{_POSITIONS}parametrizations.weight.original{n}"
    for n, letter in ((0, "g"), (1, "v"))
}
_SIZE, _DIRECTION = _OLD_NAMES.values()
_KNOWN = {
    "4d0142bcb485eb9f0c7845e0c19ff3463f6ae9d0e458eab69136efe90ceb9b7e": "mimic_iv_ecg_physionet_pretrained.pt",
}
_OURS = (
    "Theirs: linear interpolation to 500 Hz, each lead less its mean over its deviation in the whole record, windows "
    "of 5 s from the start, what remains at the end dropped, the mean over a window's tokens. Ours: a record's "
    "features are the mean over its windows, for which they give no rule; a record shorter than 5 s is one shorter "
    "window; limb leads that are absent are computed from two others. Other absent leads are refused, as in their "
    "notebook."
)
_CONTRADICTION = (
    "The .yaml that lies beside the pre-trained file describes a larger model; widths are read from the tensors. The "
    "notebook adds 1e-8 to the deviation, the pipeline of training leaves flat leads 0 instead, as here."
)
_NAMES_IN_BLOCK = {
    "self_attn.out_proj": "proj",
    "self_attn_layer_norm": "norm1",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "final_layer_norm": "norm2",
}
_NAMES_OUTSIDE = {
    "feature_extractor.conv_layers.0.2": "stem.norm",
    "layer_norm": "stem_norm",
    "post_extract_proj": "patch_embed",
    "encoder.layer_norm": "input_norm",
}


def convert_ecg_fm(file: str | Path, folder: str | Path, *, sha256: str | None = None) -> ConversionReport:
    """Turn a checkpoint of ECG-FM into a weights folder.

    Parameters
    ----------
    file : str or Path
        What fairseq-signals saves of the pre-trained model or of a fine-tuned classifier; also as safetensors.
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
    The weights expect twelve leads at 500 Hz, each standardized by itself in the whole record, in windows of 5 s;
    features are the mean over the tokens of a window, and over the windows of a record.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    state, dropped = _encoder(checkpoint)
    config = _config_of(checkpoint, state)
    check_tensors(checkpoint, state, _wanted(config))
    # The whole record by its own mean and deviation, then windows; each window by its own would be 0.05 off.
    spec = InputSpec(
        CANONICAL_LEADS, _SAMPLING_RATE, _WINDOW_SAMPLES, resampling="linear", normalization="zscore", remainder="drop"
    )
    known = _KNOWN.get(checkpoint.sha256)
    write_folder(folder, checkpoint, config, _renamed(config, state), spec, _provenance(checkpoint, known))
    notes = (_OURS, _CONTRADICTION)
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, known, config, spec, _PART, dropped, notes)


def _encoder(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the encoder's tensors, of either kind of file, and name the parts that are left behind."""
    found = checkpoint.mapping("model") if "model" in checkpoint.content else {}
    tuned = "encoder.feature_extractor.conv_layers.0.0.weight" in found
    # A classifier holds the pre-trained model as its part "encoder", which has a part of that name itself.
    names = {name.removeprefix("encoder.") if tuned else name: name for name in found}
    if "feature_extractor.conv_layers.0.0.weight" not in names:
        raise checkpoint.refuse_other(
            f"{checkpoint.keys_in_words}, no feature extractor in 'model'",
            "a checkpoint of ECG-FM with 'feature_extractor.conv_layers.0.0.weight'.",
        )
    state = {_OLD_NAMES.get(name, name): found[theirs] for name, theirs in names.items() if _ENCODER.match(name)}
    dropped = {name.split(".")[0]: None for name in names if not _ENCODER.match(name)}
    return state, tuple(dropped)


def _config_of(checkpoint: Checkpoint, state: dict[str, Any]) -> Wav2vecConfig:
    """Read the encoder's shape off its tensors; only a head's width is not in them."""
    shape = partial(checkpoint.shape_of, state, whose="ECG-FM")
    # Not off the .yaml beside the file, which is of a model that was never released.
    dim, stem_dim = shape("post_extract_proj.weight", 2)
    _, group_dim, kernel = shape(_DIRECTION, 3)
    n_halvings = len({name.split(".")[2] for name in state if name.startswith("feature_extractor.conv_layers.")})
    if dim % _HEAD_DIM or dim % group_dim:
        raise checkpoint.refuse(f"an encoder of width {dim}", f"a multiple of {_HEAD_DIM} and of {group_dim}.")
    try:
        return Wav2vecConfig(
            n_leads=len(CANONICAL_LEADS),
            input_samples=_WINDOW_SAMPLES,
            dim=dim,
            depth=len({name.split(".")[2] for name in state if name.startswith(_BLOCKS)}),
            num_heads=dim // _HEAD_DIM,
            hidden_dim=shape(f"{_BLOCKS}0.fc1.weight", 2)[0],
            stem_dim=stem_dim,
            n_halvings=n_halvings,
            position_kernel=kernel,
            position_groups=dim // group_dim,
        )
    except WeightsFormatError as error:
        raise checkpoint.refuse("tensors of an impossible shape", f"ECG-FM's encoder: {error}") from error


def _wanted(config: Wav2vecConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an encoder's tensors, as today's code writes them."""
    D, C, hidden = config.dim, config.stem_dim, config.hidden_dim
    wanted: dict[str, tuple[int, ...]] = {
        _SIZE: (1, 1, config.position_kernel),
        _DIRECTION: (D, D // config.position_groups, config.position_kernel),
        f"{_POSITIONS}bias": (D,),
    }
    for number in range(config.n_halvings):
        wanted[f"feature_extractor.conv_layers.{number}.0.weight"] = (C, C if number else config.n_leads, 2)
    layers: dict[str, tuple[int, ...]] = {"layer_norm": (C,), "post_extract_proj": (D, C), "encoder.layer_norm": (D,)}
    layers["feature_extractor.conv_layers.0.2"] = (C,)
    for number in range(config.depth):
        block: dict[str, tuple[int, ...]] = {f"self_attn.{part}_proj": (D, D) for part in ("q", "k", "v", "out")}
        block |= {"self_attn_layer_norm": (D,), "fc1": (hidden, D), "fc2": (D, hidden), "final_layer_norm": (D,)}
        layers |= {f"{_BLOCKS}{number}.{name}": shape for name, shape in block.items()}
    for name, shape in layers.items():
        wanted |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return wanted


def _renamed(config: Wav2vecConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as our encoder calls them, queries, keys and values in one."""
    import torch

    state = {name: value.float() for name, value in state.items()}
    direction_DGK, size_11K = state[_DIRECTION], state[_SIZE]
    ours = {
        # The norm runs over the first two axes, a size for each place of the kernel: torch's default axis gives others.
        "positions.weight": direction_DGK * (size_11K / direction_DGK.norm(dim=(0, 1), keepdim=True)),
        "positions.bias": state[f"{_POSITIONS}bias"],
    }
    for number in range(config.n_halvings):
        # Of a pair of samples our layer sees first all channels of the one, then all of the other.
        pair = state[f"feature_extractor.conv_layers.{number}.0.weight"]
        ours[f"stem.layers.{number}.weight"] = pair.transpose(1, 2).flatten(1).contiguous()
    for part in ("weight", "bias"):
        ours |= {f"{name}.{part}": state[f"{theirs}.{part}"] for theirs, name in _NAMES_OUTSIDE.items()}
        for number in range(config.depth):
            theirs, block = f"{_BLOCKS}{number}.", f"blocks.{number}."
            ours |= {f"{block}{name}.{part}": state[f"{theirs}{old}.{part}"] for old, name in _NAMES_IN_BLOCK.items()}
            # One product instead of three; the order q, k, v is what our attention cuts it by.
            ours[f"{block}qkv.{part}"] = torch.cat([state[f"{theirs}self_attn.{x}_proj.{part}"] for x in "qkv"])
    return ours


def _provenance(checkpoint: Checkpoint, known: str | None) -> dict[str, Any]:
    return {
        "name": f"ecg-fm-{checkpoint.path.name.split('.')[0]}",
        "description": "The encoder of ECG-FM (wav2vec 2.0 with contrast), converted from its authors' format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT is the licence of the authors' code (2024 WangLab; 2023 Oh, portions Facebook) and, by "
        "the model page, of the weights.",
        "data": "MIMIC-IV-ECG and the archives of the PhysioNet Challenge 2021 (PTB-XL, CPSC, Chapman, Ningbo, "
        "Georgia), as published, so that scores on these are not of unseen recordings",
        "source": f"{known}, recognised by its digest" if known else f"{checkpoint.path.name}, not a known file",
        "part": _PART,
        "ours": _OURS,
        "contradictions": _CONTRADICTION,
        "citation": "McKeen K., et al. (2024). ECG-FM: An Open Electrocardiogram Foundation Model. arXiv:2408.05178.",
    }
