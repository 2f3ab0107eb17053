"""Reading a ``config.json`` that anybody may have written: refused before it costs memory or time.

What a configuration says is checked here for its size alone; what it means is checked by the values made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skecg.errors import WeightsFormatError
from skecg.spec import EncoderConfig, InputSpec

__all__ = ["check_limits", "fewest_parameters", "read_json"]

#: A configuration is a few kilobytes; with a long story of its provenance perhaps a hundred.
LARGEST_CONFIG_BYTES = 1_000_000
DEEPEST = 20
MOST_VALUES = 10_000

#: Far beyond any encoder of electrocardiograms, far below what would fill a machine's memory.
_LARGEST_INPUT = {"sampling_rate": 100_000, "window_samples": 2**22, "filter_order": 16}
_LARGEST_ENCODER = {
    "dim": 2**14,
    "depth": 256,
    "num_heads": 256,
    "n_patches": 2**16,
    "patch_samples": 2**16,
    "mlp_ratio": 64,
    "num_registers": 1024,
}
_MOST_POSITIONS = 2**26


def read_json(path: Path) -> Any:
    """Read a small JSON file of shallow values and plain text.

    Raises
    ------
    WeightsFormatError
        When it is large, deeply nested, no JSON, or holds control characters.
    """
    n_bytes = path.stat().st_size
    if n_bytes > LARGEST_CONFIG_BYTES:
        raise WeightsFormatError(
            f"{path} has {n_bytes:,} bytes, expected at most {LARGEST_CONFIG_BYTES:,}: it is no configuration of "
            "weights. Fetch or export the weights again."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsFormatError(f"{path} is not valid JSON ({error}). Fetch or export the weights again.") from error
    for text in _texts(path, values):
        if not text.replace("\n", " ").replace("\t", " ").isprintable():
            raise WeightsFormatError(f"{path} holds control characters in {text[:40]!r}, expected plain text.")
    return values


def _texts(path: Path, values: Any) -> Iterator[str]:
    """Give all texts of nested values, keys too."""
    level, n_values = [values], 0
    for _ in range(DEEPEST):
        n_values += len(level)
        if n_values > MOST_VALUES:
            raise WeightsFormatError(f"{path} holds more than {MOST_VALUES:,} values: it is no configuration.")
        nested: list[Any] = []
        for value in level:
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                nested += [*value, *value.values()]
            elif isinstance(value, list):
                nested += value
        level = nested
    if level:
        raise WeightsFormatError(
            f"{path} is nested more than {DEEPEST} levels deep. It is no configuration of weights."
        )


def check_limits(encoder: EncoderConfig, spec: InputSpec) -> None:
    """Refuse an encoder or an input that no machine should be asked to make room for."""
    for value, limits in ((spec, _LARGEST_INPUT), (encoder, _LARGEST_ENCODER)):
        for name, largest in limits.items():
            found = getattr(value, name, 0)
            if found > largest:
                raise WeightsFormatError(
                    f"Got {name}={str(found)[:24]} in the {value.kind}, expected at most {largest:,}."
                )
    n_positions = encoder.n_leads * encoder.n_patches * encoder.dim
    if n_positions > _MOST_POSITIONS:
        raise WeightsFormatError(
            f"The encoder has {encoder.n_leads} leads of {encoder.n_patches:,} slices of width {encoder.dim:,}, "
            f"{n_positions:,} values of position; expected at most {_MOST_POSITIONS:,}."
        )


def fewest_parameters(config: EncoderConfig) -> int:
    """Count the entries of the matrices in an encoder's blocks; all of its parameters are some more."""
    return config.depth * (4 * config.dim**2 + 2 * config.dim * config.hidden_dim)
