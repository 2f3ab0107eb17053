"""A model's files into a plain folder, for machines without a network: whole, checked, and with their digests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.errors import ParameterError
from skecg.hub.cards import card_pictures
from skecg.io.files import make_folder, sha256_of
from skecg.weights.fetching import fetch_optional
from skecg.weights.folder import CONFIG_NAME, HEAD_FILES, MODEL_NAME, OPTIONAL_FILES, read_state
from skecg.weights.loading import move_draft
from skecg.weights.registry import find_weights, repository_of

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = ["Download", "copy_weights", "download"]

_WANTED = (CONFIG_NAME, MODEL_NAME, "README.md", *OPTIONAL_FILES)


@dataclass(frozen=True)
class Download:
    """What was put into a folder.

    Parameters
    ----------
    folder : Path
        Where the files are.
    source : str
        Where they came from.
    files : tuple of (str, int, str)
        Name, size in bytes and sha256 of each.
    licence, data : str
        What the weights say of their licence and of what they were trained on.
    """

    folder: Path
    source: str
    files: tuple[tuple[str, int, str], ...]
    licence: str
    data: str

    def __str__(self) -> str:
        width = max(len(name) for name, _, _ in self.files)
        lines = [f"{name:<{width}}  {size:>12,} bytes  sha256 {digest}" for name, size, digest in self.files]
        total = sum(size for _, size, _ in self.files)
        return "\n".join(
            [
                f"{self.source} -> {self.folder}",
                *lines,
                f"{len(self.files)} files, {total / 1e6:.1f} MB",
                f"licence: {self.licence}; trained on: {self.data}",
                "Research use only. On the other machine: skecg verify FOLDER, and JEPAEmbedder(FOLDER).",
            ]
        )


def download(model: str, folder: str | Path, *, revision: str | None = None) -> Download:
    """Put a model's files into a folder.

    Parameters
    ----------
    model : str
        A name of :func:`skecg.list_models`, or ``"owner/name"``.
    folder : path-like
        Made when absent; files of these names are replaced.
    revision : str, optional
        Branch, tag or commit.

    Returns
    -------
    Download
        Prints as a list of the files.

    Raises
    ------
    WeightsError
        When there is no such model, or it is damaged.
    """
    folder = _check_folder(Path(folder))
    return copy_weights(model, find_weights(model, revision=revision), folder)


def _check_folder(folder: Path) -> Path:
    try:
        is_file = folder.exists() and not folder.is_dir()
    except (OSError, ValueError) as error:  # too long a name, or one with a zero
        raise ParameterError(f"Got {str(folder)[:80]!r}, which cannot be the name of a folder ({error}).") from error
    if is_file:
        raise ParameterError(f"Got {str(folder)!r}, which is a file; expected a folder to put weights into.")
    return folder


def copy_weights(model: str, info: WeightsInfo, folder: Path, *, with_head: bool = False) -> Download:
    """Put the files of weights that were found into a folder, checked first; those of a fine-tuned head if asked."""
    _check_folder(folder)
    # Reads and checks every tensor: a damaged file is found here and not on the machine without a network.
    read_state(info)
    sources = _sources(model, info, (*_WANTED, *(HEAD_FILES if with_head else ())))
    _copy(sources, folder)
    files = tuple((name, path.stat().st_size, sha256_of(folder / name)) for name, path in sources.items())
    at = f"{model} at commit {info.revision}" if info.revision else model
    licence, data = (str(info.provenance.get(key, "not recorded")) for key in ("licence", "data"))
    return Download(folder, at, files, licence, data)


def _sources(model: str, info: WeightsInfo, wanted: Iterable[str]) -> dict[str, Path]:
    """Find the files, fetching those that are not needed for loading."""
    repository = repository_of(model) if info.revision else None

    def find(names: Iterable[str]) -> dict[str, Path]:
        found = {}
        for name in names:
            path: Path | None = info.folder / name
            if repository is not None and info.revision is not None:
                # From the same commit as the weights: a newer card would describe others.
                path = fetch_optional(repository, name, info.revision)
            if path is not None and path.is_file():
                found[name] = path
        return found

    files = find(wanted)
    return files | (find(card_pictures(files["README.md"])) if "README.md" in files else {})


def _copy(sources: dict[str, Path], folder: Path) -> None:
    """Copy all files, then put them into their places: a folder is not left with half a model."""
    make_folder(folder)
    # Inside the folder, so that moving is a rename on one disk.
    draft = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    try:
        for name, path in sources.items():
            shutil.copyfile(path, draft / name)
        move_draft(draft, folder)
    except OSError as error:
        raise ParameterError(
            f"The weights cannot be written into {str(folder)!r} ({error}). Name another folder."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
