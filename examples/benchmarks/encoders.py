"""How near encoders come to what the processor can multiply, and how they compare with the published structure.

Run ``python examples/benchmarks/encoders.py [--model default] [--passes 5] [--tiny]``. Everything is float32 in one
thread, in processor time, the best of several passes in which all take turns. skecg's encoders are as ``JEPAEmbedder``
runs them.

The first table gives the share of the peak: the model's multiplications and additions, divided by the time and by
what products of 1024 x 1024 matrices reach in the same minute with the faster of torch's two libraries. The second
sets skecg against the two published encoders as they compute on a CPU, rebuilt from their description with the same
weights: torch's own linear layers, all logits and an explicit softmax, for Kim over the 400 x 400 pattern that a loop
makes anew for every pass, all windows of a batch at once.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from encoder_shapes import KIM_B, TINY, TINY_LEADWISE, VIT_S, WEIMANN_S, WEIMANN_XS, frozen
from torch import Tensor, nn
from torch.nn import functional as F

from skecg import load_encoder
from skecg.encoders import Encoder
from skecg.encoders.blocks import Attention, Mlp
from skecg.encoders.linear import Linear, linear, pack_linear_layers_
from skecg.spec import EncoderConfig

if TYPE_CHECKING:
    from collections.abc import Callable


class PublishedAttention(Attention):
    """All logits, then a softmax, then the product."""

    def forward(self, x_BND: Tensor, n_leads: int = 0) -> Tensor:
        q, k, v = self.heads(x_BND)
        logits = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        if n_leads:
            logits = logits.masked_fill(~self.pattern(n_leads, x_BND.shape[1] // n_leads), -torch.inf)
        return self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))

    def pattern(self, n_leads: int, n_patches: int) -> Tensor:
        """Say which tokens see each other; the first block makes it, the others take the first one's."""
        if self.first is self:
            allowed = torch.zeros(n_leads * n_patches, n_leads * n_patches, dtype=torch.bool)
            for lead in range(n_leads):
                allowed[lead * n_patches : (lead + 1) * n_patches, lead * n_patches : (lead + 1) * n_patches] = True
            for instant in range(n_patches):
                allowed[instant::n_patches, instant::n_patches] = True
            self.made = allowed
        return self.first.made


class PublishedMlp(Mlp):
    """Two layers of torch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def as_published(encoder: Encoder) -> Encoder:
    """Give the same weights in the published structure."""
    encoder = copy.deepcopy(encoder)
    first = None
    for module in encoder.modules():
        if isinstance(module, Attention):
            module.__class__ = PublishedAttention
            first = first or module
            module.__dict__["first"] = first  # not a part of the module: the blocks share it
        elif isinstance(module, Mlp):
            module.__class__ = PublishedMlp
        elif isinstance(module, Linear):
            module.__class__ = nn.Linear
    return encoder


def as_embedded(encoder: Encoder, precision: str = "fp32") -> Encoder:
    """Give the encoder as ``JEPAEmbedder`` runs it: with linear layers that are laid out once."""
    encoder = copy.deepcopy(encoder)
    pack_linear_layers_(encoder.blocks, precision)
    return encoder


def gigaflops(config: EncoderConfig, *, per_lead: bool, n_registers: int) -> float:
    """Count the multiplications and additions of a window, in 10⁹: 24 N D² + 4 N K D a block for K keys a token."""
    n_patches, D = config.n_patches, config.dim
    N = n_patches * (config.n_leads if per_lead else 1) + n_registers
    keys = n_patches + config.n_leads if per_lead else N
    embedding = 2 * n_patches * config.n_leads * config.patch_samples * D
    mlp = 4 * D * config.hidden_dim
    return (config.depth * (N * (8 * D * D + mlp) + 4 * N * keys * D) + embedding) / 1e9


def fastest(runs: dict[str, Callable[[], object]], passes: int) -> dict[str, float]:
    """Best processor time of each, taking turns after a pass that does not count."""
    best = dict.fromkeys(runs, float("inf"))
    for number in range(passes + 1):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            best[name] = min(best[name], time.thread_time() - start) if number else best[name]
    return best


def show_shares(models: dict[str, Encoder], sizes: tuple[int, ...], passes: int, side: int) -> None:
    matrix = torch.randn(side, side)
    print(f"{'encoder':<26}{'batch':>6}{'ms a window':>13}{'GFLOP/s':>9}{'peak':>7}{'share':>8}")
    for name, encoder in models.items():
        work = gigaflops(encoder.config, per_lead=encoder.token_per_lead, n_registers=encoder.num_registers)
        # As many windows in a turn whatever their batch, so that each finds the weights as near as the others do.
        x = torch.randn(max(sizes), encoder.config.n_leads, encoder.config.window_samples)
        runs = {
            str(size): lambda size=size, x=x, encoder=encoder: [encoder(part) for part in x.split(size)]
            for size in sizes
        }
        times = fastest({**runs, "peak": lambda: [linear(matrix, matrix) for _ in range(3)]}, passes)
        peak = 3 * 2 * side**3 / times["peak"] / 1e9
        for size in sizes:
            each = times[str(size)] / len(x)
            rate = work / each
            print(f"{name:<26}{size:>6}{each * 1e3:>13.2f}{rate:>9.0f}{peak:>7.0f}{rate / peak:>8.0%}", flush=True)
        latency = times[str(sizes[0])] / min(times[str(size)] for size in sizes)
        print(f"{'':<26}one window alone costs {latency:.2f} times a window of the best batch")


def show_ratios(models: dict[str, Encoder], sizes: dict[str, tuple[int, ...]], passes: int) -> None:
    print(f"\n{'encoder':<26}{'batch':>6}{'published ms':>14}{'skecg ms':>10}{'ratio':>8}{'difference':>12}")
    for name, plain in models.items():
        published, encoder = as_published(plain), as_embedded(plain)
        for size in sizes[name]:
            x = torch.randn(size, encoder.config.n_leads, encoder.config.window_samples)
            off = (encoder(x) - published(x)).abs().max().item()
            runs = {
                "published": lambda x=x, published=published: published(x),
                "skecg": lambda x=x, encoder=encoder: [encoder(part) for part in x.split(8)],
            }
            theirs, ours = (taken / size * 1e3 for taken in fastest(runs, passes).values())
            print(f"{name:<26}{size:>6}{theirs:>14.2f}{ours:>10.2f}{theirs / ours:>7.2f}x{off:>12.0e}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small encoders, to see that it runs")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.inference_mode():
        if given.tiny:
            show_shares({"tiny": frozen(TINY)}, (1, 2), 1, 64)
            pair = {"tiny": frozen(TINY), "tiny leadwise": frozen(TINY_LEADWISE)}
            show_ratios(pair, dict.fromkeys(pair, (1, 9)), 1)
            return
        model = load_encoder(given.model)[0].requires_grad_(False)
        models = {given.model: as_embedded(model), "ViT-S, 100 tokens": as_embedded(frozen(VIT_S))}
        show_shares(models, (1, 4, 8, 16), given.passes, 1024)
        published = {"Weimann XS": frozen(WEIMANN_XS), "Weimann S": frozen(WEIMANN_S), "Kim B": frozen(KIM_B)}
        sizes = {"Weimann XS": (1, 8, 16, 64), "Weimann S": (1, 8, 16), "Kim B": (1, 4)}
        show_ratios(published, sizes, max(2, given.passes // 2))


if __name__ == "__main__":
    main()
