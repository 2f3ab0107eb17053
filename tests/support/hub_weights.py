"""Weights to publish, reports of their scores, and processes that load them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import skecg
from skecg.weights import read_info

FIXTURES = Path(__file__).parents[1] / "fixtures"

TRAINED = {
    "name": "tiny",
    "trained": True,
    "description": "A tiny encoder.",
    "licence": "Apache-2.0",
    "data": "ptb-xl (17,418 records), code-15 (128,000 records)",
}


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a weights folder as a repository's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def make_weights(folder, **provenance):
    encoder, spec = skecg.load_encoder(FIXTURES / "tiny-temporal")
    skecg.save_encoder(folder, encoder, spec, **provenance)
    return Path(folder)


def report_of(folder, path, note=None):
    """Write what ``skecg evaluate`` writes, as far as it is read."""
    interval = {"estimate": 0.91234, "low": 0.90, "high": 0.923}
    largest = {"fraction": 1.0, "macro_auroc": interval, "macro_auprc": 0.7, "macro_f1": None}
    note = note or f"owner/tiny, weights {read_info(folder).sha256[:12]}, fp32"
    rows = [
        {"name": "majority", "kind": "baseline", "note": "", "by_fraction": []},
        {"name": "tiny", "kind": "model", "note": note, "by_fraction": [{}, largest]},
    ]
    values = {
        "dataset": {"name": "ptbxl"},
        "task": {"name": "superdiagnostic"},
        "protocol": {"name": "(a) pooled vector + logistic regression"},
        "intervals": {"level": 0.95},
        "split": {"n_test": 2158},
        "rows": rows,
    }
    path.write_text(json.dumps(values))
    return path


def start(environment: dict[str, str], code: str) -> subprocess.Popen[str]:
    """Start Python on a few lines, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
