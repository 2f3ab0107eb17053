"""From the name of a model to an encoder of one's own, and back: a folder is written with golden vectors and a card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skecg.encoders import Encoder, provider_of
from skecg.encoders.pooling import POOLINGS, AttentionPooling, check_pooling, n_registers
from skecg.errors import DamagedWeightsError, ParameterError
from skecg.io.files import make_folder, replacing, sha256_of
from skecg.spec import EncoderConfig, InputSpec
from skecg.weights.card import write_card
from skecg.weights.folder import (
    CONFIG_NAME,
    DIRECTIONS_NAME,
    FORMAT_VERSION,
    HEAD_FILES,
    MODEL_NAME,
    SIGNATURE_NAME,
    TRAINING_CONFIG,
    WeightsInfo,
    check_consistent,
    check_tensors,
    input_metadata,
    json_bytes,
    load_tensors,
    read_info,
    read_json,
    read_state,
    save_tensors,
)
from skecg.weights.golden import write_golden
from skecg.weights.rebuilding import check_rebuilt, stored_state
from skecg.weights.registry import find_weights

__all__ = ["load_encoder", "move_draft", "read_attention", "save_encoder"]


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
    (100.0, 'dual')
    """
    from skecg.compute.devices import resolve_device

    info = find_weights(model, revision=revision)
    return read_state(info).to(resolve_device(device or "cpu")), info.spec


def save_encoder(
    folder: str | Path, encoder: Encoder, spec: InputSpec, *, pooling: str = "mean", **provenance: Any
) -> None:
    """Write a weights folder: configuration, tensors, golden vectors and a card.

    Parameters
    ----------
    folder : str or Path
        Created when absent; files of these names in it are replaced, and what tells of former weights is removed
        (``training_config.json``, ``directions.safetensors``, ``model.sig``).
    encoder : Encoder
        One of skecg's, or a module of your own that is derived from :class:`skecg.encoders.WindowEncoder` and whose
        architecture is registered (:func:`skecg.encoders.register_encoder`).
    spec : InputSpec
        What the encoder expects to be fed.
    pooling : {"mean", "max", "mean+std", "mean+std+max", "cls"}, default="mean"
        How its tokens are pooled unless the user says otherwise.
    **provenance
        Where the weights come from, as plain JSON values: ``name``, ``trained`` (bool), ``licence``, ``data``,
        ``source``, …

    Raises
    ------
    ParameterError
        When they are no encoder and no input specification; when a module of your own fails on windows, gives no tokens
        of the widths that its configuration names, or others when it is built again from configuration and tensors,
        or when they depend on the windows beside or on chance.
    WeightsFormatError
        When the encoder and the input specification do not fit each other.
    """
    import torch

    if not isinstance(encoder, Encoder) and callable(getattr(encoder, "state_dict", None)):
        raise ParameterError(
            f"Got encoder of type {type(encoder).__name__}, a module that skecg cannot build again. Derive it from "
            "skecg.encoders.WindowEncoder and register its architecture (skecg.encoders.register_encoder), or "
            "export it and run `skecg convert onnx`."
        )
    for name, value, kind in (("encoder", encoder, Encoder), ("spec", spec, InputSpec)):
        if not isinstance(value, kind):
            raise ParameterError(
                f"Got {name} of type {type(value).__name__}, expected an {kind.__name__}. load_encoder gives both."
            )
    if not isinstance(getattr(encoder, "config", None), EncoderConfig):
        raise ParameterError(
            f"Got an encoder of type {type(encoder).__name__} without a configuration, by which it could be built "
            "again. Call super().__init__(config) in its __init__."
        )
    # Modules that are built here draw random weights; who saves in the middle of a training draws on as before.
    with torch.random.fork_rng(devices=[]):
        # A class of one's own may have one of skecg's configurations, of which a folder builds skecg's own encoder.
        if provider_of(encoder.config) or provider_of(encoder):
            check_rebuilt(encoder)
        info = _write_weights(folder, encoder, spec, pooling, provenance)
        # Of what was written, not of what was passed: one in training mode or in half precision gives other numbers.
        write_golden(info, read_state(info))
    write_card(info)


def _write_weights(
    folder: str | Path, encoder: Encoder, spec: InputSpec, pooling: str, provenance: Mapping[str, Any]
) -> WeightsInfo:
    """Write ``config.json`` and ``model.safetensors``; the folder is created, files of the user are left alone."""
    check_consistent(encoder.config, spec)
    check_pooling(pooling, encoder.num_registers)
    folder = Path(folder)
    state = stored_state(encoder)
    # Against itself: what is left to be found is values that are not finite.
    check_tensors(folder / MODEL_NAME, state, state)
    for what, values in (("provenance", provenance), ("a configuration of the encoder", encoder.config.to_dict())):
        _check_json(what, values)
        json_bytes(values, folder / CONFIG_NAME)
    make_folder(folder)
    save_tensors(folder / MODEL_NAME, state, _header(encoder.config, spec))
    provider = provider_of(encoder.config)
    config = {
        "skecg_format": FORMAT_VERSION,
        "architecture": encoder.config.architecture,
        "input": spec.to_dict(),
        "encoder": encoder.config.to_dict(),
        "pooling": pooling,
        "weights_sha256": sha256_of(folder / MODEL_NAME),
        "provenance": dict(provenance) | ({"plugin": provider} if provider else {}),
    }
    # Last: should this be interrupted, an older configuration names another digest, and loading says so.
    with replacing(folder / CONFIG_NAME) as file:
        file.write(json_bytes(config, folder / CONFIG_NAME))
    _remove_former(folder)
    # Read back as everybody else will read it.
    return read_info(folder)


def move_draft(draft: Path, folder: Path) -> None:
    """Put the files of a draft of a weights folder into their places, and remove what tells of former weights there.

    Parameters
    ----------
    draft : Path
        On the same disk, so that each file is moved by a rename.
    folder : Path
    """
    written = sorted(path.name for path in draft.iterdir())
    for name in written:
        (draft / name).replace(folder / name)
    _remove_former(folder, written)


def _remove_former(folder: Path, kept: Iterable[str] = ()) -> None:
    """Remove what tells of the weights that lay in a folder before: it would be published as that of the new ones."""
    for name in {DIRECTIONS_NAME, TRAINING_CONFIG, SIGNATURE_NAME}.difference(kept):
        (folder / name).unlink(missing_ok=True)


def _header(config: EncoderConfig, spec: InputSpec) -> dict[str, str]:
    """Describe in the file of tensors itself what they are, should it be found without its folder."""
    return {
        "format": "pt",
        "skecg_format": str(FORMAT_VERSION),
        "architecture": config.architecture,
        "embedding_dim": str(config.stages[-1].width),
        **input_metadata(spec),
    }


def _check_json(what: str, values: Mapping[str, Any]) -> None:
    """Raise for what JSON cannot say before anything of an older folder is replaced."""
    try:
        json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"Got {what} that cannot be written as JSON ({error}), expected text, finite numbers, booleans, None, "
            "and lists and dicts of them."
        ) from error


def read_attention(info: WeightsInfo) -> AttentionPooling:
    """Read what pools an encoder's tokens by attention: the head of a fine-tuned model that lies in its folder.

    Raises
    ------
    ParameterError
        When the weights bring none.
    DamagedWeightsError
        When it is missing, altered, or was trained with other weights.
    """
    described = [read_json(path) for name in HEAD_FILES[:2] if (path := info.folder / name).is_file()]
    values = next((v for v in described if isinstance(v, dict) and v.get("head") == "attention"), None)
    if values is None:
        poolings = [pooling for pooling in POOLINGS if pooling != "cls" or n_registers(info.encoder)]
        raise ParameterError(
            f"Got pooling='attention', which the weights {str(info.provenance.get('name') or info.folder)!r} do not "
            f"bring; they have {', '.join(map(repr, poolings))}. What FineTunedClassifier(head='attention').save wrote "
            "brings it."
        )
    path = info.folder / "head.safetensors"
    whole = path.is_file() and sha256_of(path) == values.get("head_sha256")
    if not whole or values.get("weights_sha256") != info.sha256:
        raise DamagedWeightsError(f"{path} is missing, altered, or of other weights than those beside it. Restore it.")
    tensors = load_tensors(path)
    width = info.encoder.stages[-1].width
    shapes = {"query": (width,), "to_query.weight": (width, width), "to_keys_values.weight": (2 * width, width)}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape or not tensors[name].isfinite().all():
            raise DamagedWeightsError(f"{path} has no finite {name!r} of shape {shape}. Restore it.")
    query_D = tensors["to_query.weight"] @ tensors["query"]
    return AttentionPooling(query_D, tensors["to_keys_values.weight"], info.encoder.n_heads, str(values["head_sha256"]))
