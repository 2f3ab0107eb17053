"""Random convolutions: thousands of small random filters, each summed up in three numbers.

References
----------
.. [1] Dempster A., Schmidt D. F., Webb G. I. (2021). MiniRocket: a very fast (almost) deterministic transform for time
       series classification. KDD.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_convolution_features"]

_DILATIONS = (1, 2, 4, 8, 16, 32)
_KERNEL_SAMPLES = 9
_SHARE_OF_LEADS = 0.3
_BATCH = 16


def random_convolution_features(
    signals: NDArray[np.float32], *, n_kernels: int = 84, seed: int = 0
) -> NDArray[np.float32]:
    """Convolve with dilated random kernels and pool, in the manner of MiniRocket.

    Parameters
    ----------
    signals : ndarray of shape (n_windows, n_leads, n_samples)
        Each lead is standardized first.
    n_kernels : int, default=84
        Kernels of nine samples and zero mean for each of six dilations (1 to 32); each looks at about 30 % of the
        leads.
    seed : int, default=0
        Of the kernels.

    Returns
    -------
    ndarray of shape (n_windows, 18 * n_kernels), float32
        Greatest value, share of positive values, and standard deviation of each.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    n_leads = signals.shape[1]
    x = torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float32))
    x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
    pooled = []
    for dilation in _DILATIONS:
        kernels = torch.randn(n_kernels, n_leads, _KERNEL_SAMPLES, generator=generator)
        kernels *= torch.rand(n_kernels, n_leads, 1, generator=generator) < _SHARE_OF_LEADS
        kernels -= kernels.mean(-1, keepdim=True)
        bias = torch.randn(n_kernels, generator=generator)
        parts = []
        with torch.inference_mode():
            for batch in x.split(_BATCH):
                y = torch.nn.functional.conv1d(batch, kernels, bias, dilation=dilation, padding="same")
                parts.append(torch.cat([y.amax(-1), (y > 0).float().mean(-1), y.std(-1)], dim=1))
        pooled.append(torch.cat(parts))
    return np.asarray(torch.cat(pooled, dim=1).numpy())
