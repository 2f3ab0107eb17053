"""What is installed here: for bug reports and for the record of a run."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TextIO

from skecg._version import __version__
from skecg.embedding_cache import default_cache_folder
from skecg.errors import CacheError

__all__ = ["installed_version", "processor", "show_versions"]

_REQUIRED = ("torch", "scikit-learn", "numpy", "scipy", "wfdb", "safetensors", "huggingface-hub", "joblib", "tqdm")
_OPTIONAL = ("matplotlib", "edfio", "pydicom", "ecgdatakit", "pyarrow", "pandas", "distributed")


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of skecg, of Python and of the packages that skecg uses, and where embeddings are kept.

    Nothing is imported for it: versions are what the installed packages say of themselves.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output when not given.

    Examples
    --------
    >>> import skecg
    >>> skecg.show_versions()
    skecg            ...
    Python           ...
    """
    rows = {
        "skecg": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {os.cpu_count()} cores",
        **{name: installed_version(name) or "MISSING" for name in _REQUIRED},
        **{name: installed_version(name) or "not installed" for name in _OPTIONAL},
        "embedding cache": _cache_folder(),
    }
    for name, value in rows.items():
        print(f"{name:<16} {value}", file=file)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name, with the family that tells AMD's generations apart where the system knows it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = facts.get("model name") or platform.machine()
    family = (
        f" (family {facts['cpu family']}, model {facts['model']})" if {"cpu family", "model"} <= facts.keys() else ""
    )
    return f"{name}{family}, {os.cpu_count()} cores"


def _cache_folder() -> str:
    try:
        return str(default_cache_folder())
    except CacheError as error:
        return str(error)
