"""Checkpoints of Kim's ECG-JEPA with cross-pattern attention (arXiv:2410.08559) to weights folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skecg.convert.checkpoint import (
    Checkpoint,
    ConversionReport,
    check_folder,
    check_tensors,
    open_checkpoint,
    part_of,
    write_folder,
)
from skecg.encoders.leadwise import grid_positions
from skecg.errors import ParameterError, WeightsFormatError
from skecg.leads import EIGHT_LEADS
from skecg.spec import InputSpec, LeadwiseConfig
from skecg.validation import is_integer

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["convert_kim"]

_HEAD_DIM = 48  # 16 heads at width 768, as published; no tensor tells it
_SAMPLING_RATE = 250.0  # Hz; the file carries no configuration
_BLOCKS = "encoder_blocks.blocks."
_PART = "the student encoder"
_NOTE = "The position table equals the published formula; it is computed, not stored."


@dataclass(frozen=True)
class _Published:
    """A file that its author published."""

    name: str
    n_bytes: int
    data: str


_KNOWN = {
    "61334869f905a7d6de32bc573c60024eaf6efba7c35c0e45fc2ea7d52b6ff66e": _Published(
        "multiblock_epoch100.pth",
        341_551_405,
        "Chapman-Shaoxing and Ningbo (PhysioNet ecg-arrhythmia 1.0.0) and CODE-15%, as published: 174,000 records",
    )
}


def convert_kim(
    file: str | Path, folder: str | Path, *, num_heads: int | None = None, sha256: str | None = None
) -> ConversionReport:
    """Turn a checkpoint of Kim's ECG-JEPA into a weights folder.

    Parameters
    ----------
    file : str or Path
        What the pre-training script saves, ``{"encoder": state_dict, "epoch": int}``, or a whole model's state dict
        (``encoder.*``, ``target_encoder.*``, ``predictor.*``), of which the student ``encoder.*`` is taken as the
        published evaluation does; also as safetensors.
    folder : str or Path
        Weights folder to write; files of its names are replaced.
    num_heads : int, optional
        Attention heads, which the file does not tell. One for each 48 of the width when not given, as published.
    sha256 : str, optional
        Digest that the file must have, when you know it. A file of exactly a published file's size but another digest
        is refused unless its digest is given here.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ForeignCheckpointError
        When the file is truncated, altered, carries code, or is another model's.
    ParameterError
        When `num_heads` does not divide the width, or `folder` is a file.

    Notes
    -----
    The weights expect leads I, II and V1 to V6 in millivolts at 250 Hz, resampled by FFT, without filter or
    normalization, in windows of 10 s; features are the mean over all tokens. The position table in the file is
    compared with the published formula and left out.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    known = _recognise(checkpoint, trusted=sha256 is not None)
    state, dropped = _student(checkpoint)
    config = _config_of(checkpoint, state, num_heads)
    check_tensors(checkpoint, state, _wanted(config))
    _check_positions(checkpoint, state.pop("pos_embed"), config)
    # Raw millivolts, neither filtered nor scaled, and the Fourier method: so the author's scripts feed it.
    spec = InputSpec(EIGHT_LEADS, _SAMPLING_RATE, config.window_samples, resampling="fourier")
    provenance = _provenance(checkpoint, known)
    write_folder(folder, checkpoint, config, {_our_name(k): v.float() for k, v in state.items()}, spec, provenance)
    name = known.name if known else None
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, name, config, spec, _PART, dropped, (_NOTE,))


def _recognise(checkpoint: Checkpoint, *, trusted: bool) -> _Published | None:
    """Find the published file that this is, refusing one that has only its size."""
    if checkpoint.sha256 in _KNOWN:
        return _KNOWN[checkpoint.sha256]
    for sha256, published in _KNOWN.items():
        # Published on a drive without checksums: the right size with another digest was altered on the way.
        if checkpoint.n_bytes == published.n_bytes and not trusted:
            raise checkpoint.refuse(
                f"a file of the size of {published.name} ({published.n_bytes:,} bytes) with sha256 {checkpoint.sha256}",
                f"{sha256}. It was altered or damaged: fetch it again. For a checkpoint of your own pass its sha256.",
            )
    return None


def _student(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the student encoder's tensors and name what is left behind."""
    content = checkpoint.content
    if "encoder" in content:
        return checkpoint.mapping("encoder"), tuple(key for key in content if key not in ("encoder", "epoch"))
    if "model" in content:
        state, dropped = part_of(checkpoint.mapping("model"), "encoder.")
        if "W_P.weight" in state:
            return state, dropped
    weimann = "config" in content and "model" in content
    hint = (
        " This looks like a checkpoint of Weimann and Conrad: `skecg convert weimann` reads those." if weimann else ""
    )
    inside = f", {_first_tensors(checkpoint)}" if "model" in content else ""
    raise checkpoint.refuse(
        f"{checkpoint.keys_in_words}{inside}",
        f"'encoder' and 'epoch', or a state dict with 'encoder.W_P.weight'.{hint}",
    )


def _first_tensors(checkpoint: Checkpoint) -> str:
    names = list(checkpoint.mapping("model"))
    return f"the first of {len(names)} tensors {names[0]!r}" if names else "no tensors"


def _config_of(checkpoint: Checkpoint, state: dict[str, Any], num_heads: int | None) -> LeadwiseConfig:
    """Read the encoder's shape off its tensors."""
    shapes = {}
    for name in ("W_P.weight", "pos_embed", f"{_BLOCKS}0.mlp.fc1.weight"):
        value = state.get(name)
        if not isinstance(value, Tensor) or value.ndim != 2 or 0 in value.shape:
            first = next(iter(state), None)
            raise checkpoint.refuse(f"no matrix {name!r} (its first tensor is {first!r})", "Kim's encoder.")
        shapes[name] = tuple(value.shape)
    dim, patch_samples = shapes["W_P.weight"]
    n_patches, rest = divmod(shapes["pos_embed"][0], len(EIGHT_LEADS))
    if rest or not n_patches:
        raise checkpoint.refuse(f"'pos_embed' of shape {shapes['pos_embed']}", f"rows for {len(EIGHT_LEADS)} leads.")
    blocks = {name.removeprefix(_BLOCKS).split(".")[0] for name in state if name.startswith(_BLOCKS)}
    heads = _heads(dim, num_heads)
    try:
        return LeadwiseConfig(
            n_leads=len(EIGHT_LEADS),
            patch_samples=patch_samples,
            n_patches=n_patches,
            dim=dim,
            depth=len(blocks),
            num_heads=heads,
            mlp_ratio=shapes[f"{_BLOCKS}0.mlp.fc1.weight"][0] / dim,
        )
    except WeightsFormatError as error:
        raise checkpoint.refuse("tensors of an impossible shape", f"Kim's encoder: {error}") from error


def _heads(dim: int, num_heads: int | None) -> int:
    if num_heads is None:
        if dim % _HEAD_DIM:
            raise ParameterError(
                f"Got an encoder of width {dim}, which is no multiple of {_HEAD_DIM}, the published width of a head; "
                "expected num_heads with it. Pass num_heads=."
            )
        return dim // _HEAD_DIM
    if not is_integer(num_heads, 1) or dim % num_heads:
        raise ParameterError(f"Got num_heads={num_heads!r}, expected a divisor of the encoder's width, {dim}.")
    return num_heads


def _wanted(config: LeadwiseConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of an encoder's tensors."""
    D, hidden = config.dim, config.hidden_dim
    block: dict[str, tuple[int, ...]]
    block = {"norm1.weight": (D,), "norm1.bias": (D,), "norm2.weight": (D,), "norm2.bias": (D,)}
    block |= {"mlp.fc1.weight": (hidden, D), "mlp.fc1.bias": (hidden,), "mlp.fc2.weight": (D, hidden)}
    block |= {"mlp.fc2.bias": (D,), "attn.qkv.weight": (3 * D, D), "attn.proj.weight": (D, D), "attn.proj.bias": (D,)}
    wanted: dict[str, tuple[int, ...]] = {"pos_embed": (config.n_leads * config.n_patches, D)}
    for number in range(config.depth):
        wanted |= {f"{_BLOCKS}{number}.{name}": shape for name, shape in block.items()}
    return wanted | {"norm.weight": (D,), "norm.bias": (D,), "W_P.weight": (D, config.patch_samples), "W_P.bias": (D,)}


def _our_name(name: str) -> str:
    return name.replace("encoder_blocks.", "").replace("W_P.", "patch_embed.")


def _check_positions(checkpoint: Checkpoint, table: Tensor, config: LeadwiseConfig) -> None:
    """Raise for a position table that is not the published formula's (learned ones exist)."""
    formula = grid_positions(config.n_leads, config.n_patches, config.dim).flatten(0, 1)
    error = float((table.double() - formula).abs().max())
    # The table is float32 in the file and float64 here: rounding alone is below 1e-7. Half precision rounds more.
    if error > max(1e-5, torch.finfo(table.dtype).eps):
        raise checkpoint.refuse(
            f"a 'pos_embed' that differs from the sine-cosine table by {error:.2g}",
            "that table. Encoders with learned positions are not supported.",
        )


def _provenance(checkpoint: Checkpoint, known: _Published | None) -> dict[str, Any]:
    epoch = checkpoint.content.get("epoch")
    stem = known.name.split("_")[0] if known else checkpoint.path.stem
    return {
        "name": f"kim-ecg-jepa-{stem}",
        "description": "The encoder of Kim's ECG-JEPA (cross-pattern attention), converted from its author's format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT is the licence of the author's code; the published weights carry no text of their own.",
        "data": known.data if known else "not recorded in the file",
        "source": f"{known.name}, recognised by its digest" if known else f"{checkpoint.path.name}, not a known file",
        "part": _PART,
        "citation": "Kim S. (2024). Learning General Representation of 12-Lead Electrocardiogram with a "
        "Joint-Embedding Predictive Architecture. arXiv:2410.08559.",
        **({"epoch": epoch} if isinstance(epoch, int) else {}),
    }
