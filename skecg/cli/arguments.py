"""Arguments that several verbs take, and how their text is read."""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ["Verbs", "add_hub_options", "add_signal_options", "as_batch_size", "as_layer"]

# What `add_subparsers` gives.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_signal_options(parser: argparse.ArgumentParser) -> None:
    """Add what files of numbers do not say of themselves."""
    group = parser.add_argument_group("tables and arrays", "what CSV and NumPy files do not say of themselves")
    group.add_argument("--sampling-rate", type=float, metavar="HZ", help="samples a second")
    group.add_argument("--leads", type=_names, metavar="I,II,...", help="names of the leads, in the order of the file")
    group.add_argument("--units", metavar="UNIT", help="mV (default), uV, V or nV")


def add_hub_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which weights of the Hub are meant."""
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of weights on the Hub")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network for weights")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names with commas between them")
    return names


def as_layer(text: str) -> int | list[int] | str:
    """Read ``3``, ``2,5`` or ``last4``."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        return text
    return numbers if len(numbers) > 1 else numbers[0]


def as_batch_size(text: str) -> int | str:
    """Read a number or ``auto``."""
    return int(text) if text.lstrip("+-").isdigit() else text
