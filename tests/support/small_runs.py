"""A run of seconds: few short synthetic records, a tiny encoder."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretraining.config import (
    DataConfig,
    MaskConfig,
    ObjectiveConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    RunConfig,
    WatchConfig,
)
from pretraining.config.parts import MASK_LAW
from pretraining.data.corpora import open_corpus
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet
from skecg.datasets import make_ecg
from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig

CHECKOUT = Path(__file__).resolve().parents[2]
LEADS = ("I", "II", "V1")
SAMPLES, PATCHES = 200, 20


def small_config(kind: str = "temporal", **changes: Any) -> PretrainConfig:
    """Six steps of eight records; further parts are replaced, single fields as ``part__field``."""
    encoder = {"temporal": TemporalConfig, "leadwise": LeadwiseConfig}[kind](3, 10, PATCHES, 16, 2, 2)
    config = PretrainConfig(
        name="small",
        input=InputSpec(LEADS, 100.0, SAMPLES, normalization="zscore", clip=5.0),
        encoder=encoder,
        predictor=PredictorConfig(8, 2, 2),
        masks=MaskConfig("blocks", 0.2, 0.4, min_block=3),
        objective=ObjectiveConfig(),
        optim=OptimConfig(lr=1e-2, gradient_clip=1.0, warmup_steps=2),
        data=DataConfig(roll=True, gain=(0.8, 1.25)),
        run=RunConfig(steps=6, batch_size=8),
        watch=WatchConfig(log_every=1, gauge_every=0, checkpoint_every=3),
    )
    for name, value in changes.items():
        part, _, field = name.partition("__")
        new = dataclasses.replace(getattr(config, part), **{field: value}) if field else value
        config = dataclasses.replace(config, **{part: new})
    return config


def small_shards(folder: Path, n_records: int = 32, seed: int = 0) -> ShardSet:
    """Pack synthetic records of two seconds."""
    records, _ = make_ecg(n_records, duration_seconds=2.0, sampling_rate=100.0, random_state=seed)
    folder.mkdir(parents=True, exist_ok=True)
    steps = np.stack([np.rint(record.signal * 1e3) for record in records]).astype(np.int16)
    np.savez(folder / "small.npz", signals=steps, lsb=1e-3, units="mV", fs=100.0, leads=list(records[0].leads))
    corpus = open_corpus("small", folder / "small.npz")
    return pack([corpus], folder / "shards", sampling_rate=100.0, segment_seconds=2.0, n_jobs=1, progress=False)


def small_state(config: PretrainConfig, **changes: Any) -> dict[str, Any]:
    """What a checkpoint of a run holds, but for its tensors."""
    state: dict[str, Any] = {"model": {}, "optimizer": {}, "step": 1, "config": config.to_dict(), "fingerprint": "ab12"}
    state |= {"probe": {"history": []}, "gauges": [], "losses": [], "last_loss": None, "torch": str(torch.__version__)}
    return state | {"world_size": 1, "mask_law": MASK_LAW} | changes


def assert_same_bits(ours: Any, theirs: Any, name: str = "") -> None:
    """Compare nested plain values and tensors, bit for bit."""
    assert type(ours) is type(theirs), name
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), name
        for key in ours:
            assert_same_bits(ours[key], theirs[key], f"{name}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), name
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_bits(a, b, f"{name}.{number}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), name
    else:
        assert ours == theirs, name


def start_process(script: str, *arguments: str, rank: int = 0, world_size: int = 1, port: int = 0) -> Any:
    """Start Python on a script as torchrun would."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in place.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(CHECKOUT), str(Path(__file__).parent), str(CHECKOUT / "tests" / "pretraining")]
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
