"""What it takes to embed a folder of files: a straightforward pipeline against skecg, with ratios.

Run ``python examples/benchmarks/end_to_end.py [--records 128] [--model default] [--passes 3] [--threads 1] [--tiny]``.
``--model vit-xs`` is a ViT-XS (12 blocks of 192, 100 tokens of all leads) with random weights. The files are WFDB
records of 12 leads, 10 s at 500 Hz. The straightforward pipeline reads each with wfdb, resamples
each with scipy (Fourier) in float64, filters it if the model's input is filtered, standardizes it by its own mean and
deviation, and encodes batches of 64 with the same weights in the published structure (see ``encoders.py``): the same
kind of work, not the same features to the last digit. Both take turns and the best pass counts: processor time with one
thread, the clock on the wall with more.
The last line sets skecg against the published ViT-B with a token for each lead (Kim), whose encoder alone is timed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import scipy.signal
import torch
import wfdb
from encoder_shapes import KIM_B, find_model, frozen
from encoders import as_published

from skecg import JEPAEmbedder, load_encoder, prepare, read_records
from skecg.datasets import make_ecg

if TYPE_CHECKING:
    from collections.abc import Callable

    from skecg.encoders import Encoder
    from skecg.spec import InputSpec

BATCH = 64


def write_files(folder: str, n_records: int) -> list[Path]:
    """Write records of 12 leads, 10 s at 500 Hz, in format 16 with a step of 1 µV, as PTB-XL has them."""
    for number, record in enumerate(make_ecg(n_records, sampling_rate=500, noise=0.03, random_state=0).records):
        n_leads = record.n_leads
        wfdb.wrsamp(
            f"r{number:05}",
            500,
            ["mV"] * n_leads,
            list(record.leads),
            record.signal.T.astype(float),
            fmt=["16"] * n_leads,
            adc_gain=[1000.0] * n_leads,
            baseline=[0] * n_leads,
            write_dir=folder,
        )
    return [Path(folder, f"r{number:05}") for number in range(n_records)]


def prepare_one(path: Path, spec: InputSpec) -> np.ndarray:
    """Read a record and make a window of it, as one writes it first."""
    record = wfdb.rdrecord(str(path))
    order = [record.sig_name.index(lead) for lead in spec.leads]
    n_samples = int(record.sig_len * spec.sampling_rate / record.fs)
    signal = scipy.signal.resample(record.p_signal[:, order].T, n_samples, axis=-1)
    if spec.highpass_hz or spec.lowpass_hz:
        band = [edge for edge in (spec.highpass_hz, spec.lowpass_hz) if edge]
        kind = "bandpass" if len(band) == 2 else "highpass" if spec.highpass_hz else "lowpass"
        sections = scipy.signal.butter(4, band, kind, fs=spec.sampling_rate, output="sos")
        signal = scipy.signal.sosfiltfilt(sections, signal, axis=-1)
    signal = (signal - signal.mean(axis=-1, keepdims=True)) / signal.std(axis=-1, keepdims=True)
    return signal[:, : spec.window_samples].astype(np.float32)


def straightforward(paths: list[Path], encoder: Encoder, spec: InputSpec) -> np.ndarray:
    windows = np.stack([prepare_one(path, spec) for path in paths])
    with torch.no_grad():
        batches = [encoder(torch.from_numpy(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
    return torch.cat(batches)[:, encoder.num_registers :].mean(dim=1).numpy()


def best_times(
    runs: dict[str, Callable[[], object]], passes: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Best time of each, taking turns after a pass that does not count."""
    best = dict.fromkeys(runs, np.inf)
    for number in range(passes + 1):
        for name, run in runs.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start) if number else best[name]
    return best


def milliseconds_of_kim() -> float:
    """Time the published ViT-B's encoder for a window, in batches of 4."""
    encoder, x = as_published(frozen(KIM_B)), torch.randn(4, KIM_B.n_leads, KIM_B.window_samples)
    with torch.no_grad():
        return best_times({"kim": lambda: encoder(x)}, 1)["kim"] / 4 * 1e3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=128)
    parser.add_argument("--model", default="default")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="few files, to see that it runs")
    given = parser.parse_args(arguments)
    n_records, passes = (4, 1) if given.tiny else (given.records, given.passes)
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        model = find_model(given.model, folder)
        encoder, spec = load_encoder(model)
        published = as_published(encoder.requires_grad_(False))
        embedders = {
            precision: JEPAEmbedder(model, precision=precision, device="cpu", cache=None)
            for precision in ("fp32", "bf16")
        }
        paths = write_files(folder, n_records)
        runs: dict[str, Callable[[], object]] = {"straightforward": lambda: straightforward(paths, published, spec)}
        for precision, embedder in embedders.items():
            runs[f"skecg {precision}"] = lambda embedder=embedder: embedder.fit_transform(paths)
        runs["reading"] = lambda: read_records(paths)
        records = read_records(paths)
        runs["preparing"] = lambda: [prepare(records[i : i + BATCH], spec) for i in range(0, n_records, BATCH)]
        each = {name: seconds / n_records * 1e3 for name, seconds in best_times(runs, passes, clock).items()}
    report(each, n_records, given.threads)
    if not given.tiny:
        kim = milliseconds_of_kim()
        ratios = ", ".join(f"{kim / each[f'skecg {precision}']:.0f}x ({precision})" for precision in embedders)
        print(f"the published ViT-B takes {kim:.0f} ms a record for its encoder alone: {ratios}")


def report(each: dict[str, float], n_records: int, threads: int) -> None:
    print(f"{n_records} files, milliseconds a record in {threads} thread(s)")
    for name in ("straightforward", "skecg fp32", "skecg bf16"):
        print(f"{name:<18}{each[name]:>8.2f}{each['straightforward'] / each[name]:>8.2f}x")
    before = each["reading"] + each["preparing"]
    shares = ", ".join(f"{before / each[f'skecg {p}']:.0%} ({p})" for p in ("fp32", "bf16"))
    print(f"reading takes {each['reading']:.2f} and preparing {each['preparing']:.2f}: {shares}")
    hours = ", ".join(f"{each[f'skecg {p}'] * threads * 1e6 / 3.6e6:.2f} ({p})" for p in ("fp32", "bf16"))
    print(f"core hours for a million records: {hours}")


if __name__ == "__main__":
    main()
