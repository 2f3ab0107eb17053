"""Both encoders again, in plain numpy and float64, from the definitions: one dense softmax over the tokens that may be
seen. Slow and short, to hold the real ones against."""

from __future__ import annotations

import numpy as np
from scipy.special import erf, softmax

from skecg.encoders import Encoder


def cropa_rule(grid: list[tuple[int, int]]) -> np.ndarray:
    """Say which of the tokens (lead, instant) may see which: those of the same lead or of the same instant."""
    return np.array([[a[0] == b[0] or a[1] == b[1] for b in grid] for a in grid])


def attention(
    x: np.ndarray, state: dict[str, np.ndarray], prefix: str, num_heads: int, allowed: np.ndarray
) -> np.ndarray:
    """Dense attention (N, D) -> (N, D) in which token a sees token b where allowed[a, b]."""
    n_tokens, dim = x.shape
    q, k, v = (x @ state[f"{prefix}qkv.weight"].T).reshape(n_tokens, 3, num_heads, -1).transpose(1, 2, 0, 3)
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(dim // num_heads)
    weights = softmax(np.where(allowed, logits, -np.inf), axis=-1)
    return linear((weights @ v).transpose(1, 0, 2).reshape(n_tokens, dim), state, f"{prefix}proj")


def linear(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)


def layer_norm(x: np.ndarray, state: dict[str, np.ndarray], name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state.get(f"{name}.bias", 0.0)


def block(x: np.ndarray, state: dict[str, np.ndarray], number: int, config, allowed: np.ndarray) -> np.ndarray:
    name = f"blocks.{number}."
    x = x + attention(
        layer_norm(x, state, f"{name}norm1", config.norm_eps), state, f"{name}attn.", config.num_heads, allowed
    )
    hidden = linear(layer_norm(x, state, f"{name}norm2", config.norm_eps), state, f"{name}mlp.fc1")
    return x + linear(hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))), state, f"{name}mlp.fc2")


def angles(position: int, dim: int) -> np.ndarray:
    return position * 10000.0 ** (-np.arange(dim // 2) / (dim // 2))


def temporal_position(position: int, dim: int) -> np.ndarray:
    """Sine and cosine take turns."""
    row = np.empty(dim)
    row[0::2], row[1::2] = np.sin(angles(position, dim)), np.cos(angles(position, dim))
    return row


def leadwise_position(lead: int, instant: int, dim: int) -> np.ndarray:
    """Sines then cosines of the instant, sines then cosines of the lead."""
    t, c = angles(instant, dim // 2), angles(lead, dim // 2)
    return np.concatenate([np.sin(t), np.cos(t), np.sin(c), np.cos(c)])


def encode(encoder: Encoder, window, leads=None, visible=None, depth=None) -> np.ndarray:
    """Encode one window (n_leads, n_samples) to tokens (N, D)."""
    config = encoder.config
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in encoder.state_dict().items()}
    x = np.asarray(window, dtype=np.float64)
    patches = x.reshape(len(x), -1, config.patch_samples)
    leads = range(len(x)) if leads is None else leads
    visible = range(patches.shape[1]) if visible is None else visible
    depth = config.depth if depth is None else depth
    if config.architecture == "leadwise":
        grid = [(c, i) for c in leads for i in visible]
        tokens = np.array([linear(patches[c, i], state, "patch_embed") for c, i in grid])
        positions = np.array([leadwise_position(c, i, config.dim) for c, i in grid])
        for number in range(depth):
            tokens = block(tokens + positions, state, number, config, cropa_rule(grid))
    else:
        present = np.zeros((len(x), 1))
        present[list(leads)] = 1.0
        rows = [linear((patches[:, i] * present).ravel(), state, "patch_embed") for i in visible]
        positions = [temporal_position(i, config.dim) for i in visible]
        tokens = np.concatenate([state["registers"], np.add(rows, positions)])
        for number in range(depth):
            tokens = block(tokens, state, number, config, np.ones((len(tokens), len(tokens)), dtype=bool))
    return layer_norm(tokens, state, "norm", config.norm_eps)
