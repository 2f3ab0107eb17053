"""Windows to vectors: micro-batches through an encoder.

Windows of the same leads and the same length travel together, so that nothing is padded and nothing absent is
computed: a window of a short record is simply shorter, which equals masking its padding out of attention and pooling.
Shapes: B windows of a micro-batch, R registers, N tokens, D width of a token.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor

from skecg.compute.devices import autocast, in_order, keep_to_one_thread, one_thread_per_worker, within_memory
from skecg.encoders import Encoder
from skecg.encoders.base import resolve_layers
from skecg.encoders.pooling import AttentionPooling, kept_tokens, n_encoder_features, pool_tokens
from skecg.errors import ParameterError
from skecg.preprocessing.on_device import WindowsOnDevice
from skecg.preprocessing.windows import Windows
from skecg.spec import EncoderConfig
from skecg.validation import check_jobs

__all__ = [
    "Encoding",
    "counted_tokens",
    "encode_tokens",
    "encode_windows",
    "micro_batches",
    "number_shapes",
    "token_distance",
    "token_grid",
    "workers",
]

# A CPU gains nothing from more windows at once, and what is larger than 32 MB the allocator fetches afresh from the
# system for every operation, page by page.
_CPU_BATCH = 8
_CPU_ARRAY_BYTES = 2**25
_ACCELERATOR_BATCH = 256


@dataclass(frozen=True)
class Encoding:
    """How windows are encoded.

    Parameters
    ----------
    pooling : str
        See :func:`skecg.encoders.pooling.pool_tokens`.
    layers : tuple of int
        Blocks whose tokens are wanted.
    batch_size : int or None
        Windows in a micro-batch; None leaves the choice to the device.
    precision : {"fp32", "bf16", "int8"}
    n_jobs : int or None
        Micro-batches in flight at once; None uses the cores that torch would.
    attention : AttentionPooling, optional
        What pools where `pooling` is "attention".
    """

    pooling: str
    layers: tuple[int, ...] = (-1,)
    batch_size: int | None = None
    precision: str = "fp32"
    n_jobs: int | None = None
    attention: AttentionPooling | None = None


def encode_windows(
    encoder: Encoder | Sequence[Encoder], windows: Windows | WindowsOnDevice, encoding: Encoding
) -> NDArray[np.float32]:
    """Encode and pool windows.

    Parameters
    ----------
    encoder : Encoder or sequence of Encoder
        In evaluation mode, on its device; or the same one on several devices.
    windows : Windows or WindowsOnDevice, of n_windows
    encoding : Encoding

    Returns
    -------
    ndarray of shape (n_windows, n_features), float32
    """
    replicas = _replicas(encoder)
    encoder = replicas[0]

    def pool(states: list[Tensor], counted_BN: Tensor | None) -> NDArray[np.float32]:
        if encoding.attention is not None:
            pooled = encoding.attention.pool(states[0], encoder.num_registers, counted_BN)
        else:
            pooled = pool_tokens(states, encoder.num_registers, encoding.pooling, counted_BN)
        return pooled.float().cpu().numpy()

    n_features = n_encoder_features(
        encoding.pooling, encoder.config, resolve_layers(encoding.layers, len(encoder.config.stages))
    )
    # NaN from the start, which is refused later: a row that no batch fills must not hold what was in memory.
    features = np.full((len(windows.values), n_features), np.nan, dtype=np.float32)
    # Closed also when an error ends the loop, or threads would encode on.
    with contextlib.closing(_run(replicas, windows, encoding, pool)) as batches:
        for rows, pooled in batches:
            features[rows] = pooled
    return features


def encode_tokens(
    encoder: Encoder | Sequence[Encoder], windows: Windows | WindowsOnDevice, encoding: Encoding
) -> list[NDArray[np.float32]]:
    """Encode windows and keep their tokens.

    Returns
    -------
    list of ndarray of shape (N, D · n_layers), float32
        One for each window, registers left out; N differs for short windows and fewer leads.
    """
    replicas = _replicas(encoder)
    encoder = replicas[0]

    def keep(states: list[Tensor], _: Tensor | None) -> NDArray[np.float32]:
        return torch.cat([s[:, encoder.num_registers :] for s in states], dim=-1).float().cpu().numpy()

    # A list: windows with fewer leads or samples have fewer tokens.
    tokens: list[NDArray[np.float32]] = [np.empty((0, 0), dtype=np.float32)] * len(windows.values)
    with contextlib.closing(_run(replicas, windows, encoding, keep)) as batches:
        for rows, batch in batches:
            for row, array in zip(rows, batch, strict=True):
                tokens[row] = array
    return tokens


def _replicas(encoder: Encoder | Sequence[Encoder]) -> Sequence[Encoder]:
    return encoder if isinstance(encoder, Sequence) else [encoder]


def _run(
    replicas: Sequence[Encoder],
    windows: Windows | WindowsOnDevice,
    encoding: Encoding,
    finish: Callable[[list[Tensor], Tensor | None], NDArray[np.float32]],
) -> Generator[tuple[NDArray[np.intp], NDArray[np.float32]], None, None]:
    """Encode micro-batches, several at once on a CPU or several devices, and yield them with their windows' numbers."""
    device = _device_of(replicas[0])
    default_size = _cpu_batch(replicas[0]) if device.type == "cpu" else _ACCELERATOR_BATCH
    # No device is left idle while others encode a batch that could be divided.
    default_size = min(default_size, max(1, -(-len(windows.values) // len(replicas))))
    shapes = number_shapes(windows.lead_mask, windows.valid_samples, replicas[0].config.length_step)
    batches = micro_batches(shapes, np.arange(len(shapes)), encoding.batch_size or default_size)

    def work(encoder: Encoder, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        device = _device_of(encoder)
        if device.type == "cpu":
            keep_to_one_thread()

        def encode(rows: NDArray[np.intp]) -> NDArray[np.float32]:
            leads, n_samples = _shape_of(encoder, windows, int(rows[0]))
            # Cut to what is valid, rounded up to whole tokens: padding costs time and takes part in attention.
            values = _values_of(windows, rows, n_samples).to(device)
            with torch.inference_mode(), autocast(device, encoding.precision):
                return finish(encoder.layers(values, encoding.layers, leads), encoder.counted(values))

        return within_memory(encoder, encode, rows)

    if len(replicas) > 1:
        yield from _over_replicas(replicas, batches, work)
        return
    encoder = replicas[0]
    if device.type != "cpu":
        yield from ((rows, work(encoder, rows)) for rows in batches)
        return
    with (
        workers(encoding.n_jobs) as n_threads,
        contextlib.closing(in_order(partial(work, encoder), batches, n_threads)) as encoded,
    ):
        yield from zip(batches, encoded, strict=True)


@contextlib.contextmanager
def workers(n_jobs: int | None) -> Iterator[int]:
    """Keep torch to one core for each operation, and say how many threads may work beside each other.

    Parameters
    ----------
    n_jobs : int or None
        As joblib counts; None is the cores that torch would use, shared by all who work at the same time.
    """
    check_jobs(n_jobs)
    with one_thread_per_worker() as cores:
        yield cores if n_jobs is None else effective_n_jobs(n_jobs)


def _over_replicas(
    replicas: Sequence[Encoder],
    batches: Sequence[NDArray[np.intp]],
    work: Callable[[Encoder, NDArray[np.intp]], NDArray[np.float32]],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Return each micro-batch to whichever replica is free, and yield the results in order."""
    free: queue.SimpleQueue[Encoder] = queue.SimpleQueue()
    for replica in replicas:
        free.put(replica)

    def with_a_free_one(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        # Whichever is free, not in turn: devices may differ in speed, and batches in size.
        replica = free.get()
        try:
            return work(replica, rows)
        finally:
            free.put(replica)

    on_cpu = any(_device_of(replica).type == "cpu" for replica in replicas)
    with (
        one_thread_per_worker() if on_cpu else contextlib.nullcontext(),
        contextlib.closing(in_order(with_a_free_one, batches, len(replicas))) as encoded,
    ):
        yield from zip(batches, encoded, strict=True)


def _values_of(windows: Windows | WindowsOnDevice, rows: NDArray[np.intp], n_samples: int) -> Tensor:
    """Take the beginnings of some windows, where they lie."""
    if isinstance(windows, WindowsOnDevice):
        return windows.values[torch.from_numpy(rows).to(windows.values.device)][:, :, :n_samples]
    return torch.from_numpy(windows.values[rows][:, :, :n_samples])


def _device_of(encoder: Encoder) -> torch.device:
    # An encoder that is a graph has buffers alone; one without any tensor computes on the CPU.
    first = next(chain(encoder.parameters(), encoder.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _cpu_batch(encoder: Encoder) -> int:
    """Return how many windows a CPU likes at once: fewer where a block's widest array would be too large."""
    return min(_CPU_BATCH, max(1, _CPU_ARRAY_BYTES // (4 * encoder.config.widest_values)))


def number_shapes(
    lead_mask: NDArray[np.bool_], valid_samples: NDArray[np.integer], length_step: int
) -> NDArray[np.intp]:
    """Return a number for each window, the same where windows share leads and length in whole steps."""
    shapes = np.column_stack([lead_mask, -(-valid_samples // length_step)])
    # Flattened, because NumPy 2.0 gives the inverse a second axis.
    return np.unique(shapes, axis=0, return_inverse=True)[1].ravel()


def micro_batches(shapes: NDArray[np.intp], rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    """Divide windows, by their numbers, into batches of one shape and of at most `batch_size`."""
    batches: list[NDArray[np.intp]] = []
    for shape in np.unique(shapes[rows]):
        alike = rows[shapes[rows] == shape]
        batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
    return batches


def _shape_of(encoder: Encoder, windows: Windows | WindowsOnDevice, row: int) -> tuple[Sequence[int] | None, int]:
    """Return the leads present in a window (None when all are) and its length, rounded up to whole steps."""
    step = encoder.config.length_step
    # One micro-batch has one set of leads: absent ones are left out, not masked.
    present = windows.lead_mask[row]
    leads = None if present.all() else np.flatnonzero(present).tolist()
    return leads, -(-int(windows.valid_samples[row]) // step) * step


def counted_tokens(encoder: Encoder, windows: Windows | WindowsOnDevice, row: int, n_tokens: int) -> NDArray[np.bool_]:
    """Return which of a window's tokens its encoder counts in a mean: all, but for those of padding in the record."""
    values_1LT = _values_of(windows, np.array([row]), _shape_of(encoder, windows, row)[1])
    counted_1N = encoder.counted(values_1LT)
    return np.ones(n_tokens, dtype=bool) if counted_1N is None else kept_tokens(counted_1N, n_tokens)[0].cpu().numpy()


def token_distance(config: EncoderConfig, layers: Sequence[int]) -> int:
    """Return the samples from one token to the next, which several layers have to share to stand side by side."""
    steps = {config.stages[layer].token_samples for layer in layers}
    if len(steps) > 1:
        raise ParameterError(
            f"Got layer={list(layers)!r}, whose tokens are {' and '.join(map(str, sorted(steps)))} samples apart, "
            "expected layers whose tokens stand side by side. Ask for one layer at a time."
        )
    return steps.pop()


def token_grid(
    encoder: Encoder, windows: Windows | WindowsOnDevice, row: int, n_tokens: int | None = None
) -> tuple[list[str], NDArray[np.int64]]:
    """Name the lead (or ``"all"``) and the slice of time of each token of a window, in the tokens' order.

    A window that is no multiple of a slice long has as many tokens as its encoder made, `n_tokens`.
    """
    leads, n_samples = _shape_of(encoder, windows, row)
    names = ["all"]
    if encoder.token_per_lead:
        names = [windows.spec.leads[i] for i in (leads if leads is not None else range(windows.spec.n_leads))]
    whole = n_samples // encoder.config.stages[-1].token_samples
    n_slices = whole if n_tokens is None else n_tokens // len(names)
    return [name for name in names for _ in range(n_slices)], np.tile(np.arange(n_slices), len(names))
