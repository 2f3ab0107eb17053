"""Foreign checkpoint files: opened without running anything, checked tensor by tensor, and written as weights folders.

Every conversion ends with the same step, which writes the folder whole or not at all, and reports what was done.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import skecg
from skecg.encoders import build_encoder
from skecg.errors import ForeignCheckpointError, ParameterError, SkecgError, WeightsError, WeightsNotFoundError
from skecg.io.files import sha256_of
from skecg.weights import save_encoder
from skecg.weights.folder import load_tensors
from skecg.weights.loading import move_draft

if TYPE_CHECKING:
    from torch import Tensor

    from skecg.spec import EncoderConfig, InputSpec

__all__ = [
    "Checkpoint",
    "ConversionReport",
    "check_deviations",
    "check_folder",
    "check_tensors",
    "open_checkpoint",
    "part_of",
    "write_folder",
]

_SHOWN = 6
# Parts of names that torch's DataParallel and torch.compile put before those of the module inside.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod)\.")
# mV, with room on both sides: a lead's are 0.1 to 1. Those of microvolts are more, those of volts less.
_LEAST_DEVIATION, _LARGEST_DEVIATION = 0.005, 20.0
_KINDS = ("torch.float32", "torch.float16", "torch.bfloat16", "torch.float64")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Parameters
    ----------
    path : Path
        Where it lies.
    sha256 : str
        Digest of the file.
    n_bytes : int
        Size of the file.
    content : dict
        Top level. A file of tensors alone (a bare state dict, or safetensors) appears as ``{"model": tensors}``, with
        ``"config"`` where safetensors' metadata has one.
    """

    path: Path
    sha256: str
    n_bytes: int
    content: dict[str, Any]

    def refuse(self, found: str, wanted: str) -> ForeignCheckpointError:
        """Make the error that says what the file holds and what it should."""
        return ForeignCheckpointError(f"{self.path}: got {found}, expected {wanted}")

    def shape_of(self, state: Mapping[str, Any], name: str, n_axes: int, whose: str) -> tuple[int, ...]:
        """Return the shape of a tensor that has to be there, with so many axes and none of them empty."""
        value = state.get(name)
        if not isinstance(value, Tensor) or value.ndim != n_axes or 0 in value.shape:
            raise self.refuse_other(f"no tensor {name!r} of {n_axes} axes but {in_words(state)}", f"that of {whose}.")
        return tuple(value.shape)

    def refuse_other(self, found: str, wanted: str) -> ForeignCheckpointError:
        """Make the error for what is likely a file of something else."""
        return self.refuse(found, f"{wanted} `skecg convert --help` lists whose files are read.")

    @property
    def keys_in_words(self) -> str:
        """The top-level keys, for messages."""
        return f"top-level keys {in_words(self.content)}"

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a top-level entry that has to be a mapping with text for keys, which lose the names of wrappers."""
        value = self.content.get(key)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self.refuse(f"{key!r} of type {type(value).__name__}", "a mapping of names to values there.")
        named = {_without_wrappers(name): entry for name, entry in value.items()}
        if len(named) < len(value):
            raise self.refuse(f"tensors in {key!r} that only the wrappers in their names tell apart", "one model.")
        return named


def _without_wrappers(name: str) -> str:
    """Return a tensor's name without what training on several devices and compilation put into it."""
    return _WRAPPERS.sub("", name)


def open_checkpoint(file: str | Path, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint of tensors and plain values.

    Parameters
    ----------
    file : str or Path
        A zip archive as ``torch.save`` writes it, or a safetensors file.
    sha256 : str, optional
        Digest that the file must have.

    Raises
    ------
    WeightsNotFoundError
        When there is no such file.
    ForeignCheckpointError
        When the file is truncated, altered, of another kind, or carries code.
    """
    path = Path(file)
    if not path.is_file():
        raise WeightsNotFoundError(f"Got {str(path)!r}, expected a checkpoint file; there is none. Check the path.")
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256.strip().lower():
        raise ForeignCheckpointError(
            f"{path}: got a file of sha256 {digest}, expected {sha256}. It was altered or is another; fetch it again."
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_archive(path)
    return Checkpoint(path, digest, path.stat().st_size, content)


class _Dtype:
    """What a pickle says of the type of a NumPy scalar."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(dtype: _Dtype, content: bytes) -> bool | int | float:
    """Return a NumPy scalar as a plain number."""
    if not re.fullmatch("[biuf][1248]", str(dtype.code)) or dtype.order not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError(f"Unsupported NumPy scalar of type {dtype.code!r}")
    number: bool | int | float = np.frombuffer(content, dtype.order + dtype.code)[0].item()
    return number


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that older pickles hold as text."""
    # The one that protocol 2 writes bytes in; any other would call a codec by its name.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"Unsupported bytes in {encoding!r}")
    return text.encode("latin1")


# Training code writes scores and rates, which NumPy made, beside the weights. What their pickles call for is done by
# these, which can make plain numbers and nothing else.
_HARMLESS: tuple[tuple[Any, str], ...] = (
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_encode, "_codecs.encode"),
)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = {"model": load_tensors(path)}
    except WeightsError as error:
        raise ForeignCheckpointError(f"{path}: got no readable safetensors file. Fetch it again.") from error
    with path.open("rb") as stream:
        # A file of safetensors begins with the length of its JSON header, eight bytes; load_tensors has checked it.
        text = stream.read(int.from_bytes(stream.read(8), "little"))
    try:
        # Its metadata hold text alone, so a configuration in it is JSON within JSON.
        config = json.loads(text).get("__metadata__", {}).get("config")
        if config is not None:
            content["config"] = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise ForeignCheckpointError(
            f"{path}: got a header or a 'config' in its metadata that is not JSON ({type(error).__name__}: {error}). "
            "Fetch it again."
        ) from error
    return content


def _read_archive(path: Path) -> dict[str, Any]:
    _check_archive(path)
    try:
        # Allowed for this one call: torch.serialization.add_safe_globals would allow them to the whole process.
        with torch.serialization.safe_globals(list(_HARMLESS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ForeignCheckpointError(
            f"{path}: got a pickle that holds more than tensors and plain values ({_reason(error)}), which is not "
            "opened because it could run code. Expected a published checkpoint; do not load this file by other means."
        ) from error
    except Exception as error:  # torch raises whatever its parser of a hostile file stumbles over
        raise ForeignCheckpointError(
            f"{path}: got an archive that torch cannot read ({type(error).__name__}: {_reason(error)}). Fetch it again."
        ) from error
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise ForeignCheckpointError(
            f"{path}: got a {type(content).__name__} at the top level, expected a mapping of names to values."
        )
    # Some authors save the state dict itself, some put it under a name; from here on it is under a name.
    bare = all(isinstance(value, Tensor) for value in content.values())
    return {"model": dict(content)} if bare else dict(content)


def _check_archive(path: Path) -> None:
    """Raise for what is no zip archive, and archives of which a byte has changed (torch checks no checksums itself)."""
    damaged: str | None = None
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                _check_stored(archive, path)
                damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ForeignCheckpointError(f"{path}: got a damaged zip archive ({error}). Fetch it again.") from error
    if not is_archive:
        raise ForeignCheckpointError(
            f"{path}: got {_looks_like(path)}, expected a zip archive as torch.save writes it, or a .safetensors file. "
            "If the download broke off, fetch it again."
        )
    if damaged is not None:
        raise ForeignCheckpointError(
            f"{path}: got {damaged!r} in the archive with another checksum than it was written with: the file was "
            "altered. Fetch it again."
        )


def _check_stored(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise for an archive that holds more than its file: torch.save compresses nothing, a bomb does."""
    n_bytes = sum(entry.file_size for entry in archive.infolist())
    if n_bytes > path.stat().st_size:
        raise ForeignCheckpointError(
            f"{path}: got an archive of {n_bytes:,} bytes in a file of {path.stat().st_size:,}, expected entries that "
            "are stored as they are, as torch.save does. Save it again with torch.save."
        )


def _looks_like(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        return "an empty file"
    if start[:2] == b"PK":
        return "a truncated zip archive"
    # Google Drive answers so for large files, and Kim's weights lie there.
    if start.lstrip()[:1] == b"<":
        return "a web page (a download that asked for confirmation?)"
    return "a pickle outside an archive" if start[:1] == b"\x80" else "a file of unknown kind"


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return " ".join((lines or str(error).splitlines() or [""])[0].split())[:160]


def in_words(names: Mapping[str, Any] | list[str]) -> str:
    """List names for a message, the first few."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (", ".join(map(repr, listed[:_SHOWN])) or "nothing") + more


def part_of(state: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the entries under a prefix, without it, and name the other parts ("predictor", …) with their sizes."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    others: dict[str, int] = {}
    for name in state:
        if not name.startswith(prefix):
            others[name.split(".")[0]] = others.get(name.split(".")[0], 0) + 1
    return part, tuple(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in others.items())


def check_tensors(checkpoint: Checkpoint, found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise for a state dict that is not exactly the tensors wanted, by the name of the first that is wrong."""
    # The file's own tensors first: an unexpected name says more of what the file is than a missing one.
    for name, value in found.items():
        if name not in wanted:
            raise checkpoint.refuse(f"an unexpected tensor {name!r}", f"none but {in_words(list(wanted))}.")
        if (kind := _kind_of(value)) not in _KINDS:
            raise checkpoint.refuse(f"{name!r} of type {kind}", f"a tensor of {', '.join(_KINDS)}. Save it as one.")
        if tuple(value.shape) != wanted[name]:
            raise checkpoint.refuse(f"{name!r} of shape {tuple(value.shape)}", f"shape {wanted[name]}.")
        # NaN in weights makes every feature NaN, and neither names nor shapes show it.
        if not value.isfinite().all():
            raise checkpoint.refuse(f"values in {name!r} that are not finite", "finite numbers only.")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise checkpoint.refuse(f"no tensor {missing[0]!r} ({len(missing)} missing)", "all tensors of the encoder.")


def check_deviations(
    std: Sequence[float], where: str, error: type[SkecgError] = ParameterError, *, filtered: bool = False
) -> None:
    """Raise for standard deviations that no lead in millivolts has; a filter may leave as little as it likes."""
    low, high = min(std), max(std)
    if (low < _LEAST_DEVIATION and not filtered) or high > _LARGEST_DEVIATION:
        raise error(
            f"Got standard deviations of {low:g} to {high:g} mV in {where}, expected {_LEAST_DEVIATION:g} to "
            f"{_LARGEST_DEVIATION:g} mV for leads of an electrocardiogram. If they (and the means) are in microvolts, "
            "divide them by 1000; if in volts, multiply."
        )


def _kind_of(value: Any) -> str:
    """Return what kind of number a tensor holds, and how where that is not one after the other."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    dense = value.layout is torch.strided and value.device.type == "cpu"
    return str(value.dtype) if dense else f"{value.dtype}, {value.layout} on {value.device}"


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint.

    Parameters
    ----------
    folder : Path
        The weights folder written.
    source : Path
        The checkpoint read.
    sha256 : str
        Its digest.
    recognised : str or None
        The published file that it is, by its digest; None when it is not one of the known files.
    encoder : EncoderConfig
        Architecture and shape found.
    spec : InputSpec
        What the weights expect to be fed.
    taken : str
        Which part of the checkpoint the weights are.
    dropped : tuple of str
        Which parts were left behind.
    notes : tuple of str
        What else a user should know.
    """

    folder: Path
    source: Path
    sha256: str
    recognised: str | None
    encoder: EncoderConfig
    spec: InputSpec
    taken: str
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = f"the published file {self.recognised}" if self.recognised else "not one of the known files"
        width, *counts = self.encoder.size.items()
        shape = ", ".join(
            [self.encoder.architecture, "width {1}".format(*width), *(f"{n} {name}" for name, n in counts)]
        )
        lines = [
            f"{self.source} -> {self.folder}",
            f"  sha256:  {self.sha256} ({known})",
            f"  encoder: {shape}; {self.taken}",
            f"  input:   {', '.join(self.spec.leads)} at {self.spec.sampling_rate:g} Hz, "
            f"{self.spec.window_seconds:g} s, normalization: {self.spec.normalization}",
        ]
        lines += [f"  left out: {', '.join(self.dropped)}"] if self.dropped else []
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def check_folder(folder: str | Path) -> Path:
    """Raise for an output that is a file, before any work is done."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"Got folder={str(folder)!r}, which is a file; expected a folder to write weights into.")
    return folder


def write_folder(
    folder: Path,
    checkpoint: Checkpoint,
    config: EncoderConfig,
    state: dict[str, Tensor],
    spec: InputSpec,
    provenance: dict[str, Any],
) -> None:
    """Write the weights folder beside its place and move the files there when all are written."""
    encoder = build_encoder(config)
    encoder.load_state_dict(state, strict=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk as its goal, so that each file is moved by a rename.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_encoder(
            draft,
            encoder.eval(),
            spec,
            pooling="mean",
            **provenance,
            model=folder.name,
            source_sha256=checkpoint.sha256,
            converted_by=f"skecg {skecg.__version__}",
        )
        folder.mkdir(exist_ok=True)
        move_draft(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
