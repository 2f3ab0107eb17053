"""What a conversion did, and the step that every conversion ends with: writing the folder, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skecg
from skecg.encoders import build_encoder
from skecg.errors import ParameterError
from skecg.weights import save_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from skecg.convert.checkpoint import Checkpoint
    from skecg.spec import EncoderConfig, InputSpec

__all__ = ["ConversionReport", "check_folder", "write_folder"]


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
        shape = f"{self.encoder.architecture}, width {self.encoder.dim}, {self.encoder.depth} blocks, "
        lines = [
            f"{self.source} -> {self.folder}",
            f"  sha256:  {self.sha256} ({known})",
            f"  encoder: {shape}{self.encoder.num_heads} heads; {self.taken}",
            f"  input:   {', '.join(self.spec.leads)} at {self.spec.sampling_rate:g} Hz, "
            f"{self.spec.window_seconds:g} s, normalization: {self.spec.normalization}",
        ]
        lines += [f"  left out: {', '.join(self.dropped)}"] if self.dropped else []
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def check_folder(folder: str | Path) -> Path:
    """Refuse an output that is a file, before any work is done."""
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
        for written in sorted(draft.iterdir()):
            written.replace(folder / written.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
