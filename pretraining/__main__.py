"""The trainer's command line: ``python -m pretraining VERB``, one function for each verb.

The machinery of a verb comes in when it runs, so that ``--help`` and ``train --list`` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from skecg._version import __version__
from skecg.cli.console import (
    add_plugin_option,
    ends_when_asked,
    in_words,
    load_plugins,
    readers_may_leave,
    say,
    say_interrupted,
    short_warnings,
)
from skecg.errors import ParameterError, SkecgError

if TYPE_CHECKING:
    from pretraining.config import PretrainConfig
    from pretraining.data.corpus import Corpus
    from pretraining.data.shards import ShardSet
    from pretraining.monitoring.online_probe import OnlineProbe
    from skecg.encoders import Encoder
    from skecg.spec import InputSpec

__all__ = ["main"]

_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process when not given.

    Returns
    -------
    int
        Exit code: 0 when all went well, also when a run was asked to stop and has been saved; 2 when the command could
        not be carried out; 130 when it was interrupted; 143 when it was stopped by SIGTERM.

    Raises
    ------
    SystemExit
        With code 2 for arguments that make no sense, 3 when features collapsed and ``watch.stop_on_collapse`` is set.
    """
    arguments = _parse(argv)
    with readers_may_leave(), ends_when_asked():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Run a verb; return its exit code."""
    try:
        with short_warnings():
            load_plugins(arguments)
            arguments.run(arguments)
        return 0
    except (SkecgError, OSError) as error:
        say(f"{_place()}error: {in_words(error, 'pack goes on where it stopped, and train with --resume')}")
        return 2
    except KeyboardInterrupt as error:
        return say_interrupted(error)


def _place() -> str:
    """Return the prefix of a process's messages, where there are several."""
    return f"[process {os.environ['RANK']}] " if _rank() > 0 else ""


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; overrides may stand anywhere among the options."""
    parser = _parser()
    # argparse takes positional words in one place only, and overrides stand between options.
    arguments, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretraining",
        description="Train ECG encoders: from recordings to weights that JEPAEmbedder loads.",
        epilog="Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"skecg {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (_add_pack, _add_train, _add_export, _add_inspect, _add_bundle):
        add(verbs)
    add_plugin_option(verbs)
    return parser


def _add_pack(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "pack",
        help="turn archives of recordings into shards",
        description="Read recordings, bring them to one rate, and write them as memory-mapped int16 shards. A pack "
        "that was killed goes on when the same command is given again.",
    )
    parser.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a corpus and its folder, or a pattern or file in quotes; may be given several times. Known names "
        "(ptbxl, code15, mimic-iv-ecg, cinc2020, cinc2021, chapman-ningbo) bring their splits and quirks along",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="SHARDS", help="folder of the shards")
    parser.add_argument("--recipe", metavar="RECIPE", help="prepare as this recipe's encoder expects")
    parser.add_argument("--from", dest="weights", metavar="WEIGHTS", help="prepare as these weights' encoder expects")
    group = parser.add_argument_group("preparation", "in place of --recipe")
    group.add_argument("--sampling-rate", type=float, metavar="HZ", help="samples a second (default: 500)")
    group.add_argument("--resampling", choices=("polyphase", "fourier"), help="default: polyphase")
    group.add_argument("--highpass-hz", type=float, metavar="HZ")
    group.add_argument("--lowpass-hz", type=float, metavar="HZ")
    parser.add_argument("--segment-seconds", type=float, metavar="S", help="length of a row (default: 10)")
    parser.add_argument(
        "--shortest-seconds", type=float, metavar="S", help="leave out shorter ones (default: half a row)"
    )
    parser.add_argument(
        "--refuse", action="append", default=[], metavar="WHAT", help="leave out: flat, railed, gaps, microvolts, volts"
    )
    parser.add_argument(
        "--corpus-highpass",
        action="append",
        default=[],
        metavar="NAME=HZ",
        help="high-pass of one corpus or sub-set, e.g. code15=0.5",
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        type=Path,
        metavar="LIST",
        help="file of recordings or patients to leave out, one a line; CORPUS:NAME for those of one corpus",
    )
    parser.add_argument(
        "--patients",
        action="append",
        default=[],
        type=Path,
        metavar="TABLE",
        help="table of the columns path and patient, where the corpus does not say whose recordings are; CORPUS:PATH "
        "where corpora have files of the same names",
    )
    parser.add_argument("--n-jobs", type=int, metavar="N", help="processes (default: one; -1 for all cores)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_pack)


def _pack(arguments: argparse.Namespace) -> None:
    from pretraining.data.corpora import parse_corpus
    from pretraining.data.pack import pack

    how = _preparation(arguments)
    corpora = _chosen([parse_corpus(assignment) for assignment in arguments.corpus], arguments)
    shards = pack(corpora, arguments.out, n_jobs=arguments.n_jobs, progress=not arguments.quiet, **how)
    print(shards.summary)
    print(f"{arguments.out}: {shards.n_records} rows at {shards.sampling_rate:g} Hz")


def _chosen(corpora: list[Corpus], arguments: argparse.Namespace) -> list[Corpus]:
    """Name the patients of recordings, and leave out what is listed."""
    from pretraining.data.corpus import leave_out, name_patients, read_list
    from skecg.datasets.tables import read_columns

    tables: dict[str, dict[str, str]] = {}
    known: dict[str, str] = {}
    for table in arguments.patients:
        columns, _, _ = read_columns(table)
        if lacking := [name for name in ("path", "patient") if name not in columns]:
            raise ParameterError(
                f"Got --patients {str(table)!r} without the column(s) {', '.join(lacking)}, expected path and patient."
            )
        rows = zip(columns["path"], columns["patient"], strict=True)
        tables[str(table)] = _patient_of_each(rows, table, known)
    corpora = name_patients(corpora, tables)
    for path in arguments.leave_out:
        corpora = leave_out(corpora, read_list(path), str(path))
    return corpora


def _patient_of_each(
    rows: Iterable[tuple[str | None, str | None]], table: Path, known: dict[str, str]
) -> dict[str, str]:
    """Return the patient of each path of a table, of whom it has one in all tables; `known` keeps them."""
    found: dict[str, str] = {}
    for path, patient in rows:
        if not (path and patient):
            continue
        found[path] = known.setdefault(path, patient)
        if found[path] != patient:
            raise ParameterError(
                f"Got two patients of {path!r} in --patients {str(table)!r}: {found[path]!r} and {patient!r}. A "
                "recording is of one: mend the table, or write CORPUS:PATH where corpora have files of the same names."
            )
    return found


def _highpass_of(assignments: Sequence[str]) -> dict[str, float]:
    """Read ``NAME=HZ``."""
    found = {}
    for assignment in assignments:
        name, _, frequency = assignment.partition("=")
        try:
            found[name] = float(frequency)
        except ValueError as error:
            raise ParameterError(f"Got --corpus-highpass {assignment!r}, expected NAME=HZ, e.g. code15=0.5.") from error
    return found


def _preparation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what decides how recordings are prepared: option by option, or by a recipe."""
    names = ("sampling_rate", "resampling", "highpass_hz", "lowpass_hz")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.recipe or arguments.weights:
        by = "recipe" if arguments.recipe else "from"
        also = "from" if by == "recipe" and arguments.weights else next(iter(given), "").replace("_", "-")
        if also:
            raise ParameterError(f"Got --{by} and --{also}, expected one of the two: each says how to prepare.")
        spec = _spec_of(arguments.recipe, arguments.weights)
        given = {name: getattr(spec, name) for name in names} | {"segment_seconds": spec.window_seconds}
    for name in ("segment_seconds", "shortest_seconds"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    return given | {"refuse": arguments.refuse, "corpus_highpass_hz": _highpass_of(arguments.corpus_highpass)}


def _spec_of(recipe: str | None, weights: str | None) -> InputSpec:
    """Return what the encoder of a recipe, or of weights, is fed."""
    if recipe:
        from pretraining.recipes import load_recipe

        return load_recipe(recipe).input
    from skecg.weights import find_weights

    assert weights is not None, "one of the two is given"
    return find_weights(weights).spec


def _add_train(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "train",
        help="train an encoder on shards",
        description="Train on shards, in one process, or in several when started by torchrun. SIGTERM and SIGINT save "
        "and stop.",
    )
    parser.add_argument("--list", action="store_true", help="print the recipes and stop")
    parser.add_argument(
        "--recipe", metavar="RECIPE", help="what to train, by name or as a .py file; of the run itself when resuming"
    )
    parser.add_argument(
        "--from",
        dest="weights",
        metavar="WEIGHTS",
        help="weights to begin with: a name, a weights folder or owner/name. Their encoder and input take the place of "
        "the recipe's; a recipe's encoder that contains theirs stays",
    )
    parser.add_argument("--data", metavar="SHARDS", help="what pack has written: a folder or an address")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, or begin")
    parser.add_argument(
        "--probe",
        metavar="TABLE",
        help="table (.csv) of your records and labels, labelled .npz, or: synthetic, to score the encoder on every "
        "watch.probe_every steps; at every checkpoint where the recipe does not say",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: the best there is)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="part.field=value",
        help="changes to the recipe, e.g. optim.lr=5e-4; also pooling=mean, export_blocks=4, export_encoder=context",
    )
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.list:
        _print_recipes()
        return
    config = _configuration(arguments)
    for option in ("data", "out"):
        if getattr(arguments, option) is None:
            raise ParameterError(f"Got no --{option}, expected a folder. See python -m pretraining train --help.")
    from pretraining.data.shards import open_shards
    from pretraining.distributed import collect_garbage
    from pretraining.trainer import Trainer

    shards = open_shards(arguments.data)
    start = _start(arguments.weights)
    probe = _open_probe(arguments.probe, shards) if arguments.probe else None
    options = {"resume": arguments.resume, "device": arguments.device}
    trainer = Trainer(config, shards, arguments.out, probe=probe, start=start, **options)
    if arguments.weights is not None and _rank() == 0:
        from pretraining.export import record_start
        from skecg.weights import find_weights

        record_start(arguments.out, find_weights(arguments.weights).provenance)
    trainer.train()
    del trainer
    collect_garbage()


def _start(model: str | None) -> Encoder | None:
    """Load the encoder that a run begins from."""
    if model is None:
        return None
    from skecg.weights import load_encoder

    return load_encoder(model)[0]


def _print_recipes() -> None:
    from pretraining.recipes import all_recipes, describe_recipe

    width = max(map(len, all_recipes()))
    for name in all_recipes():
        print(f"{name:<{width}}  {describe_recipe(name)}")


def _configuration(arguments: argparse.Namespace) -> PretrainConfig:
    """Return the recipe, or what the run to resume was begun with, with the overrides."""
    from pretraining.recipes import load_recipe

    if arguments.weights is not None:
        config = _starting_from(arguments.weights, arguments.recipe)
    else:
        config = load_recipe(arguments.recipe) if arguments.recipe else _begun(arguments.out, arguments.resume)
    config = config.override(arguments.overrides)
    # Whoever names a probe wants scores: at checkpoints, where the recipe says nothing; the last is at the end.
    if arguments.probe and not config.watch.probe_every:
        config = config.override([f"watch.probe_every={config.watch.checkpoint_every or config.run.steps}"])
    return config


def _starting_from(model: str, recipe: str | None) -> PretrainConfig:
    """Return a recipe for the encoder of some weights; that which they were trained by, if none is named."""
    from pretraining.recipes import all_recipes, load_recipe
    from skecg.weights import find_weights

    info = find_weights(model)
    known = str(info.provenance.get("recipe"))
    if recipe is None and known not in all_recipes():
        raise ParameterError(
            f"Got --from {model} and no --recipe, and the weights name none that is known; expected --recipe NAME, for "
            "what they are to be trained. python -m pretraining train --list prints them."
        )
    return load_recipe(recipe or known).starting_from(info)


def _begun(run: Path | None, resume: bool) -> PretrainConfig:
    """Read the configuration that lies in a run's folder."""
    from pretraining.runs import read_config

    if not resume or run is None or not (run / "config.json").is_file():
        raise ParameterError(
            "Got no --recipe, expected the name of one. python -m pretraining train --list prints them."
        )
    return read_config(run)


def _open_probe(source: str, shards: ShardSet) -> OnlineProbe:
    from pretraining.monitoring.online_probe import OnlineProbe, load_label_table, load_labelled, synthetic_labelled
    from skecg.datasets.tables import is_table

    if source == "synthetic":
        return OnlineProbe(*synthetic_labelled())
    return OnlineProbe(*(load_label_table(source, shards) if is_table(source) else load_labelled(source)))


def _add_export(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "export",
        help="write a run's encoder as a weights folder",
        description="Write the encoder of a run as a folder that JEPAEmbedder and skecg verify take: configuration, "
        "tensors, golden vectors and a card.",
    )
    parser.add_argument("--run", required=True, type=Path, metavar="RUN", dest="run_folder", help="folder of the run")
    parser.add_argument("--out", required=True, type=Path, metavar="WEIGHTS", help="folder of the weights")
    parser.add_argument(
        "--which",
        choices=("last", "best"),
        default="last",
        help="newest checkpoint, or the probe's best (default: last)",
    )
    parser.add_argument("--encoder", choices=("target", "context"), help="default: what the recipe says")
    parser.add_argument("--blocks", type=int, metavar="N", help="the first N of its blocks (default: the recipe's)")
    parser.add_argument("--name", help="of the weights (default: the recipe's)")
    parser.add_argument("--licence", metavar="SPDX", help="licence of the weights; mind that of the data")
    parser.add_argument("--force", action="store_true", help="write over a folder that is not empty")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from pretraining.export import export

    options = {name: getattr(arguments, name) for name in ("which", "encoder", "blocks", "force")}
    export(arguments.run_folder, arguments.out, name=arguments.name, licence=arguments.licence, **options)
    print(f"{arguments.out}: written. Check it with skecg verify {_as_model(arguments.out)}")


def _as_model(folder: Path) -> str:
    """Write a folder so that skecg takes it for one."""
    # A bare name could be that of weights in the registry.
    return str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"


def _add_inspect(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "inspect",
        help="draw a run's curves and describe it",
        description="Draw the curves of a run into a PNG file and print what happened.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--out", type=Path, metavar="PNG", help="where to draw (default: in the run's folder)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="SHARDS",
        help="recordings that a masked autoencoder reconstructs in a second picture (default: those of the run)",
    )
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    from pretraining.monitoring.report import inspect_run

    print(inspect_run(arguments.run_folder, arguments.out, data=arguments.data))


def _add_bundle(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "bundle",
        help="put exported weights into the library",
        description="Copy exported weights into skecg/pretrained, with their scores and the run's curves on the card, "
        "and make them the default. For whoever maintains skecg.",
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="folder that export wrote")
    parser.add_argument("--run", required=True, type=Path, metavar="RUN", dest="run_folder", help="folder of the run")
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        type=Path,
        metavar="REPORT",
        help="report of skecg evaluate; may be given several times",
    )
    parser.add_argument("--notes", type=Path, metavar="FILE", help="Markdown that is added to the card")
    parser.set_defaults(run=_bundle)


def _bundle(arguments: argparse.Namespace) -> None:
    from pretraining.export import bundle

    folder = bundle(arguments.weights, arguments.run_folder, arguments.evaluation, notes=arguments.notes)
    print(f"{folder}: the default from now on")


if __name__ == "__main__":
    sys.exit(main())
