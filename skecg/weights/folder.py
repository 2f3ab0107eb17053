"""The weights folder: ``config.json``, ``model.safetensors``, ``golden.safetensors`` and a card.

Nothing here opens a pickle or runs code from a folder; this is the only door to safetensors. A ``config.json`` that
anybody may have written is refused before it costs memory or time: its size is checked here, and what it means by the
values made from it. Encoders that were read are kept, one of each, and shared by all who ask; whoever wants to change
one loads their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from skecg.encoders import Encoder, build_encoder, code_of, read_encoder_config
from skecg.encoders.convolution import pack_convolutions_
from skecg.encoders.linear import pack_linear_layers_
from skecg.encoders.pooling import check_pooling, n_registers
from skecg.errors import DamagedWeightsError, ParameterError, WeightsFormatError, WeightsNotFoundError
from skecg.io.files import replacing, sha256_of
from skecg.spec import EncoderConfig, InputSpec, PatchEncoderConfig
from skecg.validation import is_integer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CONFIG_NAME",
    "DIRECTIONS_NAME",
    "FORMAT_VERSION",
    "GOLDEN_NAME",
    "MODEL_NAME",
    "HEAD_FILES",
    "OPTIONAL_FILES",
    "SIGNATURE_NAME",
    "TRAINING_CONFIG",
    "WeightsInfo",
    "altered_config",
    "check_bytes",
    "check_consistent",
    "check_limits",
    "check_tensors",
    "forget_encoders",
    "input_metadata",
    "load_tensors",
    "json_bytes",
    "loaded_encoder",
    "read_info",
    "read_json",
    "read_metadata",
    "read_state",
    "save_tensors",
]

#: A configuration is a few kilobytes; with a long account of its provenance perhaps a hundred.
LARGEST_CONFIG_BYTES = 1_000_000
DEEPEST = 20
MOST_VALUES = 10_000
#: Far beyond any encoder of electrocardiograms, far below what would fill a machine's memory.
_LARGEST_INPUT = {"sampling_rate": 100_000, "window_samples": 2**22, "filter_order": 16, "baseline_samples": 2**16}
_LARGEST_ENCODER = {"dim": 2**14, "depth": 256, "num_heads": 256, "n_patches": 2**16, "patch_samples": 2**16}
_LARGEST_ENCODER |= {"mlp_ratio": 64, "num_registers": 1024}
_MOST_POSITIONS = 2**26

# What a terminal obeys, halves of a character, and what turns the order of letters around; all scripts' blanks pass.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_LENGTH_BYTES = 8

#: Version of the layout of a weights folder. A new field of the configuration needs no new one: where it lacks it has
#: its default, and an older release refuses its name.
FORMAT_VERSION = 1

#: Names of the files of a weights folder.
CONFIG_NAME, MODEL_NAME, GOLDEN_NAME = "config.json", "model.safetensors", "golden.safetensors"
# Principal directions of the features, where somebody computed them.
DIRECTIONS_NAME = "directions.safetensors"
# The configuration of the run, where skecg's own trainer made the weights.
TRAINING_CONFIG = "training_config.json"
SIGNATURE_NAME = "model.sig"
#: What describes a fine-tuned model, and the head that it may pool by.
HEAD_FILES = ("classifier.json", "regressor.json", "head.safetensors")
#: Files that a folder may have beside its configuration and its tensors, and that go where it goes.
OPTIONAL_FILES = (DIRECTIONS_NAME, GOLDEN_NAME, TRAINING_CONFIG, SIGNATURE_NAME, "LICENSE")

_FIELDS = (
    *("skecg_format", "architecture", "input", "encoder", "pooling"),
    *("weights_sha256", "directions_sha256", "provenance"),
)

_SMALL = 2**22  # parameters; 16 MB, which any machine can make room for
_SHA256 = re.compile("[0-9a-f]{64}")
# Files of tensors whose bytes were found to be those of a digest, by what changes when they do.
_checked: set[tuple[str, int, int, int, int] | None] = set()

_KEPT = 4
# Of each weights folder on a device, the encoder as it is and as it is packed for a precision.
_encoders: OrderedDict[tuple[str, str], dict[str | None, Encoder]] = OrderedDict()
_lock = threading.Lock()


def read_json(path: Path) -> Any:
    """Read a small JSON file of shallow values and plain text.

    Raises
    ------
    WeightsFormatError
        When it is large, deeply nested, no JSON, or holds control characters.
    """
    n_bytes = path.stat().st_size
    if n_bytes > LARGEST_CONFIG_BYTES:
        raise WeightsFormatError(
            f"{path} has {n_bytes:,} bytes, expected at most {LARGEST_CONFIG_BYTES:,}: it is no configuration of "
            "weights. Fetch or export the weights again."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsFormatError(f"{path} is not valid JSON ({error}). Fetch or export the weights again.") from error
    for text in _texts(path, values):
        if _CONTROL.search(text):
            raise WeightsFormatError(f"{path} holds control characters in {text[:40]!r}, expected plain text.")
    return values


def json_bytes(values: Mapping[str, Any], path: Path) -> bytes:
    """Return what is written into a JSON file that :func:`read_json` reads.

    Raises
    ------
    ParameterError, WeightsFormatError
        When it would refuse a text, or all of it.
    """
    strange = next((text for text in _texts(path, values) if _CONTROL.search(text)), None)
    if strange is not None:
        raise ParameterError(
            f"Got {strange[:40]!r} to be written into {path}, expected text without control characters. Rename it."
        )
    content = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    if len(content) > LARGEST_CONFIG_BYTES:
        raise ParameterError(
            f"Got {len(content):,} bytes to be written into {path}, expected at most {LARGEST_CONFIG_BYTES:,}: shorten "
            "names, or the account of where it comes from."
        )
    return content


def _texts(path: Path, values: Any) -> Iterator[str]:
    """Return all texts of nested values, keys too."""
    level, n_values = [values], 0
    # Level by level, without recursion: how deep the file is nested is its author's choice.
    for _ in range(DEEPEST):
        n_values += len(level)
        if n_values > MOST_VALUES:
            raise WeightsFormatError(f"{path} holds more than {MOST_VALUES:,} values: it is no configuration.")
        nested: list[Any] = []
        for value in level:
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                nested += [*value, *value.values()]
            elif isinstance(value, list | tuple):
                nested += value
        level = nested
    if level:
        raise WeightsFormatError(
            f"{path} is nested more than {DEEPEST} levels deep. It is no configuration of weights."
        )


def check_limits(encoder: EncoderConfig, spec: InputSpec) -> None:
    """Raise for an encoder or an input that no machine should be asked to make room for."""
    # Before anything is built: a configuration of a few bytes could ask for all of the memory.
    for value, limits in ((spec, _LARGEST_INPUT), (encoder, _LARGEST_ENCODER)):
        for name, largest in limits.items():
            found = getattr(value, name, 0) or 0
            if found > largest:
                raise WeightsFormatError(
                    f"Got {name}={str(found)[:24]} in the {value.kind}, expected at most {largest:,}."
                )
    if not isinstance(encoder, PatchEncoderConfig):
        return
    n_positions = encoder.n_leads * encoder.n_patches * encoder.dim
    if n_positions > _MOST_POSITIONS:
        raise WeightsFormatError(
            f"The encoder has {encoder.n_leads} leads of {encoder.n_patches:,} slices of width {encoder.dim:,}, "
            f"{n_positions:,} values of position; expected at most {_MOST_POSITIONS:,}."
        )


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise DamagedWeightsError(f"{path} is missing. Delete the folder and fetch the weights again.") from error
    except (SafetensorError, OSError) as error:
        raise DamagedWeightsError(
            f"{path} is no readable safetensors file ({error}). Fetch the weights again."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a file of tensors that was loaded says of itself."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same tensors and metadata are the same bytes."""
    from safetensors.torch import save

    with replacing(path) as file:  # its save_file makes files that only their owner can read
        file.write(_ordered(save(dict(tensors), metadata=dict(metadata))))


def _ordered(content: bytes) -> bytes:
    """Put the entries of the metadata, which safetensors writes in a random order, into that of their names."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight bytes, as the format wants.
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[_LENGTH_BYTES + length :]


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights folder says of itself.

    Parameters
    ----------
    folder : Path
        Where it lies.
    encoder : EncoderConfig
        Architecture and shape.
    spec : InputSpec
        What the encoder expects to be fed.
    pooling : str
        How its tokens are pooled unless the user says otherwise.
    sha256 : str
        Digest of ``model.safetensors``.
    provenance : dict
        Where the weights come from: ``name``, ``trained``, ``licence``, ``data`` and whatever else was recorded.
    revision : str or None
        Commit on the Hub, when they came from there.
    directions_sha256 : str or None
        Digest of ``directions.safetensors``, where there is one.
    """

    folder: Path
    encoder: EncoderConfig
    spec: InputSpec
    pooling: str
    sha256: str
    provenance: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    directions_sha256: str | None = None

    @property
    def digest(self) -> str:
        """Digest of everything that shapes an embedding: tensors, configuration, input, code from outside."""
        parts = [self.sha256, self.encoder.architecture, self.encoder.to_dict(), self.spec.to_dict()]
        parts += [code] if (code := code_of(self.encoder)) else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_info(folder: str | Path, revision: str | None = None) -> WeightsInfo:
    """Read and check a folder's ``config.json``.

    Raises
    ------
    WeightsNotFoundError
        When the folder or its configuration is not there.
    WeightsFormatError
        When the configuration is malformed, inconsistent, or newer than this skecg.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{folder} holds no {CONFIG_NAME}; expected a weights folder ({CONFIG_NAME}, {MODEL_NAME}). "
            "`skecg convert` makes one of a published checkpoint."
        )
    values = read_json(path)
    _check_format(path, values)
    unknown = sorted(values.keys() - _FIELDS)
    if unknown:
        raise WeightsFormatError(
            f"{path} has the unknown field {unknown[0]!r}, expected {', '.join(_FIELDS)}. Fetch or export the weights "
            "again."
        )
    provenance = values.get("provenance", {})
    if not isinstance(provenance, Mapping):
        raise WeightsFormatError(f"{path} has provenance {provenance!r}, expected an object of named fields.")
    try:
        encoder = read_encoder_config(values["architecture"], values["encoder"], provenance.get("plugin"))
        spec = InputSpec.from_dict(values["input"])
        pooling, sha256 = values["pooling"], _checked_sha256("weights_sha256", values["weights_sha256"])
        directions = values.get("directions_sha256")
        directions = None if directions is None else _checked_sha256("directions_sha256", directions)
        check_pooling(pooling, n_registers(encoder))
    except KeyError as error:
        raise WeightsFormatError(f"{path} lacks the field {error}. Fetch or export the weights again.") from error
    except ParameterError as error:
        raise WeightsFormatError(f"{path}: {error}") from error
    check_consistent(encoder, spec)
    return WeightsInfo(folder, encoder, spec, pooling, sha256, dict(provenance), revision, directions)


def _checked_sha256(field: str, value: object) -> str:
    if not _SHA256.fullmatch(str(value)):
        raise ParameterError(f"got {field}={str(value)[:80]!r}, expected 64 hexadecimal digits.")
    return str(value)


def _check_format(path: Path, values: Any) -> None:
    version = values.get("skecg_format") if isinstance(values, Mapping) else None
    if not is_integer(version, 1):
        raise WeightsFormatError(
            f"{path} is no skecg configuration: it has no 'skecg_format'. `skecg convert` turns the published ECG-JEPA "
            "checkpoints into weights folders."
        )
    if version > FORMAT_VERSION:
        raise WeightsFormatError(
            f"{path} has format {version}, this skecg reads up to {FORMAT_VERSION}. Run `pip install --upgrade skecg`."
        )


def check_consistent(encoder: EncoderConfig, spec: InputSpec) -> None:
    """Raise for an encoder that cannot be fed what an input specification gives, or that asks for too much."""
    check_limits(encoder, spec)
    if encoder.n_leads != spec.n_leads or encoder.window_samples != spec.window_samples:
        raise WeightsFormatError(
            f"The encoder takes {encoder.n_leads} leads of {encoder.window_samples} samples, the input specification "
            f"gives {spec.n_leads} leads of {spec.window_samples}; expected the same."
        )


def read_state(info: WeightsInfo) -> Encoder:
    """Build a folder's encoder, refusing anything but exactly its tensors.

    Raises
    ------
    DamagedWeightsError
        When the file is missing, fails its checksum, or lacks, adds or reshapes a tensor, holds values that are not
        finite or of another kind of number, or was written for other leads, or another rate, than ``config.json`` says.
    """
    path = info.folder / MODEL_NAME
    _compare_digests(info)
    state = load_tensors(path)
    _compare_inputs(path, info)
    # Before building, which allocates whatever the configuration says.
    _check_room(path, info, sum(tensor.numel() for tensor in state.values()))
    encoder = build_encoder(info.encoder)
    check_tensors(path, encoder.state_dict(), state)
    encoder.load_state_dict(state, strict=True)
    # Torch's default type, which users may set, is not the encoder's.
    return encoder.float().eval().requires_grad_(False)


def check_bytes(info: WeightsInfo) -> None:
    """Check the tensors' file against its digest when it is first named in this process, and when it has changed.

    Raises
    ------
    DamagedWeightsError
        When the file is missing or fails its checksum.
    """
    key = None
    with contextlib.suppress(OSError):  # comparing says what is missing
        state = (info.folder / MODEL_NAME).stat()
        # A file that is the same to the system is not hashed again.
        key = info.sha256, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
    if key is None or key not in _checked:
        _compare_digests(info)
        _checked.add(key)


def loaded_encoder(info: WeightsInfo, device: torch.device, *, packed_for: str | None = None) -> Encoder:
    """Return the encoder of a weights folder on a device, reading it only if this process has not.

    Those of the last few folders used are kept. They are shared between estimators, clones and threads, so they must
    not be modified; load your own with :func:`skecg.load_encoder` for that.

    Parameters
    ----------
    info : WeightsInfo
    device : torch.device
    packed_for : {"fp32", "bf16"}, optional
        On the CPU: another encoder, which only ever computes in this precision, and is faster at it
        (:mod:`skecg.encoders.linear`, :mod:`skecg.encoders.convolution`).
    """
    # The digest is what a folder says of itself: an encoder loaded from another one vouches for that one alone.
    check_bytes(info)
    key = (info.digest, str(device))
    with _lock:
        # Loaded under the lock: threads that ask for the same encoder at once wait, and do not each load it.
        if packed_for not in _encoders.get(key, {}):
            encoder = read_state(info).to(device)
            if packed_for is not None:
                pack_linear_layers_(encoder.packed_part, packed_for)
                pack_convolutions_(encoder.packed_part, packed_for)
            _encoders.setdefault(key, {})[packed_for] = encoder
            while len(_encoders) > _KEPT:
                _encoders.popitem(last=False)
        _encoders.move_to_end(key)
        return _encoders[key][packed_for]


def forget_encoders() -> None:
    """Drop all encoders that this process keeps."""
    with _lock:
        _encoders.clear()


def _compare_digests(info: WeightsInfo) -> None:
    """Raise where the tensors' file is not the one that the configuration was written for."""
    path = info.folder / MODEL_NAME
    if not path.is_file():
        raise DamagedWeightsError(f"{path} is missing. Delete the folder and fetch the weights again.")
    if (found := sha256_of(path)) != info.sha256:
        raise DamagedWeightsError(
            f"{path} has sha256 {found[:16]}…, its {CONFIG_NAME} says {info.sha256[:16]}…: the file was truncated or "
            f"altered. {_restore(info)}"
        )


def _compare_inputs(path: Path, info: WeightsInfo) -> None:
    """Raise where the tensors were written for other leads, in order, or another rate than the configuration says."""
    said = read_metadata(path)  # of skecg's own files; others say nothing
    for name, configured in input_metadata(info.spec).items():
        if said.get(name, configured) != configured:
            raise altered_config(path, info, f"{name}={said[name][:200]!r}", repr(configured))


def input_metadata(spec: InputSpec) -> dict[str, str]:
    """Return what a file of tensors itself says of what the encoder is fed."""
    return {"leads": ",".join(spec.leads), "sampling_rate": f"{spec.sampling_rate:g}"}


def altered_config(path: Path, info: WeightsInfo, said: str, configured: str) -> DamagedWeightsError:
    """Return the error of a configuration that says something else than a file beside it."""
    return DamagedWeightsError(
        f"{path} was written for {said}, its {CONFIG_NAME} says {configured}: one of the two was altered. "
        f"{_restore(info, CONFIG_NAME)}"
    )


def _restore(info: WeightsInfo, name: str = MODEL_NAME) -> str:
    """Return how sound weights come back."""
    if info.revision is None:
        return "Delete the folder and fetch the weights again."
    # In the Hub library's cache the name is a link; only without what it leads to is the file fetched anew.
    return f"Delete {(info.folder / name).resolve()}, and it is fetched again."


def _check_room(path: Path, info: WeightsInfo, n_values: int) -> None:
    """Raise for an encoder that the file cannot fill; a small one is built, to name what is missing."""
    wanted = info.encoder.fewest_parameters
    if wanted > max(n_values, _SMALL):
        raise DamagedWeightsError(
            f"{path} holds {n_values:,} values; the encoder that its {CONFIG_NAME} describes has more than {wanted:,}. "
            f"{_restore(info)}"
        )


def check_tensors(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise unless tensors are those expected, by name, shape and kind of number, and finite."""
    problems = [f"lacks {name}" for name in expected if name not in found]
    problems += [f"has an unknown {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if expected[name].shape != found[name].shape:
            problems.append(f"has {name} of shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}")
        # Each way: floats of any precision are of one kind; whole numbers, or yes and no, in their place are not.
        elif not all(map(torch.can_cast, kinds := (expected[name].dtype, found[name].dtype), kinds[::-1])):
            problems.append(f"has {name} of {kinds[1]}, not {kinds[0]}")
        elif not found[name].isfinite().all():
            problems.append(f"has values in {name} that are not finite")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DamagedWeightsError(
            f"{path} does not fit its {CONFIG_NAME}: it {'; it '.join(sorted(problems)[:3])}{more}."
        )
