"""``skecg verify``: whether this machine gives the features that were recorded with the weights."""

from __future__ import annotations

import argparse

from skecg.cli.console import Verbs, add_hub_options, say
from skecg.errors import ParameterError, WeightsError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "verify",
        help="embed the records that came with the weights and compare",
        description="Embed the golden records that came with the weights on this machine's CPU and say how far the "
        "features are from those recorded. Exits with 1 when they differ.",
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="name, weights folder or owner/name (default: default)"
    )
    parser.add_argument("--all", action="store_true", help="every model of `skecg models`")
    parser.add_argument("--public-key", metavar="FILE", help="check who signed the weights first (PEM)")
    parser.add_argument("--signature", metavar="FILE", help="where it lies (default: model.sig beside the weights)")
    add_hub_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify each model and print the outcome; a model that cannot be read does not keep the others from it."""
    from skecg.weights import check_signature, find_weights, list_models, verify_weights

    if arguments.signature and not arguments.public_key:
        raise ParameterError("Got --signature without --public-key, expected both: it is the key that says who signed.")
    names = [*arguments.models, *(list_models() if arguments.all else [])] or ["default"]
    options = {"revision": arguments.revision, "local_files_only": arguments.local_files_only}
    codes = []
    for name in dict.fromkeys(names):
        try:
            weights = find_weights(name, **options)
            if arguments.public_key:
                check_signature(weights.folder, arguments.public_key, signature=arguments.signature)
                print(f"{weights.folder}: signed by the owner of {arguments.public_key}")
            verification = verify_weights(weights)
        except WeightsError as error:
            say(f"error: {error}")
            codes.append(2)
        else:
            print(verification)
            codes.append(0 if verification.passed else 1)
    return max(codes)
