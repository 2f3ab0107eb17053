"""``skecg download``: weights into a plain folder, for machines without a network."""

from __future__ import annotations

import argparse

from skecg.cli.console import Verbs

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "download",
        help="put a model's files into a folder, for machines without a network",
        description="Put a model's files into a folder that can be carried to a machine without a network, and print "
        "their sizes, digests and licence. The tensors are checked by their sha256.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of `skecg models`, or owner/name")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder; files of these names are replaced")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Download and print the list."""
    from skecg.hub.downloading import download

    print(download(arguments.model, arguments.to, revision=arguments.revision))
    return 0
