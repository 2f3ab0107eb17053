"""``skecg publish``: a weights folder to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json

from skecg.cli.console import Verbs, say

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Publish a weights folder on the Hugging Face Hub in one commit: configuration, tensors, golden vectors, licence, and a
card with the scores. Publishing the same again commits nothing. The token is the Hub's own (`hf auth login`, HF_TOKEN).

Refused unless allowed by name (--allow): weights that are untrained, unverified (their golden vectors do not agree),
incomplete, dirty (trained with code that cannot be found again), or whose licence their training data do not allow.
"""


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "publish",
        help="put a weights folder on the Hugging Face Hub",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="weights folder")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository; made when it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--tag", metavar="TAG", help="another name of the commit, such as v1; tags never move")
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="REPORT",
        help="report.json of skecg evaluate; may be repeated",
    )
    parser.add_argument(
        "--hub-dataset",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=OWNER/NAME",
        help="where the Hub has a data set of the reports, for its own list of results; may be repeated",
    )
    parser.add_argument(
        "--data-licence",
        action="append",
        default=[],
        type=_pair,
        metavar="ARCHIVE=LICENCE",
        help="licence of an archive that the weights were trained on, where skecg does not know it; may be repeated",
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="REASON", help="publish all the same; may be repeated"
    )
    parser.add_argument(
        "--with-head", action="store_true", help="the head of a fine-tuned model as well, for pooling='attention'"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be published, send nothing")
    parser.add_argument("--stage", metavar="DIR", help="write the files into a folder as well, to look at them")
    parser.set_defaults(run=run)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    return name, value


def run(arguments: argparse.Namespace) -> int:
    """Publish, and print the files, the commit, and the entry that would freeze it in the registry."""
    from skecg.hub import publish, registry_entry

    done = publish(
        arguments.weights,
        arguments.repo,
        private=arguments.private,
        tag=arguments.tag,
        evaluations=arguments.evaluation,
        hub_datasets=dict(arguments.hub_dataset),
        data_licence=dict(arguments.data_licence),
        allow=arguments.allow,
        with_head=arguments.with_head,
        dry_run=arguments.dry_run,
        stage=arguments.stage,
    )
    if arguments.stage:
        say(f"the files are in {arguments.stage}")
    print(done)
    if done.commit is not None:
        entry = registry_entry(arguments.weights, arguments.repo, done.commit, evaluations=arguments.evaluation)
        print(f"entry for the registry: {json.dumps(entry, ensure_ascii=False)}")
    return 0
