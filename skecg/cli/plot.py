"""``skecg plot``: a recording on ECG paper, or a map of features."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skecg.archives.files import read_features
from skecg.cli.console import Verbs, add_signal_options
from skecg.errors import ParameterError

__all__ = ["add_parser", "run"]

_SUFFIXES = (".png", ".svg", ".pdf")


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("plot", help="draw a recording on ECG paper, or a map of features")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("record", nargs="?", metavar="RECORD", help="file or record name")
    what.add_argument("--map", type=Path, metavar="FEATURES.npz", help="features that `skecg embed` wrote")
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument(
        "--layout", default="auto", metavar="L", help="of a recording: auto (default), 3x4+1 or stacked"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE.csv", help="of a map: columns path and label, below one line of names"
    )
    add_signal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw and save the picture."""
    out: Path = arguments.out
    if out.suffix.lower() not in _SUFFIXES:
        raise ParameterError(f"Got --out {str(out)!r}, expected a name that ends in {', '.join(_SUFFIXES)}.")
    axes = _draw_record(arguments) if arguments.map is None else _draw_map(arguments)
    axes.figure.savefig(out)
    return 0


def _draw_record(arguments: argparse.Namespace) -> Any:
    """Return the axes of a recording; matplotlib itself stays behind :mod:`skecg.plotting`."""
    from skecg.io import read_record
    from skecg.plotting import plot_ecg

    record = read_record(
        arguments.record, sampling_rate=arguments.sampling_rate, leads=arguments.leads, units=arguments.units
    )
    return plot_ecg(record, layout=arguments.layout)


def _draw_map(arguments: argparse.Namespace) -> Any:
    """Return the axes of a map."""
    from skecg.plotting import plot_embedding_map

    features, paths = read_features(arguments.map)
    labels = None if arguments.labels is None else _read_labels(arguments.labels, paths)
    return plot_embedding_map(features, labels)


def _read_labels(file: Path, paths: Sequence[str]) -> list[str]:
    """Find the label of each path in a table whose first column is the path and whose second is the label."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except UnicodeDecodeError as error:
        raise ParameterError(f"Got --labels {str(file)!r}, which is not a text file in UTF-8.") from error
    labels = {row[0]: row[1] for row in rows[1:] if len(row) > 1}
    missing = [path for path in paths if path not in labels]
    if missing:
        raise ParameterError(
            f"Got --labels {str(file)!r} without a label for {len(missing)} of {len(paths)} paths (the first is "
            f"{missing[0]!r}). Paths have to be written as in the file of features."
        )
    return [labels[path] for path in paths]
