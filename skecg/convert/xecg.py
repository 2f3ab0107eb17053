"""Checkpoints of xECG (Lunelli et al., npj Digit. Med. 2026) to weights folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
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
from skecg.encoders.xlstm import XlstmConfig
from skecg.errors import WeightsFormatError
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["convert_xecg"]

_SAMPLING_RATE, _WINDOW_SECONDS = 100.0, 12  # the authors read the first 12 s at most
_BLOCKS = "core.model.blocks."
_PATCHES = "patch_embedding.conv.weight"
_PART = "the encoder"
_KNOWN = {
    "812dec69ac0fbf13f39e50bde4f35f85435a66966d8785baec65c2b5c70e722c": "model.safetensors of xECG_base_model_v1",
}
# What the configuration beside the file has to say, where it is there and says it.
_SETTINGS = {"activation_fn": "gelu", "sampling_freq": 100, "cls_normalization": None}
_OURS = (
    "Theirs: the whole record resampled by its Fourier transform to 100 Hz, millivolts as they are, the first 12 s at "
    "most, what remains of a slice of 0.25 s cut off, absent leads zero, the mean over slices that do not begin with "
    "zeros in all leads. Ours: of a record longer than 12 s all windows are read, and its features are their mean; "
    "limb leads that are absent are computed from two others where they can be."
)
_CONTRADICTION = (
    "The input gate's weights are stored under the forget gate's name and the other way round; here they are what they "
    "do. The authors' runs on a GPU compute the scalar memories in bfloat16, and agree to about 1e-2."
)


def convert_xecg(file: str | Path, folder: str | Path, *, sha256: str | None = None) -> ConversionReport:
    """Turn a checkpoint of xECG into a weights folder.

    Parameters
    ----------
    file : str or Path
        ``model.safetensors`` as it is published, or the state dict as ``torch.save`` writes it. A ``config.json`` that
        lies beside it is compared with what is supported.
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
    The weights expect twelve leads, or any of them, at 100 Hz in millivolts, resampled by FFT, in windows of 12 s;
    features are the mean over the tokens. The layout of the recurrent parameters, which depends on the program that
    wrote the file, is told by their shape.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    state, dropped = _encoder(checkpoint)
    config = _config_of(checkpoint, state)
    _check_settings(checkpoint, config)
    state = {name: _in_one_layout(value, name, state, config) for name, value in state.items()}
    check_tensors(checkpoint, state, _wanted(config))
    window_samples = config.window_samples
    spec = InputSpec(CANONICAL_LEADS, _SAMPLING_RATE, window_samples, any_leads=True, resampling="fourier-nearest")
    known = _KNOWN.get(checkpoint.sha256)
    write_folder(folder, checkpoint, config, _renamed(config, state), spec, _provenance(checkpoint, known))
    notes = (_OURS, _CONTRADICTION)
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, known, config, spec, _PART, dropped, notes)


def _encoder(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the encoder's tensors; the token that stands for hidden slices is for pre-training alone."""
    found = checkpoint.mapping("model") if "model" in checkpoint.content else {}
    state, _ = part_of(found, _BLOCKS)
    if not state or not isinstance(found.get(_PATCHES), Tensor):
        raise checkpoint.refuse_other(
            f"{checkpoint.keys_in_words}, no xLSTM in it", f"xECG's tensors ({_PATCHES!r}, '{_BLOCKS}0...')."
        )
    return {name: value for name, value in found.items() if name != "mask_token"}, ("mask_token",) * (
        "mask_token" in found
    )


def _config_of(checkpoint: Checkpoint, state: dict[str, Any]) -> XlstmConfig:
    """Read the encoder's shape off its tensors."""
    shape = partial(checkpoint.shape_of, state, whose="xECG")
    depth = len({name.removeprefix(_BLOCKS).split(".")[0] for name in state if name.startswith(_BLOCKS)})
    # Only a scalar memory has a gate z.
    kinds = ["s" if f"{_BLOCKS}{n}.xlstm.zgate.weight" in state else "m" for n in range(depth)]
    if set(kinds) != {"s", "m"}:
        raise checkpoint.refuse(f"{depth} blocks of one kind", "blocks of scalar and of matrix memory, as in xECG.")
    scalar, matrix = f"{_BLOCKS}{kinds.index('s')}.", f"{_BLOCKS}{kinds.index('m')}."
    dim, _, patch_samples = shape(_PATCHES, 3)
    inner_dim = shape(f"{matrix}xlstm.proj_down.weight", 2)[1]
    if dim == 0 or inner_dim % dim:
        raise checkpoint.refuse(f"blocks of width {inner_dim} inside", f"a multiple of the tokens' {dim}.")
    try:
        return XlstmConfig(
            n_leads=len(CANONICAL_LEADS),
            patch_samples=patch_samples,
            n_patches=max(1, int(_WINDOW_SECONDS * _SAMPLING_RATE) // patch_samples),
            dim=dim,
            num_heads=shape(f"{scalar}xlstm.zgate.weight", 3)[0],
            hidden_dim=shape(f"{scalar}ffn.proj_down.weight", 2)[1],
            block_kinds="".join(kinds),
            inner_ratio=inner_dim // dim,
        )
    except WeightsFormatError as error:
        raise checkpoint.refuse("tensors of an impossible shape", f"xECG's encoder: {error}") from error


def _check_settings(checkpoint: Checkpoint, config: XlstmConfig) -> None:
    """Raise where a configuration beside the file says that the encoder computes something else."""
    path = checkpoint.path.parent / "config.json"
    if not path.is_file():
        return
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise checkpoint.refuse(f"a {path.name} beside it that is not JSON ({error})", "xECG's, or none.") from error
    if not isinstance(values, Mapping) or not isinstance(values.get("config"), Mapping):
        return  # of something else that lies in the same folder
    said = {**values["config"], "cls_type": values.get("cls_type", values["config"].get("cls_type", "avg"))}
    wanted = _SETTINGS | {"cls_type": "avg", "patch_size": config.patch_samples, "num_heads": config.num_heads}
    wanted |= {"embedding_size": config.dim, "xlstm_config": list(config.block_kinds)}
    for name, value in wanted.items():
        if name in said and said[name] != value:
            raise checkpoint.refuse(f"{name}={said[name]!r} in the {path.name} beside it", f"{value!r}.")


def _in_one_layout(value: Any, name: str, state: dict[str, Any], config: XlstmConfig) -> Any:
    """Return recurrent parameters as the released file has them: (head, input, gate · output), (head · gate · output).

    That is the layout of the program for GPUs. The one for CPUs writes (head, gate · output, input) and (gate · head ·
    output). Only the kernel's shape tells them apart: a bias taken for one of the other layout fits, and is wrong.
    """
    if not name.endswith(("slstm_cell._recurrent_kernel_", "slstm_cell._bias_")) or not isinstance(value, Tensor):
        return value
    kernel = state.get(f"{name.rpartition('.')[0]}._recurrent_kernel_")
    d = config.dim // config.num_heads
    if not isinstance(kernel, Tensor) or tuple(kernel.shape) != (config.num_heads, 4 * d, d):
        return value
    if name.endswith("_recurrent_kernel_"):
        return value.mT
    return value.view(4, config.num_heads, d).transpose(0, 1).flatten() if value.numel() == 4 * config.dim else value


def _wanted(config: XlstmConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of an encoder's tensors."""
    D, H, inner, hidden = config.dim, config.num_heads, config.inner_dim, config.hidden_dim
    d = D // H
    scalar: dict[str, tuple[int, ...]]
    scalar = {f"xlstm.{gate}gate.weight": (H, d, d) for gate in "ifzo"}
    scalar |= {"xlstm.slstm_cell._recurrent_kernel_": (H, d, 4 * d), "xlstm.slstm_cell._bias_": (4 * D,)}
    scalar |= {"xlstm.conv1d.conv.weight": (D, 1, 4), "xlstm.conv1d.conv.bias": (D,), "xlstm.group_norm.weight": (D,)}
    scalar |= {"ffn_norm.weight": (D,), "ffn.proj_up.weight": (2 * hidden, D), "ffn.proj_down.weight": (D, hidden)}
    matrix: dict[str, tuple[int, ...]]
    matrix = {f"xlstm.{part}_proj.weight": (inner // 4, 4, 4) for part in "qkv"}
    matrix |= {"xlstm.proj_up.weight": (2 * inner, D), "xlstm.proj_down.weight": (D, inner)}
    matrix |= {"xlstm.conv1d.conv.weight": (inner, 1, 4), "xlstm.conv1d.conv.bias": (inner,)}
    for gate in "if":
        matrix |= {f"xlstm.mlstm_cell.{gate}gate.weight": (H, 3 * inner), f"xlstm.mlstm_cell.{gate}gate.bias": (H,)}
    matrix |= {"xlstm.mlstm_cell.outnorm.weight": (inner,), "xlstm.learnable_skip": (inner,)}
    wanted: dict[str, tuple[int, ...]] = {_PATCHES: (D, config.n_leads, config.patch_samples)}
    for number, kind in enumerate(config.block_kinds):
        block = {"xlstm_norm.weight": (D,)} | (scalar if kind == "s" else matrix)
        wanted |= {f"{_BLOCKS}{number}.{name}": shape for name, shape in block.items()}
    return wanted


def _renamed(config: XlstmConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as our encoder has them; norms' weights are stored as differences from 1."""
    ours = {"patch_embed.weight": state[_PATCHES].float().flatten(1)}
    for number, kind in enumerate(config.block_kinds):
        theirs = {
            name.removeprefix(f"{_BLOCKS}{number}."): value.float()
            for name, value in state.items()
            if name.startswith(f"{_BLOCKS}{number}.")
        }
        block = _scalar_block(theirs, config.num_heads) if kind == "s" else _matrix_block(theirs)
        # Their layers multiply by 1 + w; ours by w, as torch's do.
        block["norm.weight"] = 1 + theirs["xlstm_norm.weight"]
        ours |= {f"blocks.{number}.{name}": value.contiguous() for name, value in block.items()}
    return ours


def _scalar_block(theirs: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    # Theirs are (head, output, input); ours multiply from the right.
    gate = {letter: theirs[f"xlstm.{letter}gate.weight"].mT for letter in "ifzo"}
    return {
        "memory.convolution.weight": theirs["xlstm.conv1d.conv.weight"][:, 0],
        "memory.convolution.bias": theirs["xlstm.conv1d.conv.bias"],
        # Crossed: what is called the forget gate's opens the input gate, which our layer has first.
        "memory.convolved_gates": torch.cat([gate["f"], gate["i"]], dim=-1),
        "memory.direct_gates": torch.cat([gate["z"], gate["o"]], dim=-1),
        "memory.recurrence": theirs["xlstm.slstm_cell._recurrent_kernel_"],
        "memory.gate_bias": theirs["xlstm.slstm_cell._bias_"].unflatten(0, (num_heads, -1)),
        "memory.norm.weight": 1 + theirs["xlstm.group_norm.weight"],
        "mlp_norm.weight": 1 + theirs["ffn_norm.weight"],
        "up.weight": theirs["ffn.proj_up.weight"],
        "down.weight": theirs["ffn.proj_down.weight"],
    }


def _matrix_block(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    cell = "xlstm.mlstm_cell."
    return {
        "up.weight": theirs["xlstm.proj_up.weight"],
        "down.weight": theirs["xlstm.proj_down.weight"],
        "convolution.weight": theirs["xlstm.conv1d.conv.weight"][:, 0],
        "convolution.bias": theirs["xlstm.conv1d.conv.bias"],
        "memory.qkv": torch.stack([theirs[f"xlstm.{part}_proj.weight"] for part in "qkv"]),
        "memory.gates.weight": torch.cat([theirs[f"{cell}igate.weight"], theirs[f"{cell}fgate.weight"]]),
        "memory.gates.bias": torch.cat([theirs[f"{cell}igate.bias"], theirs[f"{cell}fgate.bias"]]),
        "memory_norm.weight": 1 + theirs[f"{cell}outnorm.weight"],
        "skip": theirs["xlstm.learnable_skip"],
    }


def _provenance(checkpoint: Checkpoint, known: str | None) -> dict[str, Any]:
    return {
        "name": "xecg-base-v1" if known else f"xecg-{checkpoint.path.stem}",
        "description": "The recurrent encoder of xECG (xLSTM), converted from its authors' format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT (2025 Dlaska Lab) is the licence of the authors' code and, by a copy of their card, of "
        "the weights; beside it they ask that use be non-clinical.",
        "data": "CODE, Chapman-Shaoxing and Ningbo, INCART, as published; not recorded in the file",
        "source": f"{known}, recognised by its digest" if known else f"{checkpoint.path.name}, not a known file",
        "part": _PART,
        "ours": _OURS,
        "contradictions": _CONTRADICTION,
        "citation": "Lunelli R., et al. (2026). BenchECG and xECG. npj Digit. Med.; arXiv:2509.10151.",
    }
