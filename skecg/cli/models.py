"""``skecg models``: the weights that skecg knows by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from skecg.cli.console import Verbs

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("models", help="list the weights that skecg knows by name")
    parser.add_argument("--json", action="store_true", help="everything that is known of them, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    from skecg.weights import list_models

    models = list_models()
    if arguments.json:
        print(json.dumps(models, indent=2, ensure_ascii=False))
        return 0
    table = models.table()
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for name, entry in models.items():
        for line in _more(entry):
            print(f"{name}: {line}")
    return 0


def _more(entry: Mapping[str, Any]) -> Iterator[str]:
    """Return where published weights lie and how they scored."""
    if "repository" in entry:
        yield f"{entry['repository']} at commit {entry['commit']}, sha256 {entry['sha256']}"
    for task, (value, low, high) in entry.get("scores", {}).items():
        yield f"{task} {value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
