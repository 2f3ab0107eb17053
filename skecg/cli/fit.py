"""``skecg fit``: a table of recordings and labels in, a model out, scored by patients first."""

from __future__ import annotations

import argparse
from pathlib import Path

from skecg.archives.files import check_output_folder
from skecg.cli.console import Verbs, add_signal_options, add_table_options, as_seed, say
from skecg.cli.embed import add_computing_options, add_model_options, check_cache, make_embedder
from skecg.errors import ParameterError
from skecg.validation import check_integer

__all__ = ["add_parser", "check_model_folder", "run"]

_DESCRIPTION = """\
Fit a model on a table of recordings and labels. First it is cross-validated, patients kept together, and the scores
are shown with their intervals; then it is fitted on all of them. TABLE is a .csv, .tsv or .parquet file; relative paths
in it are relative to it. Rows without a label or a file are left out and named.

MODEL is a folder that holds the name and digest of the encoder, what was fitted, classes, thresholds, calibration, the
score and how all came about; there is no pickle in it. `skecg predict MODEL` uses it.

Embeddings are kept (--cache): the same command again embeds nothing, and one that was killed continues.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "fit",
        help="fit a model on a table of recordings and labels",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help=".csv, .tsv or .parquet")
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="MODEL", help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    add_table_options(parser)
    group = parser.add_argument_group("fitting")
    group.add_argument("--method", default="probe", metavar="M", help="probe (default: frozen encoder) or finetune")
    group.add_argument("--folds", type=int, default=5, metavar="N", help="parts of the patients (default: 5)")
    group.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples for the intervals (default: 1000)"
    )
    group.add_argument("--seed", type=as_seed, default=0, metavar="N", help="of folds, resamples and fine-tuning")
    group.add_argument("--epochs", type=int, metavar="N", help="of fine-tuning, at most (default: 10)")
    add_model_options(parser)
    add_signal_options(parser)
    add_computing_options(parser, cache="disk")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit, print the scores, and write the folder."""
    from skecg.tabular.fitting import fit_model
    from skecg.tabular.table import read_record_table

    check_cache(arguments.cache)
    check_model_folder(arguments.out, force=arguments.force)
    check_integer("--folds", arguments.folds, 2)
    check_integer("--resamples", arguments.resamples, 10)
    if arguments.epochs is not None:
        check_integer("--epochs", arguments.epochs, 1)
    table = read_record_table(
        arguments.table,
        arguments.path_column,
        arguments.label_column,
        arguments.group_column,
        kind=arguments.kind,
    )
    fitting = fit_model(
        table,
        # One bad file of a thousand is left out and named; it should not end an hour's work.
        make_embedder(arguments, on_bad_record="nan", verbose=0 if arguments.quiet else 1),
        method=arguments.method,
        n_folds=arguments.folds,
        n_resamples=arguments.resamples,
        seed=arguments.seed,
        finetuning=None if arguments.epochs is None else {"epochs": arguments.epochs},
        verbose=0 if arguments.quiet else 1,
        say=say,
    )
    # Saved first: whoever reads what is printed may leave before the end.
    fitting.model.save(arguments.out)
    print(fitting.text, end="")
    say(f"fitted on all {fitting.model.provenance['n_records']} records: {str(arguments.out)!r}")
    return 0


def check_model_folder(folder: Path, *, force: bool) -> None:
    """Raise for a folder that is something else, before any work is done."""
    from skecg.tabular.model import is_unfinished

    folder = check_output_folder("--out", folder)  # "new/.." is no folder yet, and will be another than it seems
    is_model = (folder / "model.json").is_file()
    # --force replaces a model only: no option should delete a folder of something else.
    if folder.is_dir() and any(folder.iterdir()) and not (force if is_model else is_unfinished(folder)):
        what = "a model" if is_model else "something else"
        way = "Pass --force to replace it, or name another folder." if is_model else "Name another folder."
        raise ParameterError(f"Got --out {str(folder)!r}, which holds {what}. {way}")
