"""``skecg sign``: sign a weights folder, so that others can check who made it."""

from __future__ import annotations

import argparse
import os

from skecg.cli.console import Verbs

__all__ = ["add_parser", "run"]

_PASSWORD = "SKECG_KEY_PASSWORD"


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "sign",
        help="sign a weights folder with a key of your own",
        description="Sign the files of a weights folder with an elliptic-curve key (OpenSSF model signing); "
        "`skecg verify FOLDER --public-key FILE` checks the signature. Nothing is sent anywhere.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="weights folder")
    parser.add_argument(
        "--key", required=True, metavar="FILE", help=f"private key (PEM); its password, if any, in {_PASSWORD}"
    )
    parser.add_argument("--signature", metavar="FILE", help="file to write (default: model.sig in the folder)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sign and name the signature."""
    from skecg.weights import sign_weights

    password = os.environ.get(_PASSWORD)
    print(sign_weights(arguments.folder, arguments.key, password=password, signature=arguments.signature))
    return 0
