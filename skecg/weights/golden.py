"""Golden vectors: what an encoder gave for two known records when its weights were written.

They lie beside the weights, so that any machine can check that its installation gives the same numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from skecg.encoders import Encoder
from skecg.encoders.encode import Encoding, encode_windows
from skecg.errors import DamagedWeightsError
from skecg.preprocessing.quality import Policies, screen
from skecg.preprocessing.windows import prepare_screened
from skecg.records import ECGRecord
from skecg.spec import InputSpec
from skecg.weights.directions import read_directions
from skecg.weights.folder import (
    GOLDEN_NAME,
    WeightsInfo,
    altered_config,
    load_tensors,
    read_metadata,
    read_state,
    save_tensors,
)

__all__ = ["Verification", "verify_weights", "write_golden"]

#: How far features may be from the golden ones, as a share of their root mean square, in float32 on any machine.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """How a machine's features compare with the golden ones.

    Parameters
    ----------
    name : str
        What was verified.
    largest_error : float
        Largest absolute difference over the root mean square of the golden features.
    tolerance : float
        What it may be.
    """

    name: str
    largest_error: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the features agree."""
        return self.largest_error <= self.tolerance

    def __str__(self) -> str:
        verdict = "agrees with" if self.passed else "DIFFERS from"
        return (
            f"{self.name}: this machine {verdict} the golden features "
            f"(largest error {self.largest_error:.1e} of their size, allowed {self.tolerance:.0e})"
        )


def write_golden(info: WeightsInfo, encoder: Encoder) -> None:
    """Write ``golden.safetensors``: two records in microvolts, and their features."""
    import torch

    # Stored and not made anew when verifying: sines differ in their last bits between machines.
    microvolts = [_synthetic_microvolts(info.spec, rate, seconds) for rate, seconds in _records_of(info.spec)]
    tensors = {f"microvolts_{i}": torch.from_numpy(x) for i, x in enumerate(microvolts)}
    tensors["features"] = torch.from_numpy(_features(info, encoder, microvolts))
    # The input, too: these two records look the same to many, such as one that drops the rest of a long record.
    said = {"pooling": info.pooling, "input": json.dumps(info.spec.to_dict(), sort_keys=True)}
    save_tensors(info.folder / GOLDEN_NAME, tensors, said)


def verify_weights(info: WeightsInfo) -> Verification:
    """Embed the golden records on this machine's CPU and compare.

    Raises
    ------
    DamagedWeightsError
        When the weights, their directions or the golden vectors are missing or damaged, or were written for another
        input than ``config.json`` says.
    """
    if info.directions_sha256 is not None:
        read_directions(info)
    tensors = {name: tensor.numpy() for name, tensor in load_tensors(info.folder / GOLDEN_NAME).items()}
    if not {"microvolts_0", "microvolts_1", "features"} <= tensors.keys():
        raise DamagedWeightsError(f"{info.folder / GOLDEN_NAME} holds no golden vectors. Fetch the weights again.")
    _check_input(info)
    for name, (rate, seconds) in zip(("microvolts_0", "microvolts_1"), _records_of(info.spec), strict=True):
        wanted_shape = (info.spec.n_leads, round(seconds * rate))
        if tensors[name].shape != wanted_shape or tensors[name].dtype != np.int16:
            raise DamagedWeightsError(
                f"{info.folder / GOLDEN_NAME} has {name} of {tensors[name].dtype} {tensors[name].shape}, expected "
                f"int16 {wanted_shape}. Fetch the weights again."
            )
    # The encoder read anew, not one that the process has packed for speed.
    found = _features(info, read_state(info), [tensors["microvolts_0"], tensors["microvolts_1"]])
    wanted = tensors["features"]
    if found.shape != wanted.shape:
        raise DamagedWeightsError(
            f"{info.folder / GOLDEN_NAME} has features of shape {wanted.shape}, the weights give {found.shape}. "
            "Fetch the weights again."
        )
    error = float(np.abs(found - wanted).max() / np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
    return Verification(str(info.provenance.get("name") or info.folder), error)


def _check_input(info: WeightsInfo) -> None:
    """Raise where golden vectors say that they were written for another input."""
    path = info.folder / GOLDEN_NAME
    said = read_metadata(path).get("input")
    if said is None:  # written before they said so
        return
    try:
        written = InputSpec.from_dict(json.loads(said))
    except (ValueError, RecursionError) as error:
        raise DamagedWeightsError(f"{path} has a damaged input ({error}). Fetch the weights again.") from error
    for field in fields(InputSpec):
        then, now = getattr(written, field.name), getattr(info.spec, field.name)
        if then != now:
            raise altered_config(path, info, f"{field.name}={then!r}", repr(now))


def _records_of(spec: InputSpec) -> tuple[tuple[float, float], tuple[float, float]]:
    """Rate and duration of the records: a whole window at twice the rate, and a short record at the rate itself."""
    # So resampling, whole windows and padding are all on the way.
    return (2 * spec.sampling_rate, spec.window_seconds), (spec.sampling_rate, 0.4 * spec.window_seconds)


def _features(info: WeightsInfo, encoder: Encoder, microvolts: list[NDArray[np.int16]]) -> NDArray[np.float32]:
    records = [
        ECGRecord(x * np.float32(1e-3), rate, info.spec.leads)
        for x, (rate, _) in zip(microvolts, _records_of(info.spec), strict=True)
    ]
    policies = Policies(short_records="pad")
    # They are made of formulas: what would be odd about recordings is of no concern here.
    screenings = [screen(record, info.spec, policies, "the golden record") for record in records]
    windows = prepare_screened(records, screenings, info.spec, stride=None, policies=policies)
    # One thread, as when they were written.
    return encode_windows(encoder, windows, Encoding(info.pooling, n_jobs=1))


def _synthetic_microvolts(spec: InputSpec, sampling_rate: float, seconds: float) -> NDArray[np.int16]:
    """Beats of three bumps, of another size in every lead: no ECG, but of its size and shape."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    phase = (time % 0.8)[None, :]
    lead = np.arange(spec.n_leads)[:, None]
    bumps = ((0.15, 0.12, 0.02), (1.0, 0.30, 0.012), (0.3, 0.55, 0.05))
    beat = sum(
        size * np.cos(lead + number) * np.exp(-0.5 * ((phase - centre) / width) ** 2)
        for number, (size, centre, width) in enumerate(bumps)
    )
    return np.round(1000 * (beat + 0.05 * np.sin(2 * np.pi * 0.3 * time + lead))).astype(np.int16)
