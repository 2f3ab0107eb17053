"""All encoders again, in plain numpy and float64, from the definitions: one dense softmax over the tokens that may be
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
    if config.architecture == "multiscale":
        return encode_multiscale(encoder, state, x, list(leads), visible, depth)
    if config.architecture == "dual":
        tokens = encode_multiscale(encoder, state, x, list(leads), visible, depth)
        if depth not in (None, config.depth):
            return tokens
        parts = [tokens, encode_residual(config, state, patches, list(leads), visible)]
        if config.lead_energies is not None:
            parts.append(encode_energies(config, patches, list(leads), visible))
        return np.concatenate(parts, axis=1)
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


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """Lay kernels (C, rows, width) on x (rows, T), each about the middle of its stride, zeros beyond the ends."""
    reach = (weight.shape[2] - stride) // 2
    padded = np.pad(x, ((0, 0), (reach, reach)))
    starts = range(0, x.shape[1], stride)
    return np.array(
        [
            [np.sum(padded[:, s : s + weight.shape[2]] * w) + b for s in starts]
            for w, b in zip(weight, bias, strict=True)
        ]
    )


def encode_multiscale(encoder: Encoder, state, x, leads, visible, depth) -> np.ndarray:
    """Tokens of all leads, absent ones being zero, or of the leads given; a token number counts among those."""
    config = encoder.config
    n_patches, stride = x.shape[1] // config.patch_samples, config.stride_samples
    if config.lead_groups == 1:
        present = np.zeros((len(x), 1))
        present[leads] = 1.0
        groups = [x * present]
        positions = [temporal_position(i, config.dim) for i in range(n_patches)]
    else:
        groups = [x[[lead]] for lead in leads]
        positions = [leadwise_position(lead, i, config.dim) for lead in leads for i in range(n_patches)]
    seen = range(len(positions)) if visible is None else [number for number in visible if number >= 0]
    hidden = np.ones((len(groups), n_patches), dtype=bool)
    hidden.flat[list(seen)] = False
    rows = []
    offset: np.ndarray | float = 0.0
    for group, silent in zip(groups, hidden, strict=True):
        group = np.where(np.repeat(silent, config.patch_samples), 0.0, group)
        if config.scale_floor is not None:
            n_seen = (~silent).sum() * config.patch_samples
            scale = np.sqrt((group**2).sum(axis=1) / n_seen + config.scale_floor**2)
            group, offset = (
                group / scale[:, None],
                np.log(scale / config.scale_floor) @ state["amplitude_embed.weight"].T,
            )
        maps = [
            convolve(group, state[f"scales.{i}.weight"], state[f"scales.{i}.bias"], stride)
            for i in range(len(config.kernel_samples))
        ]
        joined = np.concatenate(maps)  # (C, n_patches · S)
        joined = joined * 0.5 * (1 + erf(joined / np.sqrt(2)))
        places = config.patch_samples // stride
        rows += [joined[:, i * places : (i + 1) * places].ravel() for i in range(n_patches)]
    tokens = np.add([linear(rows[number], state, "patch_embed") for number in seen], [positions[n] for n in seen])
    tokens = tokens + offset
    tokens = np.concatenate([state["registers"], tokens])
    for number in range(config.depth if depth is None else depth):
        tokens = block(tokens, state, number, config, np.ones((len(tokens), len(tokens)), dtype=bool))
    return layer_norm(tokens, state, "norm", config.norm_eps)


def centred_convolution(x: np.ndarray, state: dict[str, np.ndarray], name: str, stride: int = 1) -> np.ndarray:
    """Lay kernels on x (rows, T), each about every stride-th place from the first, zeros beyond the ends."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (reach, reach)))
    starts = range(0, x.shape[1], stride)
    return np.array([np.einsum("oik,ik->o", weight, padded[:, s : s + weight.shape[2]]) + bias for s in starts]).T


def encode_energies(config, patches, leads, visible) -> np.ndarray:
    """How much of each lead's energy lies in each visible slice, flat leads filled from the others, registers first."""
    chosen = list(range(patches.shape[1]) if visible is None else visible)
    rows, presence = np.zeros((len(chosen), len(patches))), np.zeros(len(patches))
    for lead in leads:
        energy = (patches[lead, chosen] ** 2).mean(axis=1)
        share = energy / (energy.mean() + config.scale_floor**2)
        rows[:, lead], presence[lead] = np.log1p(share), share.mean()
    others = [np.average(row, weights=presence) if presence.any() else 0.0 for row in rows]
    rows += config.lead_energies * np.outer(others, 1 - presence)
    return np.concatenate([np.repeat(rows.mean(axis=0, keepdims=True), config.num_registers, axis=0), rows])


def encode_residual(config, state, patches, leads, visible) -> np.ndarray:
    """What the residual convolutions of the dual encoder say of visible slices put side by side, registers first."""
    chosen = list(range(patches.shape[1]) if visible is None else visible)
    x = np.zeros((len(patches), len(chosen) * config.patch_samples))
    x[leads] = patches[leads][:, chosen].reshape(len(leads), -1)
    scale = np.sqrt((x**2).mean(axis=1) + config.scale_floor**2)
    amplitudes = np.log(scale / config.scale_floor) @ state["residual.amplitude_embed.weight"].T
    x = centred_convolution(x / scale[:, None], state, "residual.stem", config.residual_stride)
    x = np.maximum(x + amplitudes[:, None], 0)
    strides = [1, config.patch_samples // config.residual_stride] + [1] * len(config.residual_widths)
    number = 0
    for n_blocks, stride in zip(config.residual_blocks, strides, strict=False):
        for step in [stride] + [1] * (n_blocks - 1):
            name = f"residual.levels.{number}."
            y = layer_norm(x.T, state, f"{name}norm", config.norm_eps).T
            y = centred_convolution(
                np.maximum(centred_convolution(y, state, f"{name}conv1", step), 0), state, f"{name}conv2"
            )
            has_shortcut = f"{name}shortcut.weight" in state
            x = y + (centred_convolution(x, state, f"{name}shortcut", step) if has_shortcut else x)
            number += 1
    x = np.concatenate([np.repeat(x.mean(axis=1, keepdims=True), config.num_registers, axis=1), x], axis=1)
    return layer_norm(x.T, state, "residual.norm", config.norm_eps)
