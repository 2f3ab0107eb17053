"""``skecg explain``: what a fitted model's probability for a recording rests on."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from skecg.archives.files import check_output
from skecg.cli.console import Verbs
from skecg.io.files import replacing

if TYPE_CHECKING:
    from skecg.evaluation.occlusion import Explanation

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Explain the probability that a model of `skecg fit` has for a recording: how far its log-odds fall when a phase of all
beats, or a whole lead, is hidden. Above 0 speaks for the class, below 0 against it. With --out this is drawn over the
ECG, too.

How faithful phases, leads and pieces are was measured; see the page "What a probability rests on". Research use only.
"""
_PIECE_SECONDS = 0.4
_SUFFIXES = (".png", ".svg", ".pdf")


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "explain",
        help="show what a fitted model's probability for a recording rests on",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder that `skecg fit` wrote")
    parser.add_argument("record", metavar="RECORD", help="file or record name")
    parser.add_argument("--class", dest="target", metavar="C", help="class or label (default: the most probable)")
    parser.add_argument("--out", "-o", type=Path, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument(
        "--of", default="phases", metavar="WHAT", help="what is drawn: phases (default), leads or pieces (of 0.4 s)"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain, print and draw."""
    from skecg.evaluation.occlusion import explain
    from skecg.tabular.model import read_model
    from skecg.validation import check_choice

    out: Path | None = arguments.out
    if out is not None:
        check_output("--out", out, _SUFFIXES)
    check_choice("of", arguments.of, ("phases", "leads", "pieces"))
    classifier = read_model(arguments.model).classifier(device=arguments.device)
    record = classifier.read(arguments.record)
    # Pieces are most of the work; where none are drawn, they are as long as can be.
    seconds = _PIECE_SECONDS if arguments.of == "pieces" else record.n_samples / record.sampling_rate
    found = explain(classifier, record, arguments.target, piece_seconds=seconds)
    if out is not None:
        with replacing(out) as file:
            found.plot(arguments.of).figure.savefig(file, format=out.suffix[1:].lower())
    print(_in_words(found))
    return 0


def _in_words(found: Explanation) -> str:
    from skecg.evaluation.occlusion import PHASES

    lines = [f"{found.record.name}: {found.target}, probability {found.probability:.3f}"]
    for title, names, falls, why in (
        ("phase", PHASES, found.phases, "No beat was found, so that no phase could be hidden."),
        ("lead", found.record.leads, found.leads, "The recording has a single lead, without which nothing is left."),
    ):
        if math.isnan(falls[0]):
            lines.append(why)
            continue
        lines.append(f"{title:<8}log-odds fall by")
        lines += [f"{name:<8}{fall:+.2f}" for name, fall in zip(names, falls, strict=True)]
    return "\n".join(lines)
