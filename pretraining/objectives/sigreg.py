"""SIGReg: how far embeddings are from an isotropic normal distribution, along random directions.

The sketched Epps-Pulley statistic of LeJEPA (Balestriero and LeCun, arXiv:2511.08544), written from its formula: for K
random unit directions the empirical characteristic function of the N projected embeddings is compared with that of
the standard normal, ``T_k = N ∫ |φ̂_k(t) - exp(-t²/2)|² w(t) dt`` over [-3, 3] with w(t) = exp(-t²/2), by the
trapezoidal rule on 17 knots from 0 to 3, doubled; the result is the mean over k.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sigreg"]


def sigreg(embeddings_ND: Tensor, *, n_directions: int = 256, n_knots: int = 17, generator: torch.Generator) -> Tensor:
    """Measure how far embeddings are from an isotropic standard normal distribution.

    Parameters
    ----------
    embeddings_ND : Tensor of shape (N, D)
        One row for each record.
    n_directions, n_knots : int
    generator : torch.Generator
        Where the directions are drawn from (on the CPU, so that every device sees the same).

    Returns
    -------
    Tensor, scalar, float32
        About 1.05 for a perfect standard normal whatever N; 0.40205 N for a collapse to zero.
    """
    directions_DK = torch.randn(embeddings_ND.shape[1], n_directions, generator=generator).to(embeddings_ND.device)
    directions_DK = directions_DK / directions_DK.norm(dim=0, keepdim=True)
    # Sums of cosines lose their digits in bfloat16.
    with torch.autocast(embeddings_ND.device.type, enabled=False):
        projected_NK = embeddings_ND.float() @ directions_DK
        knots_T = torch.linspace(0, 3, n_knots, device=embeddings_ND.device)
        normal_T = torch.exp(-0.5 * knots_T**2)
        angles_TNK = knots_T[:, None, None] * projected_NK
        distance_TK = (angles_TNK.cos().mean(1) - normal_T[:, None]) ** 2 + angles_TNK.sin().mean(1) ** 2
        statistic_K = torch.trapezoid(distance_TK * normal_T[:, None], knots_T, dim=0)
        return 2 * len(embeddings_ND) * statistic_K.mean()  # the other half, from -3 to 0, is the same
