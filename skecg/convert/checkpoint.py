"""Foreign checkpoint files: opened without running anything, and checked tensor by tensor."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skecg.errors import ForeignCheckpointError, WeightsError, WeightsNotFoundError
from skecg.weights.tensors import load_tensors

__all__ = ["Checkpoint", "check_tensors", "open_checkpoint", "part_of"]

_SHOWN = 6


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

    @property
    def keys_in_words(self) -> str:
        """The top-level keys, for messages."""
        return f"top-level keys {in_words(self.content)}"

    def mapping(self, key: str) -> dict[str, Any]:
        """Give a top-level entry that has to be a mapping with text for keys."""
        value = self.content.get(key)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self.refuse(f"{key!r} of type {type(value).__name__}", "a mapping of names to values there.")
        return dict(value)


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
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 is not None and digest != sha256.strip().lower():
        raise ForeignCheckpointError(
            f"{path}: got a file of sha256 {digest}, expected {sha256}. It was altered or is another; fetch it again."
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_archive(path)
    return Checkpoint(path, digest, path.stat().st_size, content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = {"model": load_tensors(path)}
    except WeightsError as error:
        raise ForeignCheckpointError(f"{path}: got no readable safetensors file. Fetch it again.") from error
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    config = header.get("__metadata__", {}).get("config")
    if config is not None:
        try:
            content["config"] = json.loads(config)
        except json.JSONDecodeError as error:
            raise ForeignCheckpointError(
                f"{path}: got a 'config' in its metadata that is not JSON ({error})."
            ) from error
    return content


def _read_archive(path: Path) -> dict[str, Any]:
    _check_archive(path)
    try:
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
    bare = all(isinstance(value, Tensor) for value in content.values())
    return {"model": dict(content)} if bare else dict(content)


def _check_archive(path: Path) -> None:
    """Refuse what is no zip archive, and archives of which a byte has changed (torch checks no checksums itself)."""
    if not zipfile.is_zipfile(path):
        raise ForeignCheckpointError(
            f"{path}: got {_looks_like(path)}, expected a zip archive as torch.save writes it, or a .safetensors file. "
            "If the download broke off, fetch it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise ForeignCheckpointError(f"{path}: got a damaged zip archive ({error}). Fetch it again.") from error
    if damaged is not None:
        raise ForeignCheckpointError(
            f"{path}: got {damaged!r} in the archive with another checksum than it was written with: the file was "
            "altered. Fetch it again."
        )


def _looks_like(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        return "an empty file"
    if start[:2] == b"PK":
        return "a truncated zip archive"
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
    return ", ".join(map(repr, listed[:_SHOWN])) + more


def part_of(state: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take the entries under a prefix, without it, and name the other parts ("predictor", …) with their sizes."""
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    others: dict[str, int] = {}
    for name in state:
        if not name.startswith(prefix):
            others[name.split(".")[0]] = others.get(name.split(".")[0], 0) + 1
    return part, tuple(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in others.items())


def check_tensors(checkpoint: Checkpoint, found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state dict that is not exactly the tensors wanted, by the name of the first that is wrong."""
    for name, value in found.items():
        if name not in wanted:
            raise checkpoint.refuse(f"an unexpected tensor {name!r}", f"none but {in_words(list(wanted))}.")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise checkpoint.refuse(f"{name!r} of type {kind}", "a tensor of floating-point numbers.")
        if tuple(value.shape) != wanted[name]:
            raise checkpoint.refuse(f"{name!r} of shape {tuple(value.shape)}", f"shape {wanted[name]}.")
        if not value.isfinite().all():
            raise checkpoint.refuse(f"values in {name!r} that are not finite", "finite numbers only.")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise checkpoint.refuse(f"no tensor {missing[0]!r} ({len(missing)} missing)", "all tensors of the encoder.")
