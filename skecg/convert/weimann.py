"""Checkpoints of Weimann and Conrad's ECG-JEPA (Comput. Biol. Med. 196:110809, 2025) to weights folders.

The published checkpoints carry no normalization statistics. Those here are means and standard deviations of each lead
in millivolts, as the published pre-training hard-codes them for each of its corpora. CODE-15, PTB-XL and St Petersburg:
after the removal of baseline wander, and for PTB-XL over folds 1 to 8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.convert.checkpoint import (
    Checkpoint,
    ConversionReport,
    check_deviations,
    check_folder,
    check_tensors,
    open_checkpoint,
    part_of,
    write_folder,
)
from skecg.errors import ForeignCheckpointError, LeadError, ParameterError, WeightsFormatError
from skecg.leads import CANONICAL_LEADS, canonical_leads
from skecg.spec import InputSpec, TemporalConfig
from skecg.validation import is_integer, is_number

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["STATISTICS", "convert_weimann", "read_statistics"]

# MIMIC-IV-ECG files carry aVF before aVL.
_MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")

_ZERO = (0.0,) * 12

_CLIP = 5.0  # deviations

_INTEGERS = ("channel_size", "patch_size", "dim", "depth", "num_heads", "num_registers")

_NUMBERS = ("sampling_frequency", "mlp_ratio", "norm_eps")


def _by_lead(
    mean: Sequence[float], std: Sequence[float], leads: Sequence[str] = CANONICAL_LEADS
) -> dict[str, tuple[float, float]]:
    return {lead: (m, s) for lead, m, s in zip(leads, mean, std, strict=True)}


#: Corpus to lead to (mean, standard deviation), mV.
STATISTICS: dict[str, dict[str, tuple[float, float]]] = {
    "mimic": _by_lead(
        (0.023, 0.015, -0.007, -0.019, 0.004, 0.014, -0.018, -0.004, 0.002, 0.017, 0.022, 0.022),
        (0.155, 0.158, 0.166, 0.133, 0.143, 0.141, 0.207, 0.282, 0.284, 0.253, 0.222, 0.197),
        _MIMIC_LEADS,
    ),
    "code-15": _by_lead(_ZERO, (0.488, 0.450, 0.437, 0.416, 0.405, 0.370, 0.548, 0.639, 0.719, 0.695, 0.676, 0.639)),
    "ptb-xl": _by_lead(
        (-0.002, -0.002, 0.0, 0.002, -0.001, -0.001, 0.0, -0.001, -0.002, -0.001, -0.001, -0.001),
        (0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242),
    ),
    "chapman": _by_lead(
        (0.002, 0.005, 0.003, -0.002, -0.002, 0.003, 0.0, 0.003, 0.004, 0.004, 0.003, -0.001),
        (0.140, 0.171, 0.145, 0.138, 0.114, 0.143, 0.218, 0.355, 0.366, 0.365, 0.332, 0.299),
    ),
    "ningbo": _by_lead(
        (0.002, 0.004, 0.002, -0.001, -0.001, 0.002, 0.0, 0.003, 0.003, 0.004, 0.003, 0.0),
        (0.145, 0.179, 0.159, 0.142, 0.123, 0.153, 0.228, 0.368, 0.377, 0.394, 0.405, 0.444),
    ),
    "georgia": _by_lead(
        (-0.003, -0.002, 0.001, 0.003, -0.002, -0.001, -0.004, -0.004, -0.003, -0.003, -0.003, -0.003),
        (0.157, 0.178, 0.164, 0.147, 0.134, 0.153, 0.213, 0.285, 0.272, 0.245, 0.224, 0.209),
    ),
    "cpsc": _by_lead(_ZERO, (0.214, 0.236, 0.221, 0.209, 0.196, 0.214, 0.336, 0.417, 0.449, 0.483, 0.523, 0.561)),
    "cpsc-extra": _by_lead(_ZERO, (0.182, 0.183, 0.184, 0.163, 0.164, 0.165, 0.288, 0.370, 0.371, 0.380, 0.375, 0.392)),
    "ptb": _by_lead(_ZERO, (0.642, 0.975, 0.953, 0.674, 0.651, 0.909, 0.643, 0.658, 0.668, 0.688, 0.648, 0.622)),
    "st-petersburg": _by_lead(
        _ZERO, (0.132, 0.370, 0.353, 0.215, 0.191, 0.356, 0.234, 0.320, 0.328, 0.290, 0.317, 0.337)
    ),
}


def read_statistics(statistics: str | Path, leads: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return means and standard deviations (mV) of some leads.

    Parameters
    ----------
    statistics : str or Path
        A key of :data:`STATISTICS`, or a JSON file ``{"mean": ..., "std": ...}`` with a list in the order of `leads`
        or an object of lead names for each.
    leads : sequence of str

    Raises
    ------
    ParameterError
        When there is no such name or file, or the file lacks a lead or holds anything but usable numbers, among them
        deviations of another unit than millivolts.
    """
    if statistics in STATISTICS:
        table = STATISTICS[str(statistics)]
        missing = [lead for lead in leads if lead not in table]
        if missing:
            raise ParameterError(
                f"Got statistics={str(statistics)!r}, which has none for {', '.join(missing)}. Pass a JSON file."
            )
        return tuple(table[lead][0] for lead in leads), tuple(table[lead][1] for lead in leads)
    if not Path(statistics).is_file():
        raise ParameterError(
            f"Got statistics={str(statistics)!r}, expected one of {', '.join(STATISTICS)}, or a JSON file "
            '{"mean": [...], "std": [...]} in millivolts.'
        )
    return _from_file(Path(statistics), leads)


def _from_file(path: Path, leads: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ParameterError(f"Got statistics={str(path)!r}, which is not valid JSON ({error}).") from error
    if not isinstance(values, Mapping) or not {"mean", "std"} <= values.keys():
        raise ParameterError(f"Got statistics={str(path)!r} without 'mean' and 'std', expected an object with both.")
    mean, std = (_in_order(path, kind, values[kind], leads) for kind in ("mean", "std"))
    # A lead that is flat in somebody's sample has deviation 0, and dividing by it makes infinities.
    if min(std) <= 0:
        raise ParameterError(f"Got a standard deviation of {min(std)} in {path}, expected positive numbers (mV).")
    check_deviations(std, str(path))
    return mean, std


def _in_order(path: Path, kind: str, values: Any, leads: Sequence[str]) -> tuple[float, ...]:
    if isinstance(values, Mapping):
        try:
            named = dict(zip(canonical_leads(list(values)), values.values(), strict=True))
            values = [named[lead] for lead in leads]
        except (LeadError, KeyError) as error:
            raise ParameterError(f"Got {kind!r} in {path} that does not name every lead once ({error}).") from error
    numbers = values if isinstance(values, list) else []
    usable = all(map(is_number, numbers))
    if len(numbers) != len(leads) or not usable:
        raise ParameterError(
            f"Got {kind!r} in {path}, expected {len(leads)} numbers, one for each of {', '.join(leads)}."
        )
    return tuple(float(x) for x in numbers)


def convert_weimann(
    file: str | Path, folder: str | Path, *, statistics: str | Path | None = None, sha256: str | None = None
) -> ConversionReport:
    """Turn a checkpoint of Weimann and Conrad's ECG-JEPA into a weights folder.

    Parameters
    ----------
    file : str or Path
        A pre-training checkpoint, whole (``chkpt_10000.pt``) or stripped (``*.min.pt``), of which the target encoder is
        taken; or a fine-tuned one (``*_best_chkpt.pt``), of which the encoder is taken and the head left behind. Also
        as safetensors with the configuration as JSON in the metadata's ``config``.
    folder : str or Path
        Weights folder to write; files of its names are replaced.
    statistics : str or Path, optional
        Means and standard deviations of the leads, which pre-training checkpoints lack: the name of a corpus
        (:data:`skecg.convert.STATISTICS`) or a JSON file ``{"mean": [...], "std": [...]}`` in millivolts. Fine-tuned
        checkpoints carry their own, which are always used.
    sha256 : str, optional
        Digest that the file must have, when you know it.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ForeignCheckpointError
        When the file is truncated, altered, carries code, is another model's, or has parts that are not supported or
        statistics of another unit than millivolts.
    ParameterError
        When `statistics` are missing or unusable, or `folder` is a file.

    Notes
    -----
    The weights expect all leads in millivolts at the rate that the file's configuration names (500 Hz), resampled by
    FFT, normalized by the statistics, clipped at ±5. Norm biases, which files of before October 2025 have, are kept.
    """
    folder = check_folder(folder)
    checkpoint = open_checkpoint(file, sha256)
    values = _config_values(checkpoint)
    state, taken, dropped = _encoder_part(checkpoint)
    leads = _leads(checkpoint, values)
    config = _config_of(checkpoint, values, state, len(leads))
    check_tensors(checkpoint, state, _wanted(config))
    mean, std, origin, notes = _normalization(checkpoint, statistics, leads)
    spec = InputSpec(
        leads,
        float(values["sampling_frequency"]),
        config.window_samples,
        resampling="fourier",
        normalization="statistics",
        mean=mean,
        std=std,
        clip=_CLIP,
    )
    provenance = _provenance(checkpoint, values, taken, origin)
    write_folder(folder, checkpoint, config, _ours(state), spec, provenance)
    if taken == "the student encoder":
        notes = (*notes, "The file has no target encoder, whose features the authors use; the student's were taken.")
    return ConversionReport(folder, checkpoint.path, checkpoint.sha256, None, config, spec, taken, dropped, notes)


def _config_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the configuration in the file, with the fields that shape the encoder checked."""
    if "model" not in checkpoint.content or "config" not in checkpoint.content:
        kim = "encoder" in checkpoint.content
        hint = " This looks like a checkpoint of Kim's ECG-JEPA: `skecg convert kim` reads those." if kim else ""
        raise checkpoint.refuse(checkpoint.keys_in_words, f"'model' and 'config'.{hint}")
    values = checkpoint.mapping("config")
    for name in (*_INTEGERS, *_NUMBERS, "channels"):
        if name not in values:
            raise checkpoint.refuse(f"a config without {name!r}", "the configuration of Weimann and Conrad's ECG-JEPA.")
    for name in _INTEGERS:
        least = 0 if name == "num_registers" else 1
        if not is_integer(values[name], least):
            raise checkpoint.refuse(f"{name}={values[name]!r} in the config", f"an integer of at least {least}.")
    for name in _NUMBERS:
        value = values[name]
        if not is_number(value) or value <= 0:
            raise checkpoint.refuse(f"{name}={value!r} in the config", "a positive number.")
    return values


def _leads(checkpoint: Checkpoint, values: dict[str, Any]) -> tuple[str, ...]:
    try:
        return canonical_leads(values["channels"])
    except (LeadError, TypeError) as error:
        raise checkpoint.refuse(f"channels={values['channels']!r} in the config", "the names of leads.") from error


def _encoder_part(checkpoint: Checkpoint) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """Take the encoder whose features the authors use, say which it is, and name what is left behind."""
    state = checkpoint.mapping("model")
    others = tuple(key for key in checkpoint.content if key == "optimizer")
    # Fine-tuned files alone have it, and in these the encoder that was tuned goes by the student's name.
    if "eval_config" in checkpoint.content:
        prefix, taken = "encoder.", "the fine-tuned encoder"
    # The authors' loader takes the target encoder for every task; files that were made smaller hold nothing else.
    elif any(name.startswith("target_encoder.") for name in state):
        prefix, taken = "target_encoder.", "the target encoder"
    else:
        prefix, taken = "encoder.", "the student encoder"
    part, dropped = part_of(state, prefix)
    if "patch_embed.proj.weight" not in part:
        first = next(iter(state), None)
        raise checkpoint.refuse(
            f"a model without {prefix}patch_embed.proj.weight (its first tensor is {first!r})",
            "Weimann and Conrad's encoder.",
        )
    return part, taken, dropped + others


def _config_of(checkpoint: Checkpoint, values: dict[str, Any], state: dict[str, Any], n_leads: int) -> TemporalConfig:
    """Read the encoder's shape off the configuration, refusing what our encoder cannot do."""
    scales = [name for name in state if name.endswith(("attn_ls.weight", "mlp_ls.weight"))]
    # The authors' code can do what their published runs never did: better no weights than others under this name.
    if scales or values.get("layer_scale_eps"):
        found = f"layer scales ({scales[0] if scales else 'layer_scale_eps'})"
        raise checkpoint.refuse(found, "none, as published. Encoders with layer scale are not supported.")
    if values.get("qkv_bias"):
        raise checkpoint.refuse("qkv_bias=True in the config", "False, as published. Such biases are not supported.")
    if values["channel_size"] % values["patch_size"]:
        sizes = f"channel_size={values['channel_size']} and patch_size={values['patch_size']}"
        raise checkpoint.refuse(f"{sizes} in the config", "a whole number of patches.")
    try:
        return TemporalConfig(
            n_leads=n_leads,
            patch_samples=values["patch_size"],
            n_patches=values["channel_size"] // values["patch_size"],
            dim=values["dim"],
            depth=values["depth"],
            num_heads=values["num_heads"],
            mlp_ratio=float(values["mlp_ratio"]),
            norm_eps=float(values["norm_eps"]),
            num_registers=values["num_registers"],
            bias=bool(values.get("bias", False)),
            # Before October 2025 the public code gave its norms a bias; the configuration does not say which it was.
            norm_bias="norm.bias" in state,
        )
    except WeightsFormatError as error:
        raise checkpoint.refuse("a config that describes no encoder", f"a published one: {error}") from error


def _wanted(config: TemporalConfig) -> dict[str, tuple[int, ...]]:
    """Return the published names and shapes of an encoder's tensors."""
    D, hidden = config.dim, config.hidden_dim
    linear = {"attn.proj": (D, D), "mlp.fc1": (hidden, D), "mlp.fc2": (D, hidden)}
    block: dict[str, tuple[int, ...]] = {"norm1.weight": (D,), "norm2.weight": (D,), "attn.qkv.weight": (3 * D, D)}
    block |= {f"{name}.weight": shape for name, shape in linear.items()}
    wanted: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (D, config.n_leads, config.patch_samples)}
    if config.num_registers:
        wanted["registers"] = (1, config.num_registers, D)
    if config.bias:
        block |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
        wanted["patch_embed.proj.bias"] = (D,)
    if config.norm_bias:
        block |= {"norm1.bias": (D,), "norm2.bias": (D,)}
        wanted["norm.bias"] = (D,)
    for number in range(config.depth):
        wanted |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return wanted | {"norm.weight": (D,)}


def _ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors and lay the convolution over patches out as the matrix that it is."""
    renamed = {name.replace("patch_embed.proj.", "patch_embed."): value.float() for name, value in state.items()}
    # A step as long as the kernel: patches do not overlap, so the convolution is one product.
    weight = renamed["patch_embed.weight"].flatten(1)
    registers = renamed["registers"][0] if "registers" in renamed else weight.new_empty(0, len(weight))
    return renamed | {"patch_embed.weight": weight, "registers": registers}


def _normalization(
    checkpoint: Checkpoint, statistics: str | Path | None, leads: tuple[str, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], str, tuple[str, ...]]:
    """Return means, standard deviations, where they come from, and what to tell the user."""
    if "eval_config" in checkpoint.content:
        mean, std = _own_statistics(checkpoint, len(leads))
        note = "The statistics are those that the fine-tuned checkpoint carries; its task's head was left out."
        ignored = () if statistics is None else (f"statistics={str(statistics)!r} was not used.",)
        return mean, std, "in the checkpoint", (note, *ignored)
    # No default: the corpora's deviations differ several times over, and a wrong one gives plausible features.
    if statistics is None:
        raise ParameterError(
            "Got no statistics, which a pre-training checkpoint does not carry; expected the name of a corpus "
            f"({', '.join(STATISTICS)}) or a JSON file. Pass statistics=, for example 'mimic'."
        )
    mean, std = read_statistics(statistics, leads)
    return mean, std, str(statistics), (f"The normalization statistics are those of {statistics}, as you chose.",)


def _own_statistics(checkpoint: Checkpoint, n_leads: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    preprocess = checkpoint.mapping("preprocess")
    wanted = {"mean": (n_leads,), "std": (n_leads,)}
    check_tensors(checkpoint, {name: value for name, value in preprocess.items() if name in wanted}, wanted)
    if not bool((preprocess["std"] > 0).all()):
        raise checkpoint.refuse("a standard deviation in 'preprocess' that is not positive", "positive numbers.")
    check_deviations(preprocess["std"].tolist(), f"'preprocess' of {checkpoint.path}", ForeignCheckpointError)
    return tuple(preprocess["mean"].tolist()), tuple(preprocess["std"].tolist())


def _provenance(checkpoint: Checkpoint, values: dict[str, Any], taken: str, statistics: str) -> dict[str, Any]:
    step, task, datasets = (checkpoint.content.get("step"), checkpoint.content.get("task"), values.get("datasets"))
    return {
        "name": f"weimann-ecg-jepa-{checkpoint.path.name.split('.')[0]}",
        "description": "An encoder of Weimann and Conrad's ECG-JEPA, converted from its authors' format.",
        "trained": True,
        "licence": "mit",
        "licence_note": "MIT is the licence of the authors' code; the checkpoint carries no licence text of its own.",
        "data": sorted(map(str, datasets)) if isinstance(datasets, dict) else "not recorded in the file",
        "source": f"{checkpoint.path.name}, not a known file",
        "part": taken,
        "statistics": statistics,
        "citation": "Weimann K., Conrad T. O. F. (2025). Self-supervised pre-training with joint-embedding predictive "
        "architecture boosts ECG classification performance. Comput. Biol. Med. 196:110809.",
        **({"step": step} if isinstance(step, int) else {}),
        **({"task": task} if isinstance(task, str) else {}),
    }
