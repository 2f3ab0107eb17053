"""``skecg score``: encoders and baselines on the labels of one's own table, by patients."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skecg._version import __version__
from skecg.archives.files import check_output_folder
from skecg.cli.console import Verbs, add_signal_options, add_table_options, as_seed, say
from skecg.cli.embed import add_computing_options, add_model_options, check_cache
from skecg.cli.evaluate import as_fractions
from skecg.io.files import make_folder, replacing
from skecg.validation import check_integer

if TYPE_CHECKING:
    from skecg.tabular.table import RecordTable

__all__ = ["add_parser", "run"]

_FEWEST_PATIENTS = 20  # that label efficiency is shown for

_DESCRIPTION = """\
Score frozen encoders on the labels of a table, in one report with what they have to beat: the majority, hand-crafted
features, random convolutions, and an untrained encoder of the same shape. Every record is tested once, by what was
fitted on other patients; intervals and differences come from one bootstrap over patients.

DIR gets report.html (one page, nothing from elsewhere), report.json and report.md. For numbers: the regressions.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "score",
        help="score encoders and baselines on the labels of a table",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help=".csv, .tsv or .parquet")
    parser.add_argument("--out", "-o", type=Path, metavar="DIR", help="folder for the report")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    add_table_options(parser)
    group = parser.add_argument_group("protocol")
    group.add_argument("--folds", type=int, default=5, metavar="N", help="parts of the patients (default: 5)")
    group.add_argument(
        "--fractions",
        type=as_fractions,
        metavar="F,F,...",
        help="shares of the training patients, numbers of records above 1 (default: 1, and 0.1 and 0.3 where they "
        "leave 20 patients)",
    )
    group.add_argument("--draws", type=int, default=5, metavar="N", help="draws of each share below 1 (default: 5)")
    group.add_argument("--kernels", type=int, default=5, metavar="N", help="draws of random convolutions (default: 5)")
    group.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of the test patients (default: 1000)"
    )
    group.add_argument("--seed", type=as_seed, default=0, metavar="N", help="of folds, resamples and untrained weights")
    add_model_options(parser, several=True)
    add_signal_options(parser)
    add_computing_options(parser, cache="disk")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score, print the tables, and write the report."""
    from skecg.tabular.table import read_record_table
    from skecg.tabular.targets import NUMBERS

    check_cache(arguments.cache)
    check_integer("--folds", arguments.folds, 2)
    if arguments.out is not None:
        check_output_folder("--out", arguments.out)
    table = read_record_table(
        arguments.table,
        arguments.path_column,
        arguments.label_column,
        arguments.group_column,
        kind=arguments.kind,
    )
    # For weights of untrained encoders, one for each model, which nobody wants to keep.
    with tempfile.TemporaryDirectory(prefix="skecg-untrained-") as folder:
        used = _embeddable(table, arguments)
        for note in used.notes():
            say(note)
        sources = _sources(arguments, Path(folder))
        assert used.target is not None, "a column of labels is required"
        if used.target.kind == NUMBERS:
            return _score_numbers(used, sources, arguments)
        return _score_labels(used, sources, arguments)


def _embeddable(table: RecordTable, arguments: argparse.Namespace) -> RecordTable:
    """Return the records that all encoders can embed; their embeddings are kept for the scores."""
    from skecg.cli.embed import make_embedder
    from skecg.evaluation.features import is_object
    from skecg.tabular.features import embed_table

    for model in arguments.model:
        if is_object(model):
            continue  # it is given the records, and says itself what it cannot use
        one = argparse.Namespace(**{**vars(arguments), "model": model})
        # For all rows of the report the same records, or their scores could not be compared.
        table, _ = embed_table(table, make_embedder(one, on_bad_record="nan", verbose=0 if arguments.quiet else 1))
    return table


def _sources(arguments: argparse.Namespace, folder: Path) -> list[Any]:
    """Return the rows of the report."""
    from skecg.evaluation import standard_sources

    names = (
        "units pooling truncate_dim layer stride missing_leads short_records precision backend batch_size device "
        "n_jobs revision"
    )
    options = {name: getattr(arguments, name) for name in names.split() if getattr(arguments, name) is not None}
    if arguments.local_files_only:
        options["local_files_only"] = True
    return standard_sources(
        arguments.model,
        folder,
        options,
        seed=arguments.seed,
        n_kernel_draws=check_integer("--kernels", arguments.kernels, 1),
    )


def _score_labels(table: RecordTable, sources: list[Any], arguments: argparse.Namespace) -> int:
    from skecg.evaluation import compare
    from skecg.evaluation.protocols import OWN_LABELS
    from skecg.evaluation.splitting import split_by_patients
    from skecg.tabular.page import report_page

    assert table.target is not None, "checked above"
    report = compare(
        table.dataset(**_reading(arguments)),
        table.target.task(),
        sources,
        protocol=OWN_LABELS,
        fractions=arguments.fractions or _shares(table, arguments.folds),
        n_draws=arguments.draws,
        splits=split_by_patients(table.groups, table.target.indicator, arguments.folds, arguments.seed),
        n_resamples=arguments.resamples,
        seed=arguments.seed,
        cache=None if arguments.cache == "none" else arguments.cache,
        verbose=0 if arguments.quiet else 1,
        say=_silent if arguments.quiet else say,
    )
    report.run.update({"table": str(arguments.table), "version": __version__})
    files = []
    if arguments.out is not None:
        files = report.save(arguments.out, figure=False)
        files.append(arguments.out / "report.html")
        with replacing(files[-1], private=True) as page:  # recordings of patients are in it
            page.write(report_page(report, table.paths, **_reading(arguments)).encode())
    _show(report.to_text(), files)
    return 0


def _shares(table: RecordTable, n_folds: int) -> list[float]:
    """Return the shares of the patients to learn from that leave enough of them to learn anything."""
    n_patients = len(set(table.groups.tolist())) * (1 - 1 / n_folds)
    return [*(share for share in (0.1, 0.3) if share * n_patients >= _FEWEST_PATIENTS), 1.0]


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what files of numbers do not say of themselves."""
    return {name: getattr(arguments, name) for name in ("sampling_rate", "leads", "units")}


def _score_numbers(table: RecordTable, sources: list[Any], arguments: argparse.Namespace) -> int:
    from skecg.evaluation.regression import compare_regressions, regression_table
    from skecg.tabular.page import regression_page

    assert table.target is not None, "checked above"
    name = table.target.name
    scores = compare_regressions(
        table.dataset(**_reading(arguments)),
        sources,
        {name: table.target.y},
        n_folds=arguments.folds,
        n_draws=arguments.resamples,
        seed=arguments.seed,
        cache=None if arguments.cache == "none" else arguments.cache,
        verbose=0 if arguments.quiet else 1,
    )[name]
    text = regression_table(scores, "in the unit of the table")
    written = []
    if arguments.out is not None:
        make_folder(arguments.out)
        plain = {source: asdict(replace(score, predicted=None)) for source, score in scores.items()}
        contents = {
            "report.json": json.dumps({"target": name, "scores": plain}, indent=1, ensure_ascii=False) + "\n",
            "report.md": f"## {name}\n\n```\n{text}\n```\n",
            "report.html": regression_page(name, scores, table.target.y, table.paths, **_reading(arguments)),
        }
        for file, content in contents.items():
            written.append(arguments.out / file)
            with replacing(written[-1], private=file.endswith(".html")) as page:
                page.write(content.encode())
    _show(text, written)
    return 0


def _show(text: str, files: Sequence[Path]) -> None:
    """Print a report, after its files were written: whoever reads it may leave before the end."""
    print(text)
    for file in files:
        say(f"wrote {str(file)!r}")


def _silent(message: str) -> None:
    """Do nothing."""
