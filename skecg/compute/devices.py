"""Where encoders run: the device, the precision, how many cores, and the threads that work goes on in.

What threads work on has to release Python's lock, as NumPy, torch, hashing and reading do. NumPy's library for products
of matrices has threads of its own, whose number is set here, too.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import nn

from skecg.errors import ParameterError, SkecgWarning, user_stacklevel

__all__ = [
    "OpenBLAS",
    "PRECISIONS",
    "autocast",
    "find_openblas",
    "in_order",
    "keep_to_one_thread",
    "one_ahead",
    "one_thread_per_worker",
    "resolve_device",
    "resolve_devices",
    "resolve_precision",
    "within_memory",
]

#: What torch computes in.
PRECISIONS = ("auto", "fp32", "bf16")

# How many windows went through an encoder at once, where more did not fit into its device.
_fitting: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()

_fitting_lock = threading.Lock()

_Item = TypeVar("_Item")

_Result = TypeVar("_Result")


class OpenBLAS:
    """An OpenBLAS in this process.

    Parameters
    ----------
    library : threadpoolctl.LibController
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    @property
    def n_threads(self) -> int:
        """Threads that a product may take."""
        return int(self._library.num_threads)

    @contextlib.contextmanager
    def threads(self, n_threads: int) -> Iterator[None]:
        """Limit products to so many threads, in the whole process, until the block ends, by whichever thread."""
        before = self.n_threads
        try:
            self._set_threads(n_threads)
            yield
        finally:
            self._set_threads(before)

    def _set_threads(self, n_threads: int) -> None:
        """Set the number of threads, whichever thread has set it before.

        Newer releases of threadpoolctl let one thread decide and ignore all others for as long as it lives.
        """
        release = getattr(self._library, "clear_controlling_thread", lambda *, force: None)
        release(force=True)
        self._library.set_num_threads(n_threads)
        release(force=True)


@functools.cache
def find_openblas() -> OpenBLAS | None:
    """Find the OpenBLAS that NumPy multiplies with; None where it has another library.

    Packages may bring an OpenBLAS each. NumPy's is the one that lies with NumPy, or the only one there is.
    """
    import numpy  # noqa: F401  (loads it)

    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    with_numpy = [library for library in found if "numpy" in str(library.filepath)]
    chosen = with_numpy or (found if len(found) == 1 else [])
    return OpenBLAS(chosen[0]) if chosen else None


def resolve_device(device: str | torch.device) -> torch.device:
    """Find the device that a name stands for.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the first of CUDA, XPU, MPS and CPU that works here; any name that torch knows is itself.

    Returns
    -------
    torch.device
        With its number, where a name may leave it open: it is then the calling thread's current one.

    Raises
    ------
    ParameterError
        When torch does not know the name or has no such device here, or when it is a list of several.
    """
    if isinstance(device, list | tuple):
        raise ParameterError(f"Got device={device!r}, expected one device: several are for embedding only.")
    if device == "auto":
        accelerator = (
            torch.accelerator.current_accelerator(check_available=True) if hasattr(torch, "accelerator") else None
        )
        device = accelerator or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Tried, not looked up: a device may be known to torch and not work here, and "cuda" becomes "cuda:0".
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ParameterError(
            f"Got device={device!r}, which cannot be used here ({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        ) from error


def resolve_devices(device: str | torch.device | Sequence[str | torch.device]) -> tuple[torch.device, ...]:
    """Find the devices that a name, or a list of names, stands for.

    Parameters
    ----------
    device : str, torch.device, or a list or tuple of them
        As in :func:`resolve_device`; a list names each device once, and none of them ``"auto"``.

    Raises
    ------
    ParameterError
        When one cannot be used here, or the list is empty, has ``"auto"`` in it, or names a device twice.
    """
    if not isinstance(device, list | tuple):
        return (resolve_device(device),)  # type: ignore[arg-type]
    if not device or "auto" in device:
        raise ParameterError(
            f"Got device={device!r}, expected 'auto', one device, or several such as ['cuda:0', 'cuda:1']."
        )
    found = tuple(resolve_device(one) for one in device)
    if len(set(found)) < len(found):
        raise ParameterError(f"Got device={device!r}, which names a device twice. Name each once.")
    return found


def resolve_precision(precision: str, known: Sequence[str] = PRECISIONS) -> str:
    """Return a precision that is known by its own name; ``"auto"`` is float32, which never changes results."""
    if precision not in known:
        raise ParameterError(f"Got precision={precision!r}, expected one of {', '.join(map(repr, known))}.")
    return "fp32" if precision == "auto" else precision


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Run matrix products in bfloat16 when asked; so is what passes between blocks. Weights stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class _Cores:
    """The cores of this process, shared by all threads that encode at the same time.

    While anybody encodes, torch and NumPy use one thread for each operation and parallel work goes over micro-batches
    instead: the same speed on a quiet machine and, on a shared one, no threads spinning against each other. What
    torch was allowed before (its own setting, OMP_NUM_THREADS, the one core of a loky worker) bounds the workers.
    OpenMP counts for each thread of its own, so every worker has to call :func:`keep_to_one_thread` too; OpenBLAS
    counts for the whole process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: set[object] = set()
        self._allowed = 1
        self._numpy = contextlib.ExitStack()

    @contextlib.contextmanager
    def one_thread_each(self) -> Iterator[int]:
        """Keep the calling thread to one core and give the number of workers that this leaves room for."""
        user, before = object(), torch.get_num_threads()
        # Ctrl-C may come between any two lines: what is undone is what is known to be done, in whichever it came.
        try:
            with self._lock:
                if not self._users:
                    self._allowed = before
                self._users.add(user)
                if len(self._users) == 1 and (openblas := find_openblas()):
                    self._numpy.enter_context(openblas.threads(1))
                share = max(1, self._allowed // len(self._users))
                torch.set_num_threads(1)
            yield share
        finally:
            with self._lock:
                if user in self._users:
                    self._users.remove(user)
                    torch.set_num_threads(before if self._users else self._allowed)
                if not self._users:
                    self._numpy.close()


one_thread_per_worker = _Cores().one_thread_each


def keep_to_one_thread() -> None:
    """Keep torch to one core for the operations of the calling thread, a worker of :func:`one_thread_per_worker`.

    A new thread's first product would otherwise be divided among all cores, and be other than the next in its last
    bits: torch tells OpenMP and MKL of its setting when it is first asked, in each thread.
    """
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def within_memory(
    encoder: nn.Module, encode: Callable[[NDArray[np.intp]], NDArray[np.float32]], rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Encode windows, half as many at once whenever the device's memory runs out.

    What fits is remembered for the encoder, so that it is found, and said, once.

    Parameters
    ----------
    encoder : Module
        Whose memory it is.
    encode : callable
        Numbers of windows to what they become, row by row.
    rows : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_rows, ...)

    Raises
    ------
    torch.OutOfMemoryError
        When not even one window fits.
    """
    encoded: list[NDArray[np.float32]] = []
    with _fitting_lock:
        at_once = _fitting.get(encoder, len(rows))
    ran_out, start = False, 0
    while start < len(rows):
        try:
            encoded.append(encode(rows[start : start + at_once]))
            start += at_once
            continue
        except torch.cuda.OutOfMemoryError:
            if at_once == 1:
                raise
        # Out here the error is gone, and with it what its frames still held.
        at_once, ran_out = max(1, min(at_once, len(rows) - start) // 2), True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if ran_out:
        _say_what_fits(encoder, at_once)
    return encoded[0] if len(encoded) == 1 else np.concatenate(encoded)


def _say_what_fits(encoder: nn.Module, at_once: int) -> None:
    """Remember how many windows fit at once, and warn if this is the first time that fewer do than were tried."""
    with _fitting_lock:
        is_first = encoder not in _fitting
        _fitting[encoder] = min(at_once, _fitting.get(encoder, at_once))
    if is_first:
        device = next((parameter.device for parameter in encoder.parameters()), "the device")
        warnings.warn(
            f"The memory of {device} ran out. {at_once} windows are encoded at once from now on; "
            f"set batch_size={at_once} to begin with that.",
            SkecgWarning,
            stacklevel=user_stacklevel(),
        )


def in_order(
    work: Callable[[_Item], _Result], items: Sequence[_Item], n_threads: int
) -> Generator[_Result, None, None]:
    """Work on items with several threads.

    Parameters
    ----------
    work : callable
    items : sequence
    n_threads : int
        One, or one item, is done by the caller's thread. Otherwise threads live until the last item or an error; what
        was not begun by then is left.

    Yields
    ------
    object
        What comes of each item, in the items' order; the first error in that order is raised in its place.

    Raises
    ------
    ParameterError
        When there is no room for so many threads.

    Notes
    -----
    joblib looks for results every 10 ms, which is as long as a chunk of records takes on many cores.
    """
    if min(n_threads, len(items)) <= 1:
        yield from map(work, items)
        return
    # Not joblib's threads, which look for finished work every 10 ms, as long as a chunk takes (docs/log.md).
    with ThreadPoolExecutor(min(n_threads, len(items))) as pool:
        with _room_for_threads():
            results = pool.map(work, items)
        yield from results


@contextlib.contextmanager
def _room_for_threads() -> Iterator[None]:
    """Raise an error of ours where threads cannot be started; nothing else may be done in the block."""
    try:
        yield
    except RuntimeError as error:
        raise ParameterError(
            f"There is no room here for as many threads as n_jobs asks for ({error}). Set n_jobs lower, or allow this "
            "process more threads and memory."
        ) from error


def one_ahead(items: Generator[_Item, None, None]) -> Generator[_Item, None, None]:
    """Make the next item in another thread while the caller works on this one.

    Each item has a thread of its own, which ends with it: a generator that is forgotten leaves no thread that waits.
    One that is closed, or interrupted, first waits for the item being made, and closes `items`.

    Parameters
    ----------
    items : generator

    Yields
    ------
    object
        The items in their order; what making one raises is raised in its place.
    """
    underway = _begin(items)
    try:
        # A list of one, so that an item that is false is not taken for the end.
        while made := underway.result():
            underway = _begin(items)
            yield made[0]
    finally:
        wait([underway])
        items.close()


def _begin(items: Generator[_Item, None, None]) -> Future[list[_Item]]:
    """Start a thread that makes the next item: a list of it, or of none at the end."""
    thread = ThreadPoolExecutor(1)
    with _room_for_threads():
        underway = thread.submit(lambda: list(islice(items, 1)))
    thread.shutdown(wait=False)  # the thread ends with its item, whether anybody waits for that or not
    return underway
