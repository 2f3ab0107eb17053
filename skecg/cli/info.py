"""``skecg info``: what a bug report needs to say."""

from __future__ import annotations

import argparse

from skecg.cli.console import Verbs

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("info", help="print the versions of skecg, of Python and of what skecg needs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print versions and places."""
    from skecg.versions import show_versions

    show_versions()
    return 0
