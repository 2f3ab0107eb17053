"""Checkpoints of CLEF (Shu et al., arXiv:2512.02180) to weights folders."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from skecg.convert.checkpoint import Checkpoint, ConversionReport, check_folder, open_checkpoint, part_of, write_folder
from skecg.convert.ecgfounder import net1d_config, net1d_state
from skecg.leads import known_leads
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["convert_clef"]

_SAMPLING_RATE, _WINDOW_SAMPLES = 500.0, 5000
_BACKBONE = "backbone."
_PART = "the backbone"
_CLASSES_OF_ECGFOUNDER = 150
# Normalization that the network was built without, and the identity in the classifier's place.
_UNUSED = re.compile(r"(first_bn|stage_list\.\d+\.block_list\.\d+\.bn[123]|dense)\.")
_OURS = (
    "Theirs, in pre-training: one lead of any name, the first 10 s at 500 Hz, missing samples on a line between their "
    "neighbours, a band of order 5 from 0.67 to 40 Hz forwards and backwards, the lead's own mean and deviation, the "
    "mean over time of the last stage. Ours: of a record of several leads the one named at conversion is taken; other "
    "rates are resampled by polyphase filtering; a record longer than 10 s is filtered and standardized as a whole, "
    "cut into windows, and its features are their mean; a shorter one is not padded. The filter runs as second-order "
    "sections, which differ from the authors' ill-conditioned form by up to 0.008 deviations of the signal."
)
_CONTRADICTION = (
    "The authors' downstream scripts disagree: those for MIMIC and MUSIC do not filter, those for Icentia and MC-MED "
    "do. The preparation here is that of pre-training."
)


def convert_clef(
    file: str | Path, folder: str | Path, *, lead: str = "I", sha256: str | None = None
) -> ConversionReport:
    """Turn a checkpoint of CLEF into a weights folder.

    Parameters
    ----------
    file : str or Path
        What the pre-training writes (``clef_small.ckpt`` and its sisters); also the backbone's state dict, or
        safetensors.
    folder : str or Path
        Weights folder to write; files of its names are replaced.
    lead : str, default="I"
        Lead to take from records of several. A record of one lead is taken whatever its name.
    sha256 : str, optional
        Digest that the file must have, when you know it.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ForeignCheckpointError
        When the file is truncated, altered, carries code, or is another model's.
    LeadError
        When `lead` is no lead's name.
    ParameterError
        When `folder` is a file.

    Notes
    -----
    The weights expect one lead at 500 Hz in windows of 10 s, filtered from 0.67 to 40 Hz and standardized by itself;
    features are the mean over time of the last stage.
    """
    leads = known_leads([lead])
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    state, dropped = _backbone(checkpoint)
    config = net1d_config(checkpoint, state, _WINDOW_SAMPLES, "CLEF")
    if config.n_leads != 1:
        hint = " This looks like ECGFounder: `skecg convert ecgfounder` reads that." if config.n_leads == 12 else ""
        raise checkpoint.refuse(f"an encoder of {config.n_leads} leads", f"one lead, as CLEF has.{hint}")
    spec = InputSpec(
        leads,
        _SAMPLING_RATE,
        _WINDOW_SAMPLES,
        highpass_hz=0.67,
        lowpass_hz=40.0,
        # ECGFounder, the same network, has 4.
        filter_order=5,
        filter_design="bandpass",
        normalization="zscore",
        any_name=True,
    )
    write_folder(folder, checkpoint, config, net1d_state(checkpoint, state, config), spec, _provenance(checkpoint))
    notes = (_OURS, _CONTRADICTION)
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, None, config, spec, _PART, dropped, notes)


def _backbone(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the backbone's tensors, and name the parts that are left behind."""
    found = checkpoint.mapping("state_dict" if "state_dict" in checkpoint.content else "model")
    state, dropped = part_of(found, _BACKBONE)
    # Lightning's checkpoints have the prefix, a state dict that was saved by hand has not.
    if not state:
        state, dropped = found, ()
    if tuple(getattr(state.get("dense.weight"), "shape", ()))[:1] == (_CLASSES_OF_ECGFOUNDER,):
        wanted = "a backbone without one. This looks like ECGFounder: `skecg convert ecgfounder` reads that."
        raise checkpoint.refuse(f"a classifier of {_CLASSES_OF_ECGFOUNDER} classes", wanted)
    return {name: value for name, value in state.items() if not _UNUSED.match(name)}, dropped


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": checkpoint.path.stem.replace("_", "-"),
        "description": "The backbone of CLEF (one lead, contrast guided by risk scores), converted from its authors' "
        "format.",
        "trained": True,
        "licence": "bsd-3-clause-clear",
        "licence_note": "Clear BSD, which grants no patents, is the licence of the authors' code; that of the "
        "weights stands in their Zenodo record.",
        "data": "MIMIC-IV-ECG, as published; not recorded in the file",
        "source": f"{checkpoint.path.name}, not a known file",
        "part": _PART,
        "ours": _OURS,
        "contradictions": _CONTRADICTION,
        "citation": "Shu Y., Charlton P. H., Kawsar F., et al. (2025). CLEF: Clinically-Guided Contrastive Learning "
        "for Electrocardiogram Foundation Models. arXiv:2512.02180.",
    }
