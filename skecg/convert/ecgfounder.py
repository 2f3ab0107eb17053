"""Checkpoints of ECGFounder (Li et al., arXiv:2410.04133) to weights folders."""

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
from skecg.encoders.net1d import Net1dConfig
from skecg.errors import WeightsFormatError
from skecg.leads import CANONICAL_LEADS
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["convert_ecgfounder", "net1d_config", "net1d_state"]

_SAMPLING_RATE, _WINDOW_SAMPLES = 500.0, 5000
_PART = "the network without its classifier"
# Two files are published; that of one lead takes lead I.
_LEADS = {12: CANONICAL_LEADS, 1: ("I",)}
# Normalization that the network was built without: it is in the file and was never called.
_UNUSED = re.compile(r"(first_bn|stage_list\.\d+\.block_list\.\d+\.bn[123])\.")
_IN_BLOCK = {
    "conv1.conv": "narrow",
    "conv2.conv": "grouped",
    "conv3.conv": "wide",
    "se_fc1": "squeeze",
    "se_fc2": "excite",
}
_OURS = (
    "Theirs: leads by name at 500 Hz, a notch at 50 Hz, a band from 0.67 to 40 Hz, a running median of 201 samples "
    "taken away, one mean and one deviation of all leads, 10 s, the mean over time of the last stage. Ours: other "
    "rates are resampled (polyphase), gaps lie on a line between their neighbours where theirs are zeros, a longer "
    "record is several windows of 10 s whose features are averaged, a shorter one is one shorter window; limb leads "
    "that are absent are computed from two others, other absent leads are refused."
)
_CONTRADICTION = (
    "One of the authors' scripts, the published check of 150 classes, leaves the filters out; the preparation here is "
    "the one that their README orders to follow."
)


def convert_ecgfounder(file: str | Path, folder: str | Path, *, sha256: str | None = None) -> ConversionReport:
    """Turn a checkpoint of ECGFounder into a weights folder.

    Parameters
    ----------
    file : str or Path
        What the authors' training writes, ``12_lead_ECGFounder.pth`` or ``1_lead_ECGFounder.pth``: weights under
        ``"state_dict"``, with or without the optimizer's state; also a bare state dict, or safetensors.
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
    The weights expect twelve leads, or lead I, at 500 Hz in windows of 10 s, filtered and standardized as the authors'
    data set does; features are the mean over the steps of the last stage.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    found = checkpoint.mapping("state_dict" if "state_dict" in checkpoint.content else "model")
    dropped = _count(found, _UNUSED, "batch normalization that is never called")
    state = {name: value for name, value in found.items() if not _UNUSED.match(name)}
    head = {name: state.pop(name) for name in ("dense.weight", "dense.bias") if name in state}
    config = net1d_config(checkpoint, state, _WINDOW_SAMPLES)
    if config.n_leads not in _LEADS:
        raise checkpoint.refuse(f"an encoder of {config.n_leads} leads", "twelve, or one.")
    spec = InputSpec(
        _LEADS[config.n_leads],
        _SAMPLING_RATE,
        _WINDOW_SAMPLES,
        notch_hz=50.0,
        highpass_hz=0.67,
        lowpass_hz=40.0,
        # One design for both edges, as theirs; a high-pass after a low-pass has another response.
        filter_design="bandpass",
        baseline_samples=201,  # 0.4 s at 500 Hz, made odd
        normalization="whole",  # one mean and deviation for all leads keeps their sizes to each other
    )
    write_folder(folder, checkpoint, config, net1d_state(checkpoint, state, config), spec, _provenance(checkpoint))
    dropped += (f"dense ({len(head)} tensors)",) if head else ()
    notes = (_OURS, _CONTRADICTION)
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, None, config, spec, _PART, dropped, notes)


def _count(found: Mapping[str, Any], names: re.Pattern[str], title: str) -> tuple[str, ...]:
    number = sum(bool(names.match(name)) for name in found)
    return (f"{title} ({number} tensors)",) if number else ()


def net1d_config(
    checkpoint: Checkpoint, state: Mapping[str, Any], input_samples: int, whose: str = "ECGFounder"
) -> Net1dConfig:
    """Read a Net1D's shape off its tensors.

    Parameters
    ----------
    checkpoint : Checkpoint
    state : mapping
        The authors' names, without normalization and classifier.
    input_samples : int
        Samples of the longest window.
    whose : str, default="ECGFounder"
        Name of the encoder, for messages.
    """
    shape = partial(checkpoint.shape_of, state, whose=whose)
    stem_dim, n_leads, kernel = shape("first_conv.conv.weight", 3)
    blocks = _n_blocks(checkpoint, state)
    conv3 = [shape(f"stage_list.{stage}.block_list.0.conv3.conv.weight", 3) for stage in range(len(blocks))]
    # A checkpoint carries no configuration: how wide a group is follows from what its kernels take in.
    _, in_group, _ = shape("stage_list.0.block_list.0.conv2.conv.weight", 3)
    width, middle = conv3[0][:2]
    # A group takes in_group of the middle's channels, which are width * expansion in all.
    groups = max(1, middle // in_group)
    try:
        return Net1dConfig(
            n_leads=n_leads,
            input_samples=input_samples,
            stem_dim=stem_dim,
            widths=tuple(shape[0] for shape in conv3),
            blocks=tuple(blocks),
            group_dim=max(1, width // groups),
            expansion=middle / width,
            kernel_samples=kernel,
        )
    except WeightsFormatError as error:
        raise checkpoint.refuse("tensors of an impossible shape", f"the network of {whose}: {error}") from error


def _n_blocks(checkpoint: Checkpoint, state: Mapping[str, Any]) -> list[int]:
    """Count the blocks of each stage."""
    numbers: dict[int, set[int]] = {}
    for name in state:
        if found := re.match(r"stage_list\.(\d{1,3})\.block_list\.(\d{1,3})\.", name):
            numbers.setdefault(int(found[1]), set()).add(int(found[2]))
    if not numbers or sorted(numbers) != list(range(len(numbers))):
        raise checkpoint.refuse_other(
            f"{checkpoint.keys_in_words}, no stages of a Net1D", "'stage_list.0.block_list.0.…'."
        )
    return [len(numbers[stage]) for stage in range(len(numbers))]


def net1d_state(checkpoint: Checkpoint, state: Mapping[str, Any], config: Net1dConfig) -> dict[str, Tensor]:
    """Check a Net1D's tensors, and return them as our encoder calls them, convolutions of one step as matrices."""
    check_tensors(checkpoint, state, _wanted(config))
    return {_our_name(name): _as_matrix(name, value.float()) for name, value in state.items()}


def _wanted(config: Net1dConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an encoder's tensors, as the authors' code writes them."""
    kernel = config.kernel_samples
    layers: dict[str, tuple[int, ...]] = {"first_conv.conv": (config.stem_dim, config.n_leads, kernel)}
    before = config.stem_dim
    for stage, (width, n_blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
        middle = config.middle(width)
        for number in range(n_blocks):
            block = f"stage_list.{stage}.block_list.{number}."
            layers |= {
                f"{block}conv1.conv": (middle, before, 1),
                # CLEF counts a group's channels on the width going out, though its groups cut the middle.
                f"{block}conv2.conv": (middle, middle * config.group_dim // width, kernel),
                f"{block}conv3.conv": (width, middle, 1),
                f"{block}se_fc1": (width // 2, width),
                f"{block}se_fc2": (width, width // 2),
            }
            before = width
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


def _our_name(name: str) -> str:
    for theirs, ours in _IN_BLOCK.items():
        name = name.replace(theirs, ours)
    return name.replace("first_conv.conv", "stem").replace("stage_list", "levels").replace("block_list.", "")


def _as_matrix(name: str, value: Tensor) -> Tensor:
    # A kernel of one sample is a product of matrices, which runs faster than a convolution.
    return value[..., 0].contiguous() if name.endswith(("conv1.conv.weight", "conv3.conv.weight")) else value


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": f"ecgfounder-{checkpoint.path.name.split('.')[0]}",
        "description": "The network of ECGFounder (supervised on 150 labels), converted from its authors' format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT is the licence of the authors' code (2025 PKUDigitalHealth), the weights state none.",
        "data": "the Harvard-Emory ECG Database, more than 10 million recordings, as published",
        "source": f"{checkpoint.path.name}, not a known file",
        "part": _PART,
        "ours": _OURS,
        "contradictions": _CONTRADICTION,
        "citation": "Li J., et al. (2024). An Electrocardiogram Foundation Model Built on over 10 Million Recordings. "
        "arXiv:2410.04133.",
    }
