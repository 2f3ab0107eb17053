"""``skecg evaluate``: which encoder is better on a task, and whether the difference is real."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skecg._version import __version__
from skecg.archives.files import check_output_folder
from skecg.cli.console import Verbs, add_hub_options, as_batch_size, as_layer, as_seed, say
from skecg.errors import MissingDependencyError, ParameterError
from skecg.validation import check_integer

__all__ = ["add_parser", "as_fractions", "run"]

_DESCRIPTION = """\
Score frozen encoders on a task of PTB-XL or CPSC2018, in one table with what they have to beat: the majority,
hand-crafted features, random convolutions, and an untrained encoder of the same shape. Intervals and differences
come from one bootstrap over the test patients. DIR is a copy of the data set that is already there, a packed file,
or a table (.csv) of your own recordings with the columns path, label, patient and fold.

A run that was killed continues where it stopped when the same command is given again: features are kept (--cache).
Report files hold everything, with the patients of each draw.
"""

_TASKS = "all, diagnostic, subdiagnostic, superdiagnostic, form, rhythm, superclass-single, cpsc2018; labels: your own"


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="score encoders on a task, with baselines, intervals and differences",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        "-m",
        action="append",
        required=True,
        metavar="M",
        help="name, weights folder, owner/name, or module:attribute of an object with transform(records); may be "
        "repeated",
    )
    parser.add_argument("--task", "-t", required=True, metavar="T", help=_TASKS)
    parser.add_argument(
        "--data",
        "-d",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="where the data set lies; may be repeated, for each packed file of one that lies in several",
    )
    parser.add_argument("--out", "-o", type=Path, metavar="DIR", help="folder for report.json, report.md, report.png")
    parser.add_argument("--no-figure", action="store_true", help="write no report.png")
    parser.add_argument("--quiet", "-q", action="store_true", help="show no progress")
    _add_protocol_options(parser)
    _add_feature_options(parser)
    add_hub_options(parser)
    parser.set_defaults(run=run)


def _add_protocol_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("protocol")
    group.add_argument(
        "--protocol",
        default="pooled",
        metavar="P",
        help="pooled (default: one vector a record, logistic regression) or attention (attention head on 2.5 s crops)",
    )
    group.add_argument(
        "--fractions",
        type=as_fractions,
        metavar="F,F,...",
        help="shares of the training patients, numbers of records above 1 (default: 0.01,0.05,0.1,1)",
    )
    group.add_argument("--draws", type=int, default=5, metavar="N", help="draws of each share below 1 (default: 5)")
    group.add_argument("--kernels", type=int, default=5, metavar="N", help="draws of random convolutions (default: 5)")
    group.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of the test patients (default: 1000)"
    )
    group.add_argument("--seed", type=as_seed, default=0, metavar="N", help="of resamples and untrained weights")
    group.add_argument("--test-fold", type=int, metavar="N", help="instead of the last there is")
    group.add_argument(
        "--selection-fold", type=int, metavar="N", help="instead of 9, or a part of the training patients"
    )
    group.add_argument("--data-rate", type=int, metavar="HZ", help="PTB-XL's recordings at 500 or 100 Hz")


def _add_feature_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features")
    group.add_argument(
        "--pooling", metavar="P", help="mean, max, mean+std, mean+std+max or cls (default: as the weights say)"
    )
    group.add_argument("--truncate-dim", type=int, metavar="K", help="features to keep, along the weights' directions")
    group.add_argument("--layer", type=as_layer, metavar="N", help="block, several (2,5) or last4")
    group.add_argument("--stride", type=float, metavar="S", help="seconds from one window of a long record to the next")
    group.add_argument("--precision", default="auto", metavar="P", help="auto (default), fp32 or bf16")
    group.add_argument("--batch-size", type=as_batch_size, default="auto", metavar="N", help="windows encoded together")
    group.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1, ...")
    group.add_argument("--n-jobs", type=int, metavar="N", help="files read and batches encoded at once")
    group.add_argument(
        "--cache", default="disk", metavar="WHERE", help="where features are kept: disk (default), a folder, or none"
    )


def as_fractions(text: str) -> list[float]:
    """Read shares with commas between them."""
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        shares = []
    # Above 1 it is a number of records: 1 is all of them, never one record.
    if not shares or not all(0 < share <= 1 or (share.is_integer() and share > 1) for share in shares):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected shares above 0 and up to 1, or whole numbers of records, with commas between them"
        )
    return shares


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the tables, and write the report."""
    from skecg.datasets.packed import join_datasets
    from skecg.evaluation import compare, open_dataset, standard_sources
    from skecg.evaluation.tasks import check_task
    from skecg.splits import FRACTIONS

    # What is cheap to find out comes first: a name that is misspelt should not cost an hour.
    check_task(arguments.task)
    protocol, wants_tokens = _protocol(arguments.protocol)
    _check_cache(arguments.cache)
    if arguments.out is not None:
        check_output_folder("--out", arguments.out)
    dataset = join_datasets([open_dataset(path, sampling_rate=arguments.data_rate) for path in arguments.data])
    # A figure that cannot be drawn is no reason to compute for nothing.
    figure = _can_draw(arguments)
    # Untrained twins go through JEPAEmbedder like everybody else, and that takes a folder of weights.
    with tempfile.TemporaryDirectory(prefix="skecg-untrained-") as folder:
        sources: Any = standard_sources(
            arguments.model,
            Path(folder),
            _options(arguments),
            seed=arguments.seed,
            n_kernel_draws=check_integer("--kernels", arguments.kernels, 1),
        )
        if wants_tokens:
            from skecg.evaluation.attention_protocol import with_tokens

            sources = with_tokens(sources)
        report = compare(
            dataset,
            arguments.task,
            sources,
            protocol=protocol,
            fractions=arguments.fractions or FRACTIONS,
            n_draws=arguments.draws,
            n_resamples=arguments.resamples,
            seed=arguments.seed,
            test_fold=arguments.test_fold,
            selection_fold=arguments.selection_fold,
            cache=None if arguments.cache == "none" else arguments.cache,
            verbose=0 if arguments.quiet else 1,
            say=_silent if arguments.quiet else say,
        )
    report.run.update(_provenance(arguments))
    # Saved first: whoever reads what is printed may leave before the end.
    files = [] if arguments.out is None else report.save(arguments.out, figure=figure)
    print(report.to_text())
    for file in files:
        say(f"wrote {str(file)!r}")
    return 0


def _protocol(name: str) -> tuple[Any, bool]:
    """Return the protocol, and whether it takes tokens."""
    if name == "pooled":
        from skecg.evaluation import PooledProtocol

        return PooledProtocol(), False
    if name == "attention":
        from skecg.evaluation.attention_protocol import AttendedProtocol

        return AttendedProtocol(), True
    raise ParameterError(f"Got --protocol {name!r}, expected pooled or attention. See the documentation on evaluation.")


def _check_cache(cache: str) -> None:
    """Raise for what would end with this command."""
    if cache == "memory":
        raise ParameterError(
            "Got --cache memory, which would not outlive this command; expected disk, a folder or none."
        )


def _can_draw(arguments: argparse.Namespace) -> bool:
    """Return whether to draw; matplotlib that is not there is said, and no error."""
    if arguments.no_figure or arguments.out is None:
        return False
    from skecg.plotting.axes import import_matplotlib

    try:
        import_matplotlib("figure")
    except MissingDependencyError as error:
        say(f"no figure: {error}")
        return False
    return True


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the embedder's parameters that are set; those left alone are its own defaults."""
    names = ("pooling", "truncate_dim", "layer", "stride", "precision", "batch_size", "device", "n_jobs", "revision")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.local_files_only:
        options["local_files_only"] = True
    return options


def _silent(message: str) -> None:
    """Do nothing."""


def _provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how to do this again."""
    from skecg.versions import installed_version

    return {
        "command": _command(arguments),
        "versions": {"skecg": __version__}
        | {name: installed_version(name) for name in ("torch", "numpy", "scikit-learn")},
    }


def _command(arguments: argparse.Namespace) -> str:
    """Write the command as it would be typed, with what differs from the defaults."""
    words: Sequence[str] = ["skecg", "evaluate"]
    for model in arguments.model:
        words = [*words, "--model", model]
    words = [*words, "--task", arguments.task]
    for path in arguments.data:
        words = [*words, "--data", str(path)]
    for plugin in arguments.plugin or ():
        words = [*words, "--plugin", plugin]
    defaults = {"protocol": "pooled", "draws": 5, "kernels": 5, "resamples": 1000, "seed": 0, "precision": "auto"}
    defaults |= {"batch_size": "auto", "device": "auto", "cache": "disk"}
    skipped = {"model", "task", "data", "plugin", "run", "quiet", "no_figure", "local_files_only"}
    for name, value in vars(arguments).items():
        if name not in skipped and value is not None and value != defaults.get(name):
            text = ",".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
            option = f"--{name.replace('_', '-')}"
            # argparse takes a value with a minus for an option, as in --layer -2.
            words = [*words, f"{option}={text}"] if text.startswith("-") else [*words, option, text]
    return shlex.join(words)
