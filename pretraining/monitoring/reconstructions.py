"""What a masked autoencoder makes of recordings, as a picture: seen, hidden and reconstructed on ECG paper.

Shapes: n recordings, L leads, T samples, P slices of time, S samples of a patch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.config import DataConfig, PretrainConfig
from pretraining.config.objectives import MaeConfig
from pretraining.data.batches import to_values
from pretraining.data.shards import open_shards
from pretraining.loader import draw_training_batch
from pretraining.objectives import build_model
from pretraining.objectives.mae import Mae, parts_of, patch_moments
from pretraining.objectives.masks import TokenMasks, draw_token_masks
from pretraining.runs import as_configured, checkpoints_of, load_checkpoint, read_config, read_data
from skecg.datasets import make_ecg
from skecg.errors import ParameterError, SkecgError
from skecg.plotting import plot_ecg
from skecg.plotting.axes import import_matplotlib
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from skecg.spec import InputSpec

__all__ = ["Reconstruction", "draw_reconstructions", "reconstruct"]

FloatArray = NDArray[np.float32]

# Wong (2011), Nature Methods 8:441.
_RECONSTRUCTED, _HIDDEN = "#0072B2", "0.55"
_MM_PER_INCH, _FOOT_MM = 25.4, 10.0
_TITLE_MM, _SIDE_MM, _HEAD_MM = 9.0, 4.0, 9.0


class Reconstruction(NamedTuple):
    """A recording, which of its samples were hidden, and what was made of them.

    Parameters
    ----------
    record : ECGRecord
        In millivolts where the input's normalization can be undone.
    hidden : ndarray of shape (n_leads, n_samples), bool
    samples : ndarray of shape (n_leads, n_samples), float32
        NaN where nothing was hidden.
    loss : float
        The recording's.
    """

    record: ECGRecord
    hidden: NDArray[np.bool_]
    samples: FloatArray
    loss: float


def draw_reconstructions(
    folder: str | Path, out: str | Path, *, data: str | Path | None = None, n_records: int = 3
) -> Path:
    """Draw some recordings with what was hidden of them and what the newest checkpoint of a run makes of that.

    Parameters
    ----------
    folder : path-like
        The run's; its objective is a masked autoencoder.
    out : path-like
        The picture. Its ending decides the format.
    data : path-like, optional
        Shards to take recordings from. When not given, those that the run was trained on, where they still are;
        otherwise synthetic recordings.
    n_records : int, default=3

    Returns
    -------
    Path

    Raises
    ------
    ParameterError
        When the folder holds no run, or one of another objective.
    CheckpointError
        When it has no checkpoint.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.objective.kind != MaeConfig.kind:
        raise ParameterError(f"Got a run of {config.objective.kind!r}, expected a masked autoencoder ('mae').")
    state = load_checkpoint(checkpoints_of(folder))
    with as_configured(folder, state["step"]):
        model = build_model(config, state["model"])
    assert isinstance(model, Mae)
    values, masks, origin = _recordings(folder, config, data, n_records)
    found = reconstruct(model, values, masks, config.input)
    figure = _draw(found, f"{config.name}: step {state['step']:,}; {origin}", config)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


@torch.inference_mode()
def reconstruct(model: Mae, values_nLT: Tensor, masks: TokenMasks, spec: InputSpec) -> list[Reconstruction]:
    """Reconstruct what is hidden of windows.

    A model is asked for normalized patches only, so each gets the mean and the deviation of what was hidden.

    Parameters
    ----------
    model : Mae
    values_nLT : Tensor of shape (n, L, T)
        Prepared windows.
    masks : TokenMasks
    spec : InputSpec
        Of the windows.

    Returns
    -------
    list of Reconstruction
    """
    model.eval()
    mean, deviation = patch_moments(values_nLT, model.patch_samples, model.objective.target_eps)
    samples = (model.reconstruct(values_nLT, masks).float() * deviation + mean).flatten(2)
    hidden = masks.asked.repeat_interleave(model.patch_samples, dim=2)
    samples = samples.masked_fill(~hidden, torch.nan)
    losses = [float(model(values_nLT[[row]], masks.take(slice(row, row + 1))).total) for row in range(len(values_nLT))]
    rows = zip(*(_millivolts(values, spec) for values in (values_nLT, samples)), hidden.numpy(), losses, strict=True)
    return [
        Reconstruction(ECGRecord(signal, spec.sampling_rate, spec.leads), where, made, loss)
        for signal, made, where, loss in rows
    ]


def _millivolts(values_nLT: Tensor, spec: InputSpec) -> FloatArray:
    """Undo the normalization where that can be done."""
    values = values_nLT.numpy()
    if spec.std is None or spec.mean is None:
        return values
    mean, std = (np.array(numbers, dtype=np.float32)[:, None] for numbers in (spec.mean, spec.std))
    return values * std + mean


def _recordings(
    folder: Path, config: PretrainConfig, data: str | Path | None, n_records: int
) -> tuple[Tensor, TokenMasks, str]:
    """Return windows with all leads, never trained on as such, what is hidden of them, and where they are from."""
    whole = dataclasses.replace(config, data=DataConfig(weights=config.data.weights))
    place = data if data is not None else _shards_of(folder, config)
    if place is not None:
        shards = open_shards(place)
        # The step after the last: the same data, in a draw that the run never saw.
        part = draw_training_batch(whole, shards, config.run.steps, range(n_records))
        return to_values(part.batch, whole, "cpu"), part.drawn, "recordings of its data" if data is None else str(data)
    spec, (objective, shape, _) = config.input, parts_of(config)
    window: dict[str, Any] = {"sampling_rate": spec.sampling_rate, "duration_seconds": spec.window_seconds}
    records = make_ecg(n_records, leads=spec.leads, noise=0.02, random_state=0, **window).records
    values = torch.from_numpy(prepare(records, spec).values)
    there = np.ones((n_records, spec.n_leads, shape.n_patches), dtype=np.bool_)
    key = {"seed": config.run.seed, "step": config.run.steps}
    masks = draw_token_masks(objective.masks, objective.ratio, there, shape.lead_groups, range(n_records), **key)
    return values, masks, "synthetic recordings (its data is no longer where it was)"


def _shards_of(folder: Path, config: PretrainConfig) -> Path | None:
    """Find the shards that a run was trained on, if they still are where they were."""
    known = read_data(folder, config)
    if "folder" not in known:
        return None
    try:
        shards = open_shards(known["folder"])
    except SkecgError:
        return None
    # By content: other recordings in the same folder are not what it was trained on.
    return shards.folder if shards.fingerprint == known.get("fingerprint") else None


def _draw(found: list[Reconstruction], title: str, config: PretrainConfig) -> Any:
    """Draw the recordings beneath each other, each on paper of its own."""
    sizes = [_paper_mm(one.record) for one in found]
    width = max(size[0] for size in sizes) + 2 * _SIDE_MM
    height = sum(size[1] + _TITLE_MM for size in sizes) + _HEAD_MM + _FOOT_MM
    # Not pyplot, which keeps figures alive and asks for a display.
    figure = import_matplotlib("figure").Figure(figsize=(width / _MM_PER_INCH, height / _MM_PER_INCH), dpi=130)
    top = height - _HEAD_MM
    for number, (one, (paper_width, paper_height)) in enumerate(zip(found, sizes, strict=True), start=1):
        top -= _TITLE_MM + paper_height
        box = (_SIDE_MM / width, top / height, paper_width / width, paper_height / height)
        heading = f"Recording {number}: error {one.loss:.2f} of the normalized patches"
        _draw_one(figure.add_axes(box), one, heading)
    figure.text(_SIDE_MM / width, 1 - 3 / height, title, va="top", fontweight="bold", fontsize=13)
    _write_legend(figure, config, _SIDE_MM / width, 1.5 / height)
    return figure


def _paper_mm(record: ECGRecord) -> tuple[float, float]:
    """Find how large the paper of a recording is, 25 mm a second and 10 mm a millivolt."""
    ax = plot_ecg(record)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    return 25.0 * (right - left), 10.0 * (top - bottom)


def _draw_one(ax: Axes, one: Reconstruction, heading: str) -> None:
    """Draw a recording, pale where it was hidden, and over it what was made of that."""
    plot_ecg(one.record, ax=ax, title=heading)
    ax.texts[-1].set_visible(False)  # the note of speed and gain, which would stand in the paper below
    rate = one.record.sampling_rate
    for line in [line for line in ax.lines if line.get_label() in one.record.leads]:
        lead = one.record.leads.index(line.get_label())
        seconds, drawn = (np.asarray(part, dtype=np.float64) for part in line.get_data())
        shown = slice(first := round(seconds[0] * rate), first + len(seconds))
        hidden, signal = one.hidden[lead, shown], one.record.signal[lead, shown]
        lift = float(np.median(drawn - signal))  # from the signal to where it is drawn
        line.set_ydata(np.where(hidden, np.nan, drawn))
        ax.plot(seconds, np.where(_widened(hidden), drawn, np.nan), color=_HIDDEN, linewidth=0.8, zorder=2.8)
        made = np.where(hidden, one.samples[lead, shown], np.nan)
        ax.plot(seconds, made + lift, color=_RECONSTRUCTED, linewidth=1.1, zorder=3.2)
        _shade(ax, seconds, hidden, float(np.median(drawn)), 1.0 / rate)


def _widened(hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Widen hidden stretches by a sample on either side, so that no gap is left in the curve."""
    return hidden | np.append(hidden[1:], False) | np.append(False, hidden[:-1])


def _shade(ax: Axes, seconds: NDArray[np.float64], hidden: NDArray[np.bool_], level: float, sample: float) -> None:
    """Lay a band behind hidden stretches of a strip."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hidden, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    spans = [(seconds[begin], (end - begin) * sample) for begin, end in zip(begins, ends, strict=True)]
    ax.broken_barh(spans, (level - 0.35, 0.7), facecolor=_RECONSTRUCTED, alpha=0.10, linewidth=0, zorder=1)


def _write_legend(figure: Any, config: PretrainConfig, x: float, y: float) -> None:
    """Write beneath what the colours mean."""
    line = import_matplotlib("lines").Line2D
    objective = parts_of(config)[0]
    what = {"time": "slices of time", "leads": "leads", "both": "patches"}[objective.masks]
    handles = [
        line([], [], color="#14181f", linewidth=1.2, label="seen"),
        line([], [], color=_HIDDEN, linewidth=1.2, label=f"hidden ({100 * objective.ratio:g} % of the {what})"),
        line(
            [],
            [],
            color=_RECONSTRUCTED,
            linewidth=1.4,
            label="reconstructed, at the mean and deviation of what was hidden",
        ),
    ]
    unit = "25 mm/s    10 mm/mV" if config.input.std is not None else "25 mm/s    10 mm for 1 (normalized)"
    handles.append(line([], [], linestyle="none", label=unit))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(x, y), ncols=4, frameon=False, fontsize=9)
