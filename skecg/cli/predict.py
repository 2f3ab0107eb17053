"""``skecg predict``: what a fitted model says of recordings; can be killed and continued at any time."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.archives.files import as_text, check_output, spreadsheet_cell
from skecg.cli.console import Verbs, add_table_options, check_overwrites_nothing, say
from skecg.cli.embed import add_computing_options, check_cache, embed_into, find_others, interrupted, manifest_of
from skecg.errors import ParameterError
from skecg.io.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skecg.archives.files import Failure
    from skecg.archives.run_folders import UnfinishedRun
    from skecg.inference.pipeline import Chunk
    from skecg.tabular.model import FittedModel

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Predict recordings with a model that `skecg fit` wrote. OUT has a row for each recording, in the order in which they are
named, those of a folder or pattern sorted: path, prediction, a probability for each class, the distance from the
records that the model was fitted on, and an error.

The most probable class is predicted; of labels, those whose probability is at least their threshold. The distance is
Mahalanobis' on leading components of the features, in deviations: what is far off is not what the model knows.

A run that was interrupted or killed continues when the same command is given again. Recordings that cannot be read or
embedded have an empty row with the reason; the exit code is then 1.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "predict",
        help="predict recordings with a fitted model",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder that `skecg fit` wrote")
    parser.add_argument("paths", nargs="*", metavar="PATHS", help="files, record names, folders or patterns")
    parser.add_argument("--table", type=Path, metavar="TABLE", help="instead of PATHS: a table with a column of them")
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="OUT", help="a .csv file")
    parser.add_argument("--force", action="store_true", help="replace OUT; throw away another unfinished run")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    add_table_options(parser, labels=False)
    add_computing_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Embed, predict, and write the file."""
    from skecg.archives.run_folders import UnfinishedRun
    from skecg.embedding_cache.sqlite import identity_of
    from skecg.tabular.model import read_model

    out: Path = arguments.out
    _check(arguments)
    paths = _paths(arguments)
    model = read_model(arguments.model)
    # How it is computed may be chosen anew; what is computed was settled when the model was fitted.
    names = ["batch_size", "device", "n_jobs", "cache"]
    embedder = model.embedder(**{name: getattr(arguments, name) for name in names}).fit(paths)
    # Before embedding: the classifier means nothing on features of other weights.
    model.check_weights(embedder)
    config = embedder.embedding_config()
    n_beside = 0 if model.network is None else model.n_values
    partial = out.with_name(out.name + ".partial")
    # A model fitted anew in the same folder must not go on with values of the former.
    manifest = manifest_of(paths, config, embedder) | {"model": str(model.folder and _digest(model.folder))}
    shape = (len(paths), config.n_features + n_beside)
    with UnfinishedRun(partial, manifest, shape, anew=arguments.force) as unfinished:
        before = identity_of(out)
        try:
            embed_into(embedder, paths, unfinished, quiet=arguments.quiet, beside=_beside(model, arguments, paths))
            return _finish(model, paths, unfinished, config.n_features, out)
        except KeyboardInterrupt as error:
            return interrupted(error, unfinished, len(paths), out, is_whole=identity_of(out) != before)


def _check(arguments: argparse.Namespace) -> None:
    """Raise for what cannot be written in the end, before any work is done."""
    out: Path = arguments.out
    check_cache(arguments.cache)
    check_output("--out", out, [".csv"])
    if out.exists() and not arguments.force:
        raise ParameterError(f"{str(out)!r} exists. Name another file, or pass --force to replace it.")
    check_overwrites_nothing("--out", out, arguments.table)
    if bool(arguments.paths) == (arguments.table is not None):
        raise ParameterError("Expected either PATHS or --table TABLE. Name recordings by one of them.")


def _paths(arguments: argparse.Namespace) -> list[str]:
    """List the recordings: those of a table whether they are there or not, so that rows stay aligned."""
    if arguments.table is not None:
        from skecg.tabular.table import read_record_table

        return read_record_table(arguments.table, arguments.path_column, check_files=False).paths
    return find_others(arguments.paths, arguments.out)


def _digest(folder: Path) -> str:
    from skecg.io.files import sha256_of

    return sha256_of(folder / "model.json")


def _beside(
    model: FittedModel, arguments: argparse.Namespace, paths: Sequence[str]
) -> Callable[[Chunk], NDArray[np.float32]] | None:
    """Return what computes the probabilities or numbers of a chunk where no probe does, or nothing."""
    if model.network is None:
        return None
    import numpy as np

    # Fine-tuned networks predict on one device; several are for embedding alone.
    device = arguments.device if isinstance(arguments.device, str) else arguments.device[0]
    model.network.set_params(device=device, n_jobs=arguments.n_jobs)

    def values(chunk: Chunk) -> NDArray[np.float32]:
        found = np.full((len(chunk.rows), model.n_values), np.nan, dtype=np.float32)
        good = [place for place, row in enumerate(chunk.rows) if row not in chunk.failures]
        if good:
            found[good] = model.network_values([paths[chunk.rows[place]] for place in good])
        return found

    return values


def _finish(model: FittedModel, paths: Sequence[str], unfinished: UnfinishedRun, n_features: int, out: Path) -> int:
    """Predict from the features, and write the file in one step."""
    import numpy as np

    failures = {failure.row: failure for failure in unfinished.failures}
    table = np.asarray(unfinished.features())
    good = np.array([row for row in range(len(paths)) if row not in failures], dtype=np.int64)
    values = table[good, n_features:].astype(np.float64) if model.network is not None else None
    predictions = model.predict(table[good, :n_features], values)
    cells: dict[int, list[str]] = {
        row: [text, *(f"{value:.6g}" for value in probabilities), f"{distance:.4g}", ""]
        for row, text, probabilities, distance in zip(
            good.tolist(), predictions.predicted, predictions.probabilities, predictions.distances, strict=True
        )
    }
    _write(model, paths, cells, failures, out)
    unfinished.remove()
    say(f"{len(good)} of {len(paths)} records predicted: {str(out)!r}")
    if failures:
        say(f"{len(failures)} of {len(paths)} records failed and have empty rows with the reason")
    return 1 if failures else 0


def _write(
    model: FittedModel,
    paths: Sequence[str],
    cells: dict[int, list[str]],
    failures: dict[int, Failure],
    out: Path,
) -> None:
    columns = ["prediction", *model.probability_columns, "distance", "error"]
    # Paths and predictions are of patients: readable for their owner alone.
    with replacing(out, private=True) as file, as_text(file) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *columns])
        for row, path in enumerate(paths):
            empty = [""] * (len(columns) - 1)
            of_row = cells.get(row) or [*empty, f"{failures[row].error}: {failures[row].message}"]
            writer.writerow([spreadsheet_cell(path), *map(_safe, of_row)])


def _safe(cell: str) -> str:
    """Return a cell that a spreadsheet does not run; numbers, negative ones too, stay what they are."""
    try:
        float(cell)
    except ValueError:
        return spreadsheet_cell(cell)
    return cell
