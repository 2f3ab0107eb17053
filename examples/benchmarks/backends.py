"""How many windows a second each engine encodes: torch, plain and compiled, onnxruntime and OpenVINO.

Run ``python examples/benchmarks/backends.py [--model default] [--passes 5] [--threads 1] [--tiny]``. The encoder of
`--model` and one of ViT-S's shape with random weights (100 tokens, width 384, 8 blocks) get 1, 8 and 64 windows at
once, on the road of every embedding: micro-batches, pooling to the mean. The engines take turns, so that what else the
machine does meets them all; the best of several passes counts, in processor time with one thread, in wall time with
more. Engines that are not installed are left out, and so is compiled torch where no C++ compiler is. Graphs are made
before the clock starts; how long that takes is printed below.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import shutil
import time
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch
from encoder_shapes import VIT_S, frozen
from encoders import as_embedded

from skecg import load_encoder
from skecg.backends import ExportedEncoder
from skecg.backends.onnx import open_in_int8, open_with_onnxruntime
from skecg.backends.openvino import open_with_openvino
from skecg.encoders import Encoder
from skecg.encoders.encode import Encoding, encode_windows
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.windows import Windows
from skecg.spec import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1, 8, 64)


def windows_of(spec: InputSpec, n_windows: int) -> Windows:
    values = np.random.default_rng(0).normal(size=(n_windows, spec.n_leads, spec.window_samples)).astype(np.float32)
    return Windows(
        values=values,
        owner=np.arange(n_windows),
        start_samples=np.zeros(n_windows, dtype=np.int64),
        valid_samples=np.full(n_windows, spec.window_samples),
        lead_mask=np.ones((n_windows, spec.n_leads), dtype=bool),
        spec=spec,
    )


def engines_of(encoder: Encoder, *, compiling: bool = True) -> dict[str, tuple[Encoder, str]]:
    """An encoder and a precision for each name."""
    engines = {f"torch {precision}": (as_embedded(encoder, precision), precision) for precision in ("fp32", "bf16")}
    if compiling and shutil.which("c++"):
        engines |= {"compiled fp32": (compiled(encoder), "fp32"), "compiled bf16": (compiled(encoder), "bf16")}
    for name, package, start in (
        ("onnx", "onnxruntime", open_with_onnxruntime),
        ("onnx int8", "onnxruntime", open_in_int8),
        ("openvino", "openvino", open_with_openvino),
    ):
        if all(importlib.util.find_spec(needed) for needed in ("onnx", "onnxscript", package)):
            engines[name] = (ExportedEncoder(encoder, start), "fp32")
    return engines


def compiled(encoder: Encoder) -> Encoder:
    """Give the encoder with its pass through ``torch.compile``, which is done when it is first called with a shape."""
    torch._dynamo.config.force_parameter_static_shapes = False
    encoder = copy.deepcopy(encoder)
    encoder.layers = torch.compile(encoder.layers)
    return encoder


def fastest(runs: dict[str, Callable[[], np.ndarray]], passes: int, clock: Callable[[], float]) -> dict[str, float]:
    """Best time of each, taking turns."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(passes):
        for name, run in runs.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
    return best


def compare(
    title: str,
    encoder: Encoder,
    spec: InputSpec,
    passes: int,
    threads: int,
    *,
    sizes: tuple[int, ...] = SIZES,
    compiling: bool = True,
) -> None:
    clock = time.process_time if threads == 1 else time.perf_counter
    engines, one = engines_of(encoder, compiling=compiling), windows_of(spec, 1)
    print(f"\n{title}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} million parameters")
    wanted, notes = encode_windows(encoder, one, Encoding("mean")), []
    for name, (engine, precision) in engines.items():
        start = time.process_time()
        found = encode_windows(engine, one, Encoding("mean", precision=precision))
        seconds = time.process_time() - start
        error = np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))
        notes.append(f"{name}: first window after {seconds:.1f} s of processor time, {error:.0e} off")
    print(f"{'windows at once':<17}{'engine':<15}{'windows/s':>10}{'to torch fp32':>15}")
    for size in sizes:
        windows = windows_of(spec, size)
        runs = {
            name: lambda engine=engine, precision=precision, windows=windows: encode_windows(
                engine, windows, Encoding("mean", precision=precision, n_jobs=threads)
            )
            for name, (engine, precision) in engines.items()
        }
        for run in runs.values():
            run()  # what is compiled for this size is compiled now
        times = fastest(runs, passes, clock)
        for name, seconds in times.items():
            print(f"{size:<17}{name:<15}{size / seconds:>10.1f}{times['torch fp32'] / seconds:>14.2f}x", flush=True)
    print("\n".join(notes))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-model", action="store_true", help="leave ViT-S out")
    parser.add_argument("--tiny", action="store_true", help="few windows, nothing compiled, to see that it runs")
    given = parser.parse_args(arguments)
    encoder, spec = load_encoder(given.model)
    if given.tiny:
        compare(given.model, encoder.requires_grad_(False), spec, 1, given.threads, sizes=(1, 2), compiling=False)
        return
    compare(given.model, encoder.requires_grad_(False), spec, given.passes, given.threads)
    if not given.only_model:
        spec = InputSpec(CANONICAL_LEADS, 250, VIT_S.window_samples)
        compare("ViT-S's shape", frozen(VIT_S), spec, given.passes, given.threads)


if __name__ == "__main__":
    main()
