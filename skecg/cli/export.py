"""``skecg export``: an encoder, or its card, as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from skecg.archives.files import check_output
from skecg.cli.console import Verbs, add_hub_options, as_layer, say
from skecg.errors import ParameterError
from skecg.io.files import replacing

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "export",
        help="write an encoder as an ONNX file, or its card as XML",
        description="--onnx: write an encoder as one ONNX file: prepared windows (n_windows, n_leads, n_samples) in, "
        "features and tokens out. What a window has to be, and where the weights come from, is in the file's metadata "
        "under 'skecg'. Its features are compared with torch's before it is written. --chai: write what is known of "
        "the weights as an applied model card of the Coalition for Health AI (XML, version 0.2).",
    )
    parser.add_argument(
        "model", nargs="?", default="default", metavar="MODEL", help="name, weights folder or owner/name"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--onnx", action="store_const", dest="suffix", const=".onnx", help="the encoder")
    kind.add_argument("--chai", action="store_const", dest="suffix", const=".xml", help="the card")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="file to write, .onnx or .xml")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    parser.add_argument(
        "--pooling", metavar="P", help="mean, max, mean+std, mean+std+max or cls (default: as the weights say)"
    )
    parser.add_argument(
        "--layer", type=as_layer, metavar="N", help="block, several (2,5) or last4; write --layer=-2,-1 with an = sign"
    )
    parser.add_argument("--developer", default="Not stated.", metavar="NAME", help="who made the weights (--chai)")
    parser.add_argument("--contact", default="Not stated.", metavar="TEXT", help="how to reach them (--chai)")
    add_hub_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    path: Path = arguments.to
    check_output("--to", path, [arguments.suffix])
    if path.exists() and not arguments.force:
        raise ParameterError(f"{str(path)!r} exists. Name another file, or pass --force to replace it.")
    return _write_card(path, arguments) if arguments.suffix == ".xml" else _write_encoder(path, arguments)


def _write_card(path: Path, arguments: argparse.Namespace) -> int:
    from skecg.hub import applied_model_card

    card = applied_model_card(
        arguments.model,
        developer=arguments.developer,
        contact=arguments.contact,
        revision=arguments.revision,
        local_files_only=arguments.local_files_only,
    )
    with replacing(path) as file:
        file.write(card.encode())
    say(f"applied model card, version 0.2: {str(path)!r}")
    return 0


def _write_encoder(path: Path, arguments: argparse.Namespace) -> int:
    """Write the encoder and say how close it is."""
    from skecg.backends import export_onnx

    done = export_onnx(
        arguments.model,
        path,
        pooling=arguments.pooling,
        layer=arguments.layer,
        revision=arguments.revision,
        local_files_only=arguments.local_files_only,
    )
    say(f"{done.n_features} features a window, {done.n_bytes / 1e6:.1f} MB: {str(path)!r}")
    if done.largest_error is None:
        say("not compared with torch: that needs onnxruntime (`pip install 'skecg[onnx]'`)")
    else:
        say(f"with onnxruntime its features are torch's but for {done.largest_error:.1e} of their size")
    return 0
