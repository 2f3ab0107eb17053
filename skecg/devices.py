"""Where encoders run: the device, the precision, and how many cores."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from skecg.errors import ParameterError

__all__ = ["PRECISIONS", "autocast", "one_thread_per_worker", "resolve_device", "resolve_precision"]

PRECISIONS = ("auto", "fp32", "bf16")


def resolve_device(device: str | torch.device) -> torch.device:
    """Find the device that a name stands for.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the first of CUDA, XPU, MPS and CPU that works here; any name that torch knows is itself.

    Raises
    ------
    ParameterError
        When torch does not know the name or has no such device here.
    """
    if device == "auto":
        accelerator = (
            torch.accelerator.current_accelerator(check_available=True) if hasattr(torch, "accelerator") else None
        )
        return accelerator or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ParameterError(
            f"Got device={device!r}, which cannot be used here ({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        ) from error
    return found


def resolve_precision(precision: str) -> str:
    """Give ``"fp32"`` or ``"bf16"``; ``"auto"`` is float32, which never changes results."""
    if precision not in PRECISIONS:
        raise ParameterError(f"Got precision={precision!r}, expected one of {', '.join(map(repr, PRECISIONS))}.")
    return "fp32" if precision == "auto" else precision


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Let matrix products run in bfloat16 when asked; sums, norms and the residual stream stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class _Cores:
    """The cores of this process, shared by all threads that encode at the same time.

    While anybody encodes, torch uses one thread for each operation and parallel work goes over micro-batches instead:
    the same speed on a quiet machine and, on a shared one, no OpenMP threads spinning against each other. What
    torch was allowed before (its own setting, OMP_NUM_THREADS, the one core of a loky worker) bounds the workers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._allowed = 1

    @contextlib.contextmanager
    def one_thread_each(self) -> Iterator[int]:
        """Set torch to one thread for each operation and give the number of workers that this leaves room for."""
        with self._lock:
            if self._users == 0:
                self._allowed = torch.get_num_threads()
                torch.set_num_threads(1)
            self._users += 1
            share = max(1, self._allowed // self._users)
        try:
            yield share
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    torch.set_num_threads(self._allowed)


one_thread_per_worker = _Cores().one_thread_each
