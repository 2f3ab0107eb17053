"""Records made in memory with wfdb's classes, and what they need not say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from wfdb_writing import random_steps, same_bits, wfdb_millivolts, write_wfdb

from skecg.errors import ParameterError, SamplingRateError
from skecg.io import from_wfdb, read_record
from skecg.io.wfdb import import_wfdb


def digital(n_signals=2, *, expanded=False, **fields):
    steps = random_steps(50, n_signals, 12, seed=1)
    how = {"fs": 500, "sig_name": ["I", "II"], "units": ["mV", "mV"], "fmt": ["16"] * n_signals}
    how |= {"adc_gain": [1000.0] * n_signals, "baseline": [0] * n_signals, **fields}
    return import_wfdb().Record(**({"e_d_signal": list(steps.T)} if expanded else {"d_signal": steps}), **how)


@pytest.mark.parametrize("rate", [None, 0, -500, float("nan"), "fast"])
def test_a_record_in_memory_without_a_rate_is_refused(rate):
    with pytest.raises(SamplingRateError, match=r"in a Record, expected a positive number"):
        from_wfdb(digital(fs=rate))


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("gains", [[0, 0], [0.0, 1000], np.array([0, 500])])
def test_a_gain_of_0_means_200_steps_a_unit_as_in_a_file(tmp_path, expanded, gains):
    record = digital(expanded=expanded, adc_gain=gains)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signal = from_wfdb(record).signal
    assert list(record.adc_gain) == list(gains)
    header = write_wfdb(tmp_path, steps=random_steps(50, 2, 12, seed=1), scales=[f"{gain}/mV" for gain in gains])
    assert same_bits(signal, read_record(header).signal)
    assert same_bits(signal, wfdb_millivolts(header))


@pytest.mark.parametrize("gain", [float("nan"), float("inf"), 1e-300])
def test_a_gain_that_is_none_is_refused(gain):
    with pytest.raises(ParameterError, match="Got adc_gain="):
        from_wfdb(digital(adc_gain=[1000.0, gain]))


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize(
    ("field", "values"), [("adc_gain", [1000.0]), ("baseline", [0, None]), ("fmt", None), ("baseline", [0, 0, 0])]
)
def test_what_the_steps_of_each_signal_need_must_be_there(field, values, expanded):
    with pytest.raises(ParameterError, match=f"2 digital signals but no {field} for each"):
        from_wfdb(digital(expanded=expanded, **{field: values}))


@pytest.mark.parametrize("units", [None, [None, ""], ["mV", None]])
def test_signals_without_units_are_in_millivolts_as_in_a_file(tmp_path, units):
    header = write_wfdb(tmp_path, steps=random_steps(50, 2, 12, seed=1), scales=["1000"])
    assert same_bits(from_wfdb(digital(units=units)).signal, read_record(header).signal)
