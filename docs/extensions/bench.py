"""The bench that the documentation's code is run on: recordings, files and weights, sound and damaged, in a folder."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wfdb

import skecg
from skecg.convert import convert_kim, kim, weimann
from skecg.datasets import make_ecg
from skecg.embedding_cache import open_cache
from skecg.encoders.leadwise import grid_positions
from skecg.leads import CANONICAL_LEADS
from skecg.spec import LeadwiseConfig, TemporalConfig


def lay_out(folder: Path) -> dict[str, Any]:
    """Write the files into a folder and give the names that code may use.

    What this process remembers is forgotten: a record found in the cache is embedded without a warning.
    """
    open_cache("memory").clear()
    records = make_ecg(12, sampling_rate=250, noise=0.02, random_state=0).records
    for number, record in enumerate(records):
        write_wfdb(record, folder, f"ecg{number}")
    _write_damaged(folder)
    _write_weights(folder)
    _write_checkpoints(folder)
    np.savez(folder / "features.npz", features=np.zeros((2, 4), np.float32), paths=np.array(["ecg0", "ecg1"]))
    rows = [f"ecg{number},{('normal', 'lbbb')[number % 2]},p{number // 2}" for number in range(12)]
    (folder / "clinic.csv").write_text("\n".join(["path,diagnosis,patient", *rows]) + "\n")
    np.savetxt(folder / "table.csv", records[0].signal.T, delimiter=",", header="I,II", comments="")
    return {
        "np": np,
        "skecg": skecg,
        "JEPAEmbedder": skecg.JEPAEmbedder,
        "ECGRecord": skecg.ECGRecord,
        "records": records,
        "record": records[0],
        "X": np.stack([record.signal for record in records]),
        "y": np.arange(12) % 2,
        "patients": np.repeat(np.arange(6), 2),
        "paths": [f"ecg{number}" for number in range(12)],
    }


def write_wfdb(record: skecg.ECGRecord, folder: Path, name: str) -> None:
    """Write a record in format 16."""
    wfdb.wrsamp(
        name,
        fs=record.sampling_rate,
        units=["mV"] * record.n_leads,
        sig_name=list(record.leads),
        p_signal=record.signal.T.astype(float),
        fmt=["16"] * record.n_leads,
        write_dir=str(folder),
    )


def _write_damaged(folder: Path) -> None:
    """Write a truncated record, one whose header has a name that is none, and a file that is no recording."""
    for name in ("truncated", "renamed"):
        for suffix in (".hea", ".dat"):
            shutil.copy(folder / f"ecg0{suffix}", folder / f"{name}{suffix}")
        header = folder / f"{name}.hea"
        header.write_text(header.read_text().replace("ecg0", name))
    samples = folder / "truncated.dat"
    samples.write_bytes(samples.read_bytes()[:10_000])
    header = folder / "renamed.hea"
    header.write_text(header.read_text().replace("renamed 12", "renamed.mat 12", 1))
    (folder / "notes.doc").write_bytes(b"Seen on Monday.")
    (folder / "download.pth").write_text("<html>Confirm the download</html>")


def _write_weights(folder: Path) -> None:
    """Copy the bundled weights, once cut short and once from the future."""
    bundled = Path(str(files("skecg"))) / "bundled" / "untrained-temporal"
    for name in ("my-weights", "cut-weights", "future-weights"):
        shutil.copytree(bundled, folder / name)
    tensors = folder / "cut-weights" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100_000])
    config = folder / "future-weights" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"skecg_format": 99}))


def _write_checkpoints(folder: Path) -> None:
    """Write checkpoints in the two published formats, of very small encoders, and convert one of them."""
    leadwise = LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=48, depth=1, num_heads=1)
    state = {name: torch.zeros(shape) for name, shape in kim._wanted(leadwise).items()}
    state["pos_embed"] = grid_positions(8, 50, 48).flatten(0, 1).float()
    torch.save({"encoder": state, "epoch": 1}, folder / "multiblock_epoch100.pth")
    convert_kim(folder / "multiblock_epoch100.pth", folder / "kim")

    temporal = TemporalConfig(n_leads=12, patch_samples=25, n_patches=100, dim=16, depth=1, num_heads=1)
    state = {f"target_encoder.{name}": torch.zeros(shape) for name, shape in weimann._wanted(temporal).items()}
    config = {"sampling_frequency": 500, "channels": list(CANONICAL_LEADS), "channel_size": 2500, "patch_size": 25}
    config |= {"dim": 16, "depth": 1, "num_heads": 1, "num_registers": 1, "mlp_ratio": 4.0, "norm_eps": 1e-6}
    torch.save({"model": state, "config": config}, folder / "chkpt_100000.pt")
