"""``skecg export``: an encoder as a file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from skecg.cli.console import Verbs, add_hub_options, as_layer, say
from skecg.errors import ParameterError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "export",
        help="write an encoder as an ONNX file for other programs",
        description="Write an encoder as one ONNX file: prepared windows (n_windows, n_leads, n_samples) in, features "
        "and tokens out. What a window has to be, and where the weights come from, is in the file's metadata under "
        "'skecg'. Its features are compared with torch's before it is written.",
    )
    parser.add_argument(
        "model", nargs="?", default="default", metavar="MODEL", help="name, weights folder or owner/name"
    )
    parser.add_argument("--onnx", action="store_true", required=True, help="the kind of file; there is no other yet")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="file to write, .onnx")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    parser.add_argument(
        "--pooling", metavar="P", help="mean, max, mean+std, mean+std+max or cls (default: as the weights say)"
    )
    parser.add_argument(
        "--layer", type=as_layer, metavar="N", help="block, several (2,5) or last4; write --layer=-2,-1 with an = sign"
    )
    add_hub_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and say how close it is."""
    path: Path = arguments.to
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise ParameterError(f"Got --to {str(path)!r}, expected the name of a file that ends in .onnx.")
    if not path.parent.is_dir():
        raise ParameterError(f"Got --to {str(path)!r}, but {str(path.parent)!r} is no folder. Make it first.")
    if path.exists() and not arguments.force:
        raise ParameterError(f"{str(path)!r} exists. Name another file, or pass --force to replace it.")

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
