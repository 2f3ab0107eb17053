"""``skecg convert``: published checkpoints to weights folders."""

from __future__ import annotations

import argparse

from skecg.cli.console import Verbs

__all__ = ["add_parser", "run_as_published", "run_clef", "run_kim", "run_onnx", "run_weimann"]

# Origins whose files say all that there is to know.
_AS_PUBLISHED = {
    "ecgfounder": "ECGFounder's Net1D (12 leads or lead I, 10 s)",
    "ecg-fm": "ECG-FM (convolutions and a transformer, 12 leads, 5 s)",
    "merl": "MERL's ResNet-18 (12 leads, 10 s)",
    "xecg": "xECG (recurrent, any of 12 leads, up to 12 s)",
}


def add_parser(verbs: Verbs) -> None:
    """Describe the verb and its origins."""
    parser = verbs.add_parser("convert", help="turn a published checkpoint into a weights folder")
    origins = parser.add_subparsers(title="origins", metavar="ORIGIN", required=True)

    kim = origins.add_parser("kim", help="Kim's ECG-JEPA (one token a lead and slice of time)")
    _add_files(kim)
    kim.add_argument("--num-heads", type=int, metavar="N", help="attention heads (default: as published)")
    kim.set_defaults(run=run_kim)

    weimann = origins.add_parser("weimann", help="Weimann and Conrad's ECG-JEPA (one token a slice of time)")
    _add_files(weimann)
    weimann.add_argument(
        "--statistics",
        metavar="NAME|FILE.json",
        help="means and standard deviations of the leads, which pre-training checkpoints lack: a corpus (mimic, "
        'ptb-xl, code-15, ...) or a JSON file {"mean": [...], "std": [...]} in millivolts',
    )
    weimann.set_defaults(run=run_weimann)

    onnx = origins.add_parser("onnx", help="an ONNX file of anybody's encoder, which onnxruntime runs")
    _add_files(onnx)
    onnx.add_argument(
        "--input", required=True, metavar="SPEC.json", help="what the encoder expects to be fed: an InputSpec's fields"
    )
    onnx.add_argument("--output", metavar="NAME", help="the output to take, where there are several")
    for name in ("name", "licence", "data"):
        onnx.add_argument(f"--{name}", metavar="TEXT", help=f"for the card: the weights' {name}")
    onnx.add_argument("--trained", action="store_true", help="for the card: the weights were trained, on whatever data")
    onnx.set_defaults(run=run_onnx)

    clef = origins.add_parser("clef", help="CLEF (one lead of any name, 10 s)")
    _add_files(clef)
    clef.add_argument("--lead", default="I", metavar="NAME", help="lead to take from records of several (default: I)")
    clef.set_defaults(run=run_clef)

    for origin, what in _AS_PUBLISHED.items():
        published = origins.add_parser(origin, help=what)
        _add_files(published)
        published.set_defaults(run=run_as_published, origin=origin)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the checkpoint")
    parser.add_argument("folder", metavar="OUT", help="weights folder to write; files of its names are replaced")
    parser.add_argument("--sha256", metavar="DIGEST", help="digest that the checkpoint must have, when you know it")


def run_clef(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint of CLEF and print the report."""
    from skecg.convert import convert_clef

    print(convert_clef(arguments.file, arguments.folder, lead=arguments.lead, sha256=arguments.sha256))
    return 0


def run_kim(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint of Kim's and print the report."""
    from skecg.convert import convert_kim

    print(convert_kim(arguments.file, arguments.folder, num_heads=arguments.num_heads, sha256=arguments.sha256))
    return 0


def run_weimann(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint of Weimann and Conrad's and print the report."""
    from skecg.convert import convert_weimann

    print(convert_weimann(arguments.file, arguments.folder, statistics=arguments.statistics, sha256=arguments.sha256))
    return 0


def run_onnx(arguments: argparse.Namespace) -> int:
    """Convert an ONNX file and print the report."""
    from skecg.convert import convert_onnx

    names = "name", "licence", "data", "trained"
    about = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    files = arguments.file, arguments.folder, arguments.input
    print(convert_onnx(*files, output=arguments.output, sha256=arguments.sha256, **about))
    return 0


def run_as_published(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint that says all there is to know, and print the report."""
    import skecg.convert

    convert = getattr(skecg.convert, f"convert_{arguments.origin.replace('-', '_')}")
    print(convert(arguments.file, arguments.folder, sha256=arguments.sha256))
    return 0
