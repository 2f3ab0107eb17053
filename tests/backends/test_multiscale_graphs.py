"""The multiscale encoder as a graph: any number of windows, any length, any leads."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from skecg.backends.onnx import LEADS, WINDOWS, states_graph
from skecg.encoders import build_encoder
from skecg.spec import MultiscaleConfig

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)


# A token for all leads is in the graph of the dual encoder, tests/encoders/test_dual.py.
@pytest.mark.slow
def test_the_graph_gives_the_encoders_tokens_for_any_windows_and_leads() -> None:
    import onnxruntime

    torch.manual_seed(0)
    shape = MultiscaleConfig(4, 10, 6, 24, 1, 2, lead_groups=4, kernel_samples=(5, 7, 25), stem_dim=3)
    encoder = build_encoder(shape).eval().requires_grad_(False)
    leads = [1, 3]
    session = onnxruntime.InferenceSession(states_graph(encoder, (0,), some_leads=True))
    for n_windows, n_samples in ((2, 60), (5, 30), (1, 10)):
        windows = torch.randn(n_windows, 4, n_samples, generator=torch.Generator().manual_seed(1))
        feed = {WINDOWS: windows.numpy(), LEADS: np.array(leads)}
        assert np.abs(session.run(None, feed)[0] - encoder(windows, leads=leads).numpy()).max() < 1e-5
