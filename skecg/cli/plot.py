"""``skecg plot``: a recording on ECG paper, or a map of features."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skecg.archives.files import check_output, read_features
from skecg.cli.console import Verbs, add_signal_options, say
from skecg.io.files import replacing

__all__ = ["add_parser", "run"]

# Of numbers, so many are still drawn as classes.
_MOST_CLASSES = 10

_SUFFIXES = (".png", ".svg", ".pdf")


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("plot", help="draw a recording on ECG paper, or a map of features")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("record", nargs="?", metavar="RECORD", help="file or record name")
    what.add_argument("--map", type=Path, metavar="FEATURES", help=".npz, .csv or .parquet of `skecg embed`")
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument(
        "--layout", default="auto", metavar="L", help="of a recording: auto (default), 3x4+1 or stacked"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="TABLE", help="of a map: what its colours mean; .csv, .tsv or .parquet"
    )
    parser.add_argument("--path-column", default="path", metavar="NAME", help="of that table (default: path)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of that table (default: label)")
    parser.add_argument(
        "--keep-scales", action="store_true", help="do not standardize features that --truncate-dim made"
    )
    add_signal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw and save the picture."""
    out: Path = arguments.out
    check_output("--out", out, _SUFFIXES)
    axes = _draw_record(arguments) if arguments.map is None else _draw_map(arguments)
    with replacing(out) as file:
        axes.figure.savefig(file, format=out.suffix[1:].lower())
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
    labels = None if arguments.labels is None else _read_labels(arguments, paths)
    return plot_embedding_map(features, labels, standardize=not arguments.keep_scales)


def _read_labels(arguments: argparse.Namespace, paths: Sequence[str]) -> Any:
    """Return the label of each path as a map takes it: numbers for a scale, or classes."""
    import numpy as np

    from skecg.tabular.table import columns_of
    from skecg.tabular.targets import NUMBERS, kind_of

    columns, known = columns_of(paths, arguments.labels, arguments.path_column, named=[arguments.label_column])
    if not known.all():
        say(f"{(~known).sum()} of {len(paths)} recordings are not in the table {str(arguments.labels)!r}")
    cells = columns[arguments.label_column]
    if kind_of([cell for cell in cells if cell is not None]) == NUMBERS and len(set(cells)) > _MOST_CLASSES:
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    return np.array(["(empty)" if cell is None else cell for cell in cells])
