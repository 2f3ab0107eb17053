"""An encoder of the same shape whose weights are random: what training has to add to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from skecg.encoders import build_encoder
from skecg.weights import save_encoder

if TYPE_CHECKING:
    from skecg.weights import WeightsInfo

__all__ = ["write_untrained_twin"]


def write_untrained_twin(info: WeightsInfo, folder: str | Path, *, seed: int = 0) -> Path:
    """Write a weights folder with the architecture, input and pooling of another, and freshly drawn weights.

    Parameters
    ----------
    info : WeightsInfo
        The weights to be like.
    folder : str or Path
        Where to write it.
    seed : int, default=0
        Of the weights, drawn as they are before pre-training.

    Returns
    -------
    Path
        The folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(info.encoder)
    about = {"name": f"untrained, seed {seed}", "trained": False, "licence": "Apache-2.0", "data": "none"}
    save_encoder(folder, encoder.eval(), info.spec, pooling=info.pooling, **about)
    return Path(folder)
