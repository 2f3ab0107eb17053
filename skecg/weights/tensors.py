"""Files of tensors: the only door to safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.errors import DamagedWeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_tensors", "save_tensors"]

_LENGTH_BYTES = 8


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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same tensors and metadata are the same bytes."""
    from safetensors.torch import save

    # Its save_file makes files that only their owner can read.
    path.write_bytes(_ordered(save(dict(tensors), metadata=dict(metadata))))


def _ordered(content: bytes) -> bytes:
    """Put the entries of the metadata, which safetensors writes in a random order, into that of their names."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Tensors begin at a multiple of eight bytes, as the format wants.
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[_LENGTH_BYTES + length :]
