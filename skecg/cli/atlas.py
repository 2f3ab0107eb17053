"""``skecg atlas``: a map of embeddings with what is known of each record and its ECG, as one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg.archives.files import check_output, check_parquet, read_features, write_columns
from skecg.cli.console import Verbs, add_signal_options, check_overwrites_nothing, say
from skecg.errors import ParameterError

if TYPE_CHECKING:
    from skecg.datasets.tables import Columns

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Make one page that opens in any browser, from the disk and without a network: a map of the embeddings, coloured by any
column of a table, searchable, with a lasso that lists and exports paths, and the ECG of the record under the cursor
with its nearest neighbours.

The page holds the recordings it shows, 5 kB each: treat it as you treat those.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "atlas",
        help="look at embeddings: a page with a map, ECGs and neighbours",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("features", type=Path, metavar="FEATURES", help=".npz, .csv or .parquet of `skecg embed`")
    parser.add_argument("--out", "-o", type=Path, metavar="FILE.html", help="the page")
    parser.add_argument(
        "--parquet", type=Path, metavar="FILE.parquet", help="also, or instead: a table for Apple's Embedding Atlas"
    )
    parser.add_argument("--labels", type=Path, metavar="TABLE", help="what is known of the recordings: .csv, .parquet")
    parser.add_argument("--path-column", default="path", metavar="NAME", help="of the table (default: path)")
    parser.add_argument(
        "--projection",
        action="append",
        metavar="P",
        help="pca (default), tsne, or umap (needs umap-learn); may be repeated, for several maps in one page",
    )
    parser.add_argument("--neighbours", type=int, default=8, metavar="N", help="neighbours of each record (default: 8)")
    parser.add_argument(
        "--keep-scales", action="store_true", help="do not standardize features that --truncate-dim made"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: the name of FEATURES)")
    parser.add_argument("--no-ecgs", action="store_true", help="leave the recordings out; they are not read then")
    add_signal_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the atlas and write it."""
    _check_files(arguments)
    features, paths = read_features(arguments.features)
    # Before the maps: a table that does not fit should not cost a t-SNE.
    columns = _columns(arguments, paths)

    from skecg.io.files import replacing
    from skecg.tabular.atlas import make_atlas

    atlas = make_atlas(
        features,
        paths,
        columns,
        projections=arguments.projection or ["pca"],
        n_neighbours=arguments.neighbours,
        standardize=not arguments.keep_scales,
    )
    if arguments.parquet is not None:
        write_columns(atlas.embedding_atlas(), arguments.parquet)
        say(
            f"{len(atlas.records)} records: {str(arguments.parquet)!r}. To look at it: embedding-atlas "
            f"{arguments.parquet} --x projection_x --y projection_y --neighbors neighbors --text path"
        )
    if arguments.out is not None:
        page = atlas.page(arguments.title or arguments.features.stem, ecgs=not arguments.no_ecgs, **_reading(arguments))
        # Recordings of patients are in it.
        with replacing(arguments.out, private=True) as file:
            file.write(page.encode())
        say(f"{len(atlas.records)} records, {len(page) / 1e6:.1f} MB: {str(arguments.out)!r}")
    return 0


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise for files that could not be written in the end."""
    if arguments.out is None and arguments.parquet is None:
        raise ParameterError("Got neither --out nor --parquet. Name a page, a table, or both.")
    wanted = (("--out", arguments.out, (".html", ".htm")), ("--parquet", arguments.parquet, (".parquet",)))
    for option, path, suffixes in wanted:
        if path is not None:
            check_output(option, path, suffixes)
            check_overwrites_nothing(option, path, arguments.features, arguments.labels)
    if arguments.parquet is not None:
        check_parquet("Parquet files need pyarrow", ", or leave --parquet out")


def _columns(arguments: argparse.Namespace, paths: list[str]) -> Columns | None:
    """Return what the table knows of the recordings."""
    if arguments.labels is None:
        return None
    from skecg.tabular.table import columns_of

    columns, known = columns_of(paths, arguments.labels, arguments.path_column)
    if not known.all():
        say(f"{(~known).sum()} of {len(paths)} recordings are not in the table {str(arguments.labels)!r}")
    return columns


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("sampling_rate", "leads", "units")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
