"""A long record prepared stretch by stretch is the record prepared as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skecg.preprocessing import stretches
from skecg.preprocessing.signals import filter_leads, normalize, resample
from skecg.preprocessing.stretches import LongRecord
from skecg.records import ECGRecord
from skecg.spec import InputSpec

SPEC = InputSpec(("I", "II", "V1"), 250, 500)
FOUNDER = {
    "notch_hz": 50,
    "highpass_hz": 0.67,
    "lowpass_hz": 40,
    "filter_design": "bandpass",
    "baseline_samples": 101,
    "normalization": "whole",
}


@pytest.mark.parametrize("resampling", ["polyphase", "fourier", "linear"])
@pytest.mark.parametrize(
    "how",
    [FOUNDER, {"normalization": "minmax"}, {"normalization": "whole"}, {"notch_hz": 50}, {"baseline_samples": 101}],
    ids=lambda how: "+".join(how),
)
def test_any_stretch_is_that_of_the_whole_record(
    resampling: str, how: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCH_BYTES", 4 * 3 * 3000)  # four stretches
    spec = replace(SPEC, resampling=resampling, **how)
    noise = np.random.default_rng(0).normal(size=(3, 24_000)).astype(np.float32)
    record = ECGRecord(noise * np.array([[0.2], [0.5], [1.0]], np.float32) + 0.3, 500, SPEC.leads)
    present = np.array([True, True, False])  # the third takes no part in what leads share
    sources = [((0, 1.0),), ((1, 1.0),), ()]

    leads = np.concatenate([record.signal[:2], np.zeros((1, 24_000), np.float32)])
    filtered = filter_leads(resample(leads, 500, 250, resampling), spec)
    wanted = normalize(filtered, spec, lead_mask=present)
    wanted[2] = 0
    long = LongRecord(record, sources, present, spec)

    assert long.n_out == wanted.shape[1]
    for start, stop in ((0, 500), (2900, 3400), (5990, 6500), (11_500, 12_000), (0, 12_000)):
        np.testing.assert_allclose(long.prepare(start, stop), wanted[:, start:stop], atol=1e-5)
