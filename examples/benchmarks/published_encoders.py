"""Other labs' encoders behind ``JEPAEmbedder``, against their networks run record by record.

Run ``python examples/benchmarks/published_encoders.py [--records 32] [--passes 3] [--only xecg merl] [--tiny]``.

Weights are random, shapes those of the released files, recordings of 10 s at 500 Hz. The plain way prepares a record
and runs it through torch's own layers, as the authors' scripts do, with as many threads as torch takes; the network is
rebuilt from its description with the same weights (convolutions over (B, C, T), batch normalization where they have
it). Both take turns in one process. Given are the best times of several passes, of the clock and of the processor, and
the largest difference of their features over the root mean square of all.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skecg import ECGRecord, JEPAEmbedder, load_encoder, prepare, save_encoder
from skecg.encoders import Encoder, build_encoder
from skecg.encoders.blocks import Mlp
from skecg.encoders.convolution import CentredConvolution
from skecg.encoders.linear import Linear
from skecg.encoders.net1d import Net1dConfig, TimeConvolution
from skecg.encoders.resnet import ResnetConfig
from skecg.encoders.wav2vec import Halvings, Wav2vecConfig
from skecg.encoders.xlstm import XlstmConfig
from skecg.leads import CANONICAL_LEADS
from skecg.spec import EncoderConfig, InputSpec

Features = NDArray[np.float32]


class Published(NamedTuple):
    """A released encoder: its shape, a small one of its kind, and its input."""

    config: EncoderConfig
    tiny: EncoderConfig
    spec: InputSpec


_FOUNDER = {"highpass_hz": 0.67, "lowpass_hz": 40.0, "filter_design": "bandpass"}
ENCODERS = {
    "ecgfounder": Published(
        Net1dConfig(12, 5000, 64, (64, 160, 160, 400, 400, 1024, 1024), (2, 2, 2, 3, 3, 4, 4)),
        Net1dConfig(12, 5000, 16, (16, 32), (1, 1)),
        InputSpec(CANONICAL_LEADS, 500, 5000, notch_hz=50.0, baseline_samples=201, normalization="whole", **_FOUNDER),
    ),
    "xecg": Published(
        XlstmConfig(12, 25, 48, 1024, 4, 1344),
        XlstmConfig(12, 25, 48, 32, 2, 64, block_kinds="sm"),
        InputSpec(CANONICAL_LEADS, 100, 1200, any_leads=True, resampling="fourier-nearest"),
    ),
    "ecg-fm": Published(
        Wav2vecConfig(12, 2500, 768, 12, 12, 3072),
        Wav2vecConfig(12, 2500, 32, 1, 2, 64, stem_dim=16, position_kernel=8),
        InputSpec(CANONICAL_LEADS, 500, 2500, resampling="linear", normalization="zscore", remainder="drop"),
    ),
    "merl": Published(
        ResnetConfig(12, 5000),
        ResnetConfig(12, 5000, widths=(16, 32), blocks_per_stage=1),
        InputSpec(CANONICAL_LEADS, 500, 5000, normalization="minmax"),
    ),
    "clef": Published(
        Net1dConfig(1, 5000, 64, (64, 160, 160, 400, 400, 1024, 1024), (2, 2, 2, 3, 3, 4, 4)),
        Net1dConfig(1, 5000, 16, (16, 32), (1, 1)),
        InputSpec(("I",), 500, 5000, filter_order=5, normalization="zscore", any_name=True, **_FOUNDER),
    ),
}


class PublishedTime(TimeConvolution):
    """Zeros, then torch's convolution of (B, C, T)."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        n_steps, kernel = x_BTC.shape[1], self.weight.shape[-1]
        beyond = max(0, (-(-n_steps // self.stride) - 1) * self.stride + kernel - n_steps)
        padded = F.pad(x_BTC.mT.contiguous(), (beyond // 2, beyond - beyond // 2))
        return F.conv1d(padded, self.weight, self.bias, self.stride, groups=self.groups).mT


class PublishedCentred(CentredConvolution):
    """Torch's convolution of (B, C, T), then batch normalization that changes nothing."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        convolved = F.conv1d(x_BTC.mT.contiguous(), self.weight, None, self.stride, padding)
        zeros, ones = torch.zeros_like(self.bias), torch.ones_like(self.bias)
        return F.batch_norm(convolved, zeros, ones, ones, self.bias, eps=0.0).mT


class PublishedHalvings(Halvings):
    """Torch's convolutions of (B, C, T)."""

    def forward(self, values_BLT: Tensor) -> Tensor:
        x_BCT = values_BLT
        for number, layer in enumerate(self.layers):
            x_BCT = F.conv1d(x_BCT, layer.weight.unflatten(1, (2, -1)).mT.contiguous(), stride=2)
            x_BCT = F.gelu(self.norm(x_BCT) if number == 0 else x_BCT)
        return x_BCT.mT


class PublishedMlp(Mlp):
    """Two layers of torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


_PLAIN = {
    Mlp: PublishedMlp,
    Linear: nn.Linear,
    TimeConvolution: PublishedTime,
    CentredConvolution: PublishedCentred,
    Halvings: PublishedHalvings,
}


def as_published(encoder: Encoder) -> Encoder:
    """Give the same weights in torch's own layers."""
    for module in encoder.modules():
        module.__class__ = _PLAIN.get(type(module), module.__class__)
    return encoder


def recordings(n_records: int, n_leads: int) -> NDArray[np.float32]:
    """Beats of three bumps at a rate of their own, with noise: (n_records, n_leads, 5000) millivolts."""
    rng = np.random.default_rng(0)
    phase = (np.arange(5000) / 500 * rng.uniform(0.9, 1.6, (n_records, 1, 1))) % 1
    bumps = ((0.15, 0.2, 0.02), (1.0, 0.4, 0.01), (0.3, 0.7, 0.04))
    beats = sum(size * np.exp(-0.5 * ((phase - place) / width) ** 2) for size, place, width in bumps)
    gains = rng.uniform(0.3, 1.2, (1, n_leads, 1))
    return (gains * beats + rng.normal(0, 0.02, (n_records, n_leads, 5000))).astype(np.float32)


def one_by_one(encoder: Encoder, spec: InputSpec, X: NDArray[np.float32]) -> Features:
    """Prepare and encode record after record."""
    features = []
    for signal in X:
        windows = prepare([ECGRecord(signal, 500, spec.leads)], spec)
        values = torch.from_numpy(windows.values[:, :, : windows.valid_samples[0]])
        with torch.inference_mode():
            features.append(encoder(values).mean(dim=1).mean(dim=0).numpy())
    return np.stack(features)


class Times(NamedTuple):
    """Seconds of the clock and of the processor, and what came out."""

    clock: float
    processor: float
    features: Features


def best_of(runs: dict[str, Callable[[], Features]], passes: int) -> dict[str, Times]:
    """Best times of each, taking turns after a pass that does not count."""
    best: dict[str, Times] = {}
    for number in range(passes + 1):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            features = run()
            now = Times(time.perf_counter() - clock, time.process_time() - processor, features)
            known = best.get(name)
            if number <= 1 or known is None:
                best[name] = now
            else:
                best[name] = Times(min(now.clock, known.clock), min(now.processor, known.processor), features)
    return best


def measure(name: str, published: Published, X: NDArray[np.float32], passes: int, *, tiny: bool) -> None:
    """Print a row for each precision."""
    torch.manual_seed(0)
    spec = published.spec
    X = X[:, : spec.n_leads]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, name)
        save_encoder(weights, build_encoder(published.tiny if tiny else published.config).eval(), spec)
        embedders = {
            precision: JEPAEmbedder(
                weights, sampling_rate=500, leads=list(spec.leads), cache=None, precision=precision
            ).fit(X)
            for precision in ("fp32", "bf16")
        }
        plain = as_published(load_encoder(weights)[0])
        runs: dict[str, Callable[[], Features]] = {"plain": lambda: one_by_one(plain, spec, X)}
        runs |= {precision: lambda e=embedder: e.transform(X) for precision, embedder in embedders.items()}
        times = best_of(runs, passes)
    wanted, n = times["plain"], len(X)
    size = np.sqrt(np.mean(np.square(wanted.features)))
    for precision in embedders:
        found = times[precision]
        print(
            f"{name:<12}{precision:<6}{1e3 * wanted.clock / n:>10.1f}{1e3 * found.clock / n:>8.1f}"
            f"{wanted.clock / found.clock:>7.2f}{1e3 * wanted.processor / n:>12.1f}{1e3 * found.processor / n:>8.1f}"
            f"{wanted.processor / found.processor:>7.2f}{np.abs(found.features - wanted.features).max() / size:>12.1e}",
            flush=True,
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(ENCODERS), default=list(ENCODERS))
    parser.add_argument("--tiny", action="store_true", help="small networks and few records, to see that it runs")
    arguments = parser.parse_args(argv)
    X = recordings(3 if arguments.tiny else arguments.records, 12)
    print(f"{torch.get_num_threads()} threads; milliseconds a record of 10 s, of the clock and of the processor")
    print(
        f"{'encoder':<18}{'plain':>10}{'skecg':>8}{'ratio':>7}{'plain':>12}{'skecg':>8}{'ratio':>7}{'difference':>12}"
    )
    for name in arguments.only:
        measure(name, ENCODERS[name], X, arguments.passes, tiny=arguments.tiny)


if __name__ == "__main__":
    main()
