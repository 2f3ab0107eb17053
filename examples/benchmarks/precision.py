"""What bfloat16 and int8 gain and what they change: speed, a probe's scores, its decisions, the features themselves.

Run ``python examples/benchmarks/precision.py [--data FILE] [--model default] [--records 256] [--passes 5] [--tiny]``.
FILE is a packed sample of PTB-XL (or its folder), --data again for each file of one that lies in several: superclasses,
trained on folds 1 to 8, tested on fold 9. Without it the recordings are synthetic and the label is their rhythm.

Speed is that of one thread, in processor time, the best of passes in which both take turns: the embedder from records
in memory to features, encoders alone, and of these the linear layers alone. Without bfloat16 arithmetic in the
processor nothing is to be gained there, without VNNI little by int8, which is onnxruntime's and in the tables where
that is installed.

The probe is skecg.evaluation's pooled protocol, with its penalty and its thresholds. Decisions are those of the probe
fitted on float32, told apart by whether it then sees features of float32 or of the other. Cosines are between the two
features of a recording, once with the mean of all recordings taken away from both. Without that, what all recordings
have in common hides what tells them apart: the last column is the cosine of two different recordings.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from encoder_shapes import TINY, VIT_S, VIT_XS, frozen
from encoders import as_embedded, fastest

from skecg import JEPAEmbedder, load_encoder
from skecg.backends import ExportedEncoder
from skecg.backends.onnx import open_in_int8
from skecg.compute.devices import autocast
from skecg.datasets import make_ecg
from skecg.datasets.packed import join_datasets
from skecg.encoders import Encoder
from skecg.evaluation import PooledProtocol, Split, area_under_roc, open_dataset, split_by_folds, task_labels
from skecg.evaluation.protocols import LabelDraw

BATCH = 8
CPU = torch.device("cpu")


class Labelled(NamedTuple):
    """Recordings, how to embed them, what they are labelled with, and who trains and who tests."""

    records: object
    options: dict[str, object]
    labels: np.ndarray
    patients: np.ndarray
    split: Split


def real(paths: Sequence[Path]) -> Labelled:
    """Take PTB-XL's superclasses, fold 9 tested."""
    dataset = join_datasets([open_dataset(path) for path in paths])
    task = task_labels(dataset, "superdiagnostic")
    split = split_by_folds(dataset, task, test_fold=9)
    options = {"sampling_rate": dataset.sampling_rate, "leads": dataset.leads}
    return Labelled(dataset.records, options, task.labels, dataset.patients, split)


def synthetic(n_records: int) -> Labelled:
    """Make recordings whose label is their rhythm; three fifths train, a fifth selects, a fifth is tested."""
    records, known = make_ecg(n_records, rhythm=["sinus", "af", "pvc"], noise=(0.05, 0.2), random_state=0)
    labels = (np.asarray(known["rhythm"])[:, None] == ["sinus", "af", "pvc"]).astype(np.int8)
    parts = np.split(np.arange(n_records), [3 * n_records // 5, 4 * n_records // 5])
    patients = np.arange(n_records).astype(str)
    return Labelled(records, {}, labels, patients, Split(*parts, refit=False, description="synthetic"))


def precisions() -> dict[str, str]:
    """Name the precisions compared with float32, the first, and the backend that computes in each."""
    known = {"fp32": "torch", "bf16": "torch"}
    there = all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime"))
    return {**known, "int8": "onnx"} if there else known


def embedders(model: str, options: dict[str, object]) -> dict[str, JEPAEmbedder]:
    return {
        precision: JEPAEmbedder(
            model, precision=precision, backend=backend, device="cpu", cache=None, n_jobs=1, **options
        )
        for precision, backend in precisions().items()
    }


def show_speed(given: argparse.Namespace) -> None:
    """Print how many times as fast as float32 the others are."""
    n_records, passes = (4, 1) if given.tiny else (given.records, given.passes)
    records = make_ecg(n_records, random_state=0).records
    embedding = {p: partial(embedder.fit_transform, records) for p, embedder in embedders(given.model, {}).items()}
    heads = "".join(f"{p:>8}" for p in embedding) + "".join(f"{p:>10}" for p in list(embedding)[1:])
    print(f"{'ms of one thread':<38}{heads}")
    show_ratios("records to features", fastest(embedding, passes), n_records)
    model = load_encoder(given.model)[0].requires_grad_(False)
    others = {"ViT-XS, 100 tokens": VIT_XS, "ViT-S, 100 tokens": VIT_S}
    others = {name: frozen(config) for name, config in ({"tiny": TINY} if given.tiny else others).items()}
    for name, encoder in {"encoder": model, **others}.items():
        x = torch.randn(BATCH, encoder.config.n_leads, encoder.config.window_samples)
        runs = {p: partial(encode, in_precision(encoder, p), x, p) for p in precisions()}
        show_ratios(f"{name}, {BATCH} windows at once", fastest(runs, 2 * passes), BATCH)
        # A token may hold more than the blocks make: what stands beside them.
        tokens = encode(encoder, x, "fp32")[..., : encoder.config.dim]
        runs = {p: partial(linear_layers, as_embedded(encoder, p), tokens, p) for p in precisions() if p != "int8"}
        show_ratios("  its blocks' linear layers", fastest(runs, 2 * passes), BATCH)


def in_precision(encoder: Encoder, precision: str) -> Encoder:
    """Give what computes an encoder: for int8 an engine, otherwise itself as it is embedded with."""
    return ExportedEncoder(encoder, open_in_int8) if precision == "int8" else as_embedded(encoder, precision)


def encode(encoder: Encoder, x: torch.Tensor, precision: str) -> torch.Tensor:
    with torch.inference_mode(), autocast(CPU, precision):
        return encoder.layers(x, [-1])[0]


def linear_layers(encoder: Encoder, tokens: torch.Tensor, precision: str) -> None:
    """Compute the linear layers of all blocks and nothing else: what a precision can make faster."""
    with torch.inference_mode(), autocast(CPU, precision):
        for block in encoder.typed_blocks():
            block.attn.qkv(tokens)
            block.attn.proj(tokens)
            block.mlp(tokens)


def show_ratios(name: str, seconds: dict[str, float], n_records: int) -> None:
    each = {precision: taken / n_records * 1e3 for precision, taken in seconds.items()}
    times = "".join(f"{each[p]:>8.2f}" if p in each else f"{'-':>8}" for p in precisions())
    ratios = "".join(f"{each['fp32'] / taken:>9.2f}x" for p, taken in each.items() if p != "fp32")
    print(f"{name:<38}{times}{ratios}", flush=True)


def show_probes(found: Labelled, features: dict[str, np.ndarray]) -> None:
    """Print scores of probes fitted and tested on the same precision, and what changes when they differ."""
    base = None
    for precision in features:
        score, crossed, flipped, off = probe(found, features["fp32"], features[precision])
        base = score if base is None else base
        print(f"\nfitted and tested on {precision}: macro AUROC {score:.4f} ({score - base:+.4f}; aim: within 0.002)")
        if precision != "fp32":
            print(f"fitted on fp32, tested on {precision}: macro AUROC {crossed:.4f}")
            print(f"{flipped.sum()} of {flipped.size} decisions differ: {flipped.mean():.2%} (aim: under 1 %)")
            print(f"probabilities differ by {off:.4f} at most")


def probe(found: Labelled, fp32: np.ndarray, own: np.ndarray) -> tuple[float, float, np.ndarray, float]:
    """Fit probes on some features and on float32's, and test both on the former.

    Returns the two scores, which decisions of the latter differ from those it makes on float32, and by how much at most
    its probabilities do.
    """
    split, n_records = found.split, len(found.labels)
    draw = LabelDraw(1.0, 0, np.unique(found.patients[split.train]), split.train)
    truth = found.labels[split.test]
    (fit,) = PooledProtocol().fits(own, found.labels, split, [draw])
    score = float(np.nanmean(area_under_roc(truth, fit.probabilities)))
    # Tested on the other precision, too: its features come behind the first, with the same records' numbers.
    both = replace(split, test=np.concatenate([split.test, split.test + n_records]))
    (fit,) = PooledProtocol().fits(np.concatenate([fp32, own]), found.labels, both, [draw])
    same, foreign = np.split(fit.probabilities, 2)
    crossed = float(np.nanmean(area_under_roc(truth, foreign)))
    flipped = (same >= fit.thresholds) != (foreign >= fit.thresholds)
    return score, crossed, flipped, float(np.abs(same - foreign).max())


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    return (a * b).sum(axis=1)


def show_closeness(features: dict[str, np.ndarray]) -> None:
    """Print cosines between features and those of float32, with and without what all recordings share."""
    fp32 = features["fp32"]
    mean = fp32.mean(axis=0)
    print(f"\n{'cosine with fp32':<26}{'median':>10}{'minimum':>10}{'of two recordings':>19}")
    for precision in list(features)[1:]:
        other = features[precision]
        for name, a, b in (("mean taken away", fp32 - mean, other - mean), ("as they are", fp32, other)):
            close, others = cosines(a, b), cosines(a, np.roll(a, 1, axis=0))
            numbers = f"{np.median(close):>10.6f}{close.min():>10.6f}{np.median(others):>19.6f}"
            print(f"{precision + ', ' + name:<26}{numbers}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, action="append", metavar="FILE", help="packed PTB-XL, or its folder")
    parser.add_argument("--model", default="default")
    parser.add_argument("--records", type=int, default=256, help="records timed")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="few records, to see that it runs")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    show_speed(given)
    found = real(given.data) if given.data else synthetic(60 if given.tiny else 600)
    features = {p: one.fit_transform(found.records) for p, one in embedders(given.model, found.options).items()}
    split = found.split
    print(f"\n{len(features['fp32'])} recordings, {len(split.train)} to train, {len(split.test)} to test")
    show_probes(found, features)
    show_closeness(features)


if __name__ == "__main__":
    main()
