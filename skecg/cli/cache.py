"""``skecg cache``: look at the embeddings kept on disk, or forget them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.cli.console import Verbs

if TYPE_CHECKING:
    from skecg.embedding_cache import DiskCache

__all__ = ["add_parser", "run_clear", "run_info", "run_prune"]

_BYTES_PER_MB = 2**20  # MiB, as it is printed


def add_parser(verbs: Verbs) -> None:
    """Describe the verb and what it can do."""
    parser = verbs.add_parser("cache", help="look at the embeddings kept on disk, or forget them")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    info = actions.add_parser("info", help="say where the cache is and what it holds")
    info.set_defaults(run=run_info)

    clear = actions.add_parser("clear", help="forget every embedding")
    # Asked for as an option and not at a prompt, so that scripts can clear and typing it stays a decision.
    clear.add_argument("--yes", action="store_true", required=True, help="yes, all of them")
    clear.set_defaults(run=run_clear)

    prune = actions.add_parser("prune", help="forget the embeddings that were used least recently")
    prune.add_argument("--max-mb", type=float, metavar="N", help="until the rest takes no more than N MiB")
    prune.add_argument("--older-than-days", type=float, metavar="N", help="those not used for N days")
    prune.set_defaults(run=run_prune)

    for action in (info, clear, prune):
        action.add_argument("--folder", type=Path, metavar="F", help="where the cache is (default: the user's)")


def run_info(arguments: argparse.Namespace) -> int:
    """Print what the cache holds."""
    cache = _existing(arguments)
    if cache is not None:
        held = cache.info()
        print(f"{held.where}: {held.entries} embeddings, {held.bytes / _BYTES_PER_MB:.1f} MiB")
    return 0


def run_clear(arguments: argparse.Namespace) -> int:
    """Forget every embedding."""
    cache = _existing(arguments)
    if cache is not None:
        entries = cache.info().entries
        cache.clear()
        print(f"{cache.folder}: {entries} embeddings forgotten")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Forget the oldest embeddings."""
    from skecg.errors import ParameterError

    limits = {"--max-mb": arguments.max_mb, "--older-than-days": arguments.older_than_days}
    given = {name: value for name, value in limits.items() if value is not None}
    if not given or not all(0 <= value < float("inf") for value in given.values()):
        raise ParameterError(
            f"Got {given or 'nothing'} to prune by, expected --max-mb or --older-than-days with a number of zero or "
            "more. `skecg cache clear --yes` forgets all."
        )
    cache = _existing(arguments)
    if cache is not None:
        max_bytes = None if arguments.max_mb is None else int(min(arguments.max_mb * _BYTES_PER_MB, sys.maxsize))
        removed = cache.prune(max_bytes=max_bytes, older_than_days=arguments.older_than_days)
        print(f"{cache.folder}: {removed} embeddings forgotten, {cache.info().entries} left")
    return 0


def _existing(arguments: argparse.Namespace) -> DiskCache | None:
    """Open the cache, or say that there is none: asking must not make one."""
    from skecg.embedding_cache import DiskCache, default_cache_folder
    from skecg.embedding_cache.sqlite import DATABASE_NAME

    folder = default_cache_folder() if arguments.folder is None else arguments.folder.expanduser().absolute()
    # A name may be longer: what was damaged is set aside, and has to be cleared, too.
    empty = folder.is_dir() and not any(path.name.startswith(DATABASE_NAME) for path in folder.iterdir())
    if empty or not folder.exists():
        print(f"{folder}: no cache, nothing has been kept here")
        return None
    return DiskCache(folder)
