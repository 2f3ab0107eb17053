"""Whether a module of somebody's own is the same once it is built again, which is all that a folder can do.

What a constructor draws and keeps in no tensor, a configuration that a file changes, tokens of another width than was
promised: each would be found by whoever opens the folder, who cannot mend it. So it is looked for before it is written.

Shapes: B windows, L leads, T samples, N tokens, D width of a token.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from skecg.encoders import Encoder, build_encoder, read_encoder_config
from skecg.errors import ParameterError, SkecgError

__all__ = ["check_rebuilt", "stored_state"]

# How far tokens may be from each other, as a share of their size; modules of half precision are rounded by themselves.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.1


def check_rebuilt(encoder: Encoder) -> None:
    """Try an encoder, and what its configuration and its tensors make, on two windows of noise.

    Parameters
    ----------
    encoder : Encoder
        Of an architecture that is registered; it is left in the mode that it is in.

    Raises
    ------
    ParameterError
        When it cannot be built again, fails, gives what are no tokens of the widths that its configuration names, or
        other tokens when it is built again, for a window alone, or a second time.
    """
    state, again = stored_state(encoder), _built_again(encoder)
    try:
        again.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ParameterError(
            f"Got a {type(encoder).__name__} of other tensors than its configuration builds ({reason}). Write all that "
            "shapes it into the configuration, and remove what is not part of it, such as a head."
        ) from error
    dtype = next((t.dtype for t in chain(encoder.parameters(), encoder.buffers()) if t.is_floating_point()), None)
    noise_BLT = torch.randn(
        2, encoder.config.n_leads, encoder.config.window_samples, generator=torch.Generator().manual_seed(0)
    )
    with _in_evaluation(encoder):
        given = _tokens(encoder, noise_BLT.to(dtype or torch.float32))
    found, alone = _tokens(again.float().eval(), noise_BLT), _tokens(again, noise_BLT[:1])
    if not _agree([tokens[:1] for tokens in found], alone, _TOLERANCE):
        raise ParameterError(
            f"Got a {type(encoder).__name__} whose tokens of a window depend on the windows beside it, or on chance; "
            "expected each window by itself, the same every time."
        )
    half = dtype in (torch.float16, torch.bfloat16)
    if not _agree(found, given, _HALF_TOLERANCE if half else _TOLERANCE):
        raise ParameterError(
            f"Got a {type(encoder).__name__} that gives other tokens when it is built again from its configuration and "
            f"its tensors, as a {type(again).__name__}. Keep all that it computes with in the configuration, "
            "parameters and persistent buffers, and register a class of your own with a configuration of its own."
        )


def _built_again(encoder: Encoder) -> Encoder:
    """Build an encoder of a configuration that went through a file."""
    config = encoder.config
    try:
        values = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        return build_encoder(read_encoder_config(config.architecture, values))
    except SkecgError:
        raise
    except Exception as error:  # whatever somebody else's constructor raises, and what JSON cannot hold
        raise ParameterError(
            f"Got a {type(encoder).__name__} that its configuration does not build again ({type(error).__name__}: "
            f"{error}). A file holds text, finite numbers, booleans, None, and lists and dicts of them; expected a "
            "configuration of these alone."
        ) from error


@contextlib.contextmanager
def _in_evaluation(encoder: Encoder) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own."""
    training = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def _tokens(encoder: Encoder, values_BLT: Tensor) -> list[Tensor]:
    """Return the tokens after all stages, on the CPU, or raise for what are none."""
    device = next((tensor.device for tensor in chain(encoder.parameters(), encoder.buffers())), values_BLT.device)
    stages = encoder.config.stages
    try:
        with torch.inference_mode():
            states: Sequence[Any] = encoder.layers(values_BLT.to(device), range(len(stages)))
    except SkecgError:
        raise
    except Exception as error:  # whatever somebody else's module raises
        raise ParameterError(
            f"Got a {type(encoder).__name__} that fails on windows of shape {tuple(values_BLT.shape)} in "
            f"{values_BLT.dtype} ({type(error).__name__}: {error}). Mend it, or the configuration's window."
        ) from error
    for stage, tokens in zip(stages, states, strict=True):
        _check_tokens(f"{type(encoder).__name__} after {stage.name!r}", tokens, len(values_BLT), stage.width)
    return [tokens.detach().cpu().float() for tokens in states]


def _check_tokens(whose: str, tokens: Any, n_windows: int, width: int) -> None:
    """Raise for what are no tokens."""
    wanted = f"expected tokens ({n_windows}, n_tokens, {width}), finite floating-point numbers in a tensor"
    if not isinstance(tokens, Tensor):
        raise ParameterError(f"Got a {type(tokens).__name__} from {whose}, {wanted}.")
    fits = tokens.ndim == 3 and (len(tokens), tokens.shape[2]) == (n_windows, width) and tokens.shape[1] > 0
    if not fits or not tokens.is_floating_point():
        raise ParameterError(f"Got {tokens.dtype} of shape {tuple(tokens.shape)} from {whose}, {wanted}.")
    if not tokens.isfinite().all():
        raise ParameterError(f"Got numbers that are not finite from {whose}, {wanted}.")


def _agree(some: list[Tensor], others: list[Tensor], tolerance: float) -> bool:
    """Check whether tokens are the same, to a share of their size."""
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.square().mean().sqrt())
        for one, other in zip(some, others, strict=True)
    )


def stored_state(encoder: Encoder) -> dict[str, Tensor]:
    """Return an encoder's tensors as files hold them: numbers in float32, bytes as they are, each in its own memory.

    Raises
    ------
    ParameterError
        When its state holds what is no tensor, or a tensor without values.
    """
    return {name: _as_stored(name, value) for name, value in encoder.state_dict().items()}


def _as_stored(name: str, value: Any) -> Tensor:
    if not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value) or value.is_meta:
        raise ParameterError(
            f"Got {name!r} of type {type(value).__name__} in the encoder's state, expected tensors with values: "
            "parameters and buffers. Run a lazy module once, load weights into an empty one, and keep the rest in the "
            "configuration."
        )
    kept = value.detach().cpu()
    # Float32, whatever training computed in. Copied, because a file holds no two tensors in the same memory.
    return (kept.float() if kept.is_floating_point() else kept).clone(memory_format=torch.contiguous_format)
