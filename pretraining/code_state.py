"""Which code trained a run: the commit of the checkout, and whether anything in it was changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pretraining.checkpoints import write_json
from skecg import __version__

__all__ = ["describe_code", "read_code", "record_code"]

_FILE = "code.json"
_PACKAGES = ("skecg", "pretraining")
_SECONDS = 20


def describe_code(root: Path | None = None) -> dict[str, Any]:
    """Say which code runs here: skecg's version and, in a checkout of git, its commit and whether it was changed."""
    root = root or Path(__file__).resolve().parents[1]
    found: dict[str, Any] = {"skecg": __version__}
    commit = _git(root, "rev-parse", "HEAD")
    # An installation within somebody else's checkout is not of their commit.
    if commit and _git(root, "ls-files", "--error-unmatch", "pretraining/__init__.py"):
        changes = _git(root, "status", "--porcelain", "--", *_PACKAGES)
        found |= {"commit": commit, "dirty": changes is None or bool(changes)}
    return found


def record_code(run: Path) -> None:
    """Add the code that runs now to those that a run was trained with."""
    path = run / _FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    now = describe_code()
    if now not in known:
        write_json(path, [*known, now])


def read_code(run: Path) -> dict[str, Any]:
    """Give the code that a run was last trained with; dirty when any of it was. Empty when nothing was written down."""
    path = run / _FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not known:
        return {}
    commits = [str(state["commit"]) for state in known if "commit" in state]
    dirty = any(state.get("dirty") for state in known)
    return dict(known[-1]) | ({"dirty": dirty} if commits else {}) | ({"commits": commits} if len(commits) > 1 else {})


def _git(root: Path, *arguments: str) -> str | None:
    """Ask git; None when there is none, or it has nothing to say of this folder."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
