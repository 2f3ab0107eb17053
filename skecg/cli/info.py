"""``skecg info``: what a bug report needs to say, and how fast this machine is."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from skecg.cli.console import Verbs

if TYPE_CHECKING:
    from skecg.preprocessing.windows import Windows
    from skecg.weights import WeightsInfo

__all__ = ["add_parser", "run"]

# A chunk of the embedder's; three measurements of so many seconds and the imports take about ten.
_N_RECORDS = 64
_SECONDS = 2.5


def add_parser(verbs: Verbs) -> None:
    """Describe the verb."""
    parser = verbs.add_parser("info", help="print the versions of skecg, of Python and of what skecg needs")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="instead measure this machine for ten seconds: one thread, default weights, float32 and bfloat16",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print versions and places, or the speed of this machine."""
    from skecg.versions import show_versions

    if arguments.speed:
        _show_speed()
    else:
        show_versions()
    return 0


def _show_speed() -> None:
    """Measure and print how fast records in memory become features, on one thread."""
    import torch

    from skecg.compute.devices import one_thread_per_worker
    from skecg.datasets import make_ecg
    from skecg.preprocessing.windows import prepare
    from skecg.versions import processor
    from skecg.weights import find_weights

    info = find_weights("default")
    records = make_ecg(_N_RECORDS, noise=0.03, random_state=0).records
    print(f"processor  {processor()}")
    print(f"torch      {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    print("measured   one thread, default weights, records of 12 leads, 10 s at 500 Hz, in memory", flush=True)
    with one_thread_per_worker():
        preparing = _best_seconds(lambda: prepare(records, info.spec)) / _N_RECORDS
        print(f"preparing  {1e3 * preparing:.2f} ms a record", flush=True)
        windows = prepare(records, info.spec)
        for precision in ("fp32", "bf16"):
            encoding = _encoding_seconds(info, windows, precision)
            print(_speed_line(precision, len(windows.values) / encoding, preparing + encoding / _N_RECORDS), flush=True)


def _encoding_seconds(info: WeightsInfo, windows: Windows, precision: str) -> float:
    """Measure how long windows take to become features, as ``JEPAEmbedder`` encodes them."""
    import torch

    from skecg.encoders.encode import Encoding, encode_windows
    from skecg.weights import loaded_encoder

    encoder = loaded_encoder(info, torch.device("cpu"), packed_for=precision)
    encoding = Encoding(info.pooling, precision=precision, n_jobs=1)
    return _best_seconds(lambda: encode_windows(encoder, windows, encoding))


def _best_seconds(work: Callable[[], object]) -> float:
    """Measure the quickest of all runs that fit into some seconds, by the clock; the first one does not count."""
    # Loads code and fills caches.
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        # The quickest, for other programs only ever add time.
        best = min(best, time.perf_counter() - start)
    return best


def _speed_line(precision: str, windows_per_second: float, seconds_per_record: float) -> str:
    """Return what is printed of a precision."""
    return (
        f"{precision:<9}  {windows_per_second:.0f} windows/s encoded; prepared and encoded "
        f"{1e3 * seconds_per_record:.2f} ms a record, {3600 / seconds_per_record:,.0f} records an hour"
    )
