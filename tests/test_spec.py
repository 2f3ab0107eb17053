from __future__ import annotations

import json

import pytest

from skecg.errors import WeightsFormatError
from skecg.leads import CANONICAL_LEADS
from skecg.spec import EncoderConfig, InputSpec, LeadwiseConfig, TemporalConfig

STATISTICS = {"normalization": "statistics", "mean": (0.0, 0.1), "std": (0.2, 0.3)}
SPECS = [
    InputSpec(CANONICAL_LEADS, 250.0, 2500),
    InputSpec(("I", "II"), 500.0, 5000, any_leads=True, resampling="fourier", clip=5.0, **STATISTICS),
    InputSpec(
        ("I", "II"),
        500,
        5000,
        resampling="linear",
        notch_hz=50,
        notch_quality=25.0,
        highpass_hz=0.67,
        lowpass_hz=40,
        filter_design="bandpass",
        baseline_samples=201,
        normalization="whole",
    ),
    InputSpec(("II",), 100, 250, highpass_hz=0.5, lowpass_hz=40, filter_order=2, normalization="zscore"),
]
CONFIGS = [
    TemporalConfig(n_leads=12, patch_samples=25, n_patches=200, dim=192, depth=8, num_heads=4),
    TemporalConfig(12, 25, 200, 192, 8, 4, num_registers=0, bias=True, norm_bias=True, mlp_ratio=2),
    LeadwiseConfig(n_leads=8, patch_samples=50, n_patches=50, dim=768, depth=12, num_heads=16),
]


@pytest.mark.parametrize("value", [*SPECS, *CONFIGS])
def test_a_value_reads_itself_back_from_json(value):
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value


@pytest.mark.parametrize("value", [*SPECS, *CONFIGS])
def test_values_do_not_change_and_can_be_keys(value):
    assert {value: 1}[type(value).from_dict(value.to_dict())] == 1
    with pytest.raises(AttributeError):
        value.dim = 3


def test_defaults_that_travel_are_those_of_files_already_written():
    """A changed default changes what weights out there mean. Add a field instead."""
    assert InputSpec(("I",), 100.0, 100).to_dict() == {
        "leads": ["I"],
        "sampling_rate": 100.0,
        "window_samples": 100,
        "any_leads": False,
        "resampling": "polyphase",
        "highpass_hz": None,
        "lowpass_hz": None,
        "filter_order": 4,
        "normalization": "none",
        "mean": None,
        "std": None,
        "clip": None,
    }
    shape = {"n_leads": 1, "patch_samples": 5, "n_patches": 2, "dim": 8, "depth": 1, "num_heads": 1}
    optional = {"num_registers": 1, "bias": False, "norm_bias": False}
    assert TemporalConfig(**shape).to_dict() == shape | {"mlp_ratio": 4.0, "norm_eps": 1e-6} | optional
    assert LeadwiseConfig(**shape).to_dict() == shape | {"mlp_ratio": 4.0, "norm_eps": 1e-5}


def test_sizes_follow_from_the_fields():
    assert (CONFIGS[0].hidden_dim, CONFIGS[0].window_samples) == (768, 5000)
    assert CONFIGS[1].hidden_dim == 384
    assert (SPECS[0].n_leads, SPECS[0].window_seconds) == (12, 10.0)


def test_leads_are_put_into_their_common_spelling():
    assert InputSpec(("AVR", "lead ii"), 100.0, 100).leads == ("aVR", "II")


def test_unknown_fields_are_refused_with_a_suggestion():
    with pytest.raises(
        WeightsFormatError, match=r"'windowsamples' in the input specification. Did you mean 'window_samples'"
    ):
        InputSpec.from_dict({"leads": ["I"], "windowsamples": 3})
    with pytest.raises(WeightsFormatError, match=r"'zzz' in the encoder configuration. Known fields: n_leads"):
        LeadwiseConfig.from_dict({"zzz": 3})


def test_missing_fields_are_named():
    with pytest.raises(WeightsFormatError, match="'window_samples'"):
        InputSpec.from_dict({"leads": ["I"], "sampling_rate": 100.0})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"leads": ()}, "at least one"),
        ({"leads": ("I", "I", "II")}, "more than once"),
        ({"leads": "I"}, "bare string"),
        ({"leads": 3}, "leads=3"),
        ({"leads": (1, 2)}, "type int"),
        ({"sampling_rate": 0}, "sampling_rate=0.*positive"),
        ({"sampling_rate": "250"}, "sampling_rate='250'"),
        ({"sampling_rate": float("inf")}, "sampling_rate=inf"),
        ({"sampling_rate": True}, "sampling_rate=True"),
        ({"window_samples": 2.5}, "window_samples=2.5.*integer"),
        ({"window_samples": 0}, "window_samples=0"),
        ({"any_leads": "yes"}, "any_leads='yes'"),
        ({"resampling": "cubic"}, "'polyphase', 'fourier', 'fourier-nearest', 'linear'"),
        ({"highpass_hz": -1}, "highpass_hz=-1"),
        ({"highpass_hz": 50}, "below half the sampling rate"),
        ({"highpass_hz": 9, "lowpass_hz": 3}, "highpass_hz=9.*below lowpass_hz=3"),
        ({"lowpass_hz": 50.0}, "below half the sampling rate"),
        ({"filter_order": 0}, "filter_order=0"),
        ({"normalization": "batch"}, "'none', 'statistics', 'zscore', 'record', 'whole', 'minmax'"),
        ({"notch_hz": 50}, "notch_hz=50.*below half the sampling rate"),
        ({"notch_hz": "50"}, "notch_hz='50'.*positive"),
        ({"notch_quality": 0}, "notch_quality=0"),
        ({"filter_design": "fir"}, "filter_design='fir'.*'cascade', 'bandpass'"),
        ({"filter_design": "bandpass", "highpass_hz": 1}, "filter_design='bandpass'.*bound a band"),
        ({"baseline_samples": 200}, "baseline_samples=200.*odd"),
        ({"baseline_samples": 1}, "baseline_samples=1"),
        ({"mean": (0.0, 0.0)}, "none unless normalization is 'statistics'"),
        ({"std": (1.0, 1.0)}, "none unless normalization is 'statistics'"),
        (STATISTICS | {"mean": None}, "mean=None.*2 numbers"),
        (STATISTICS | {"mean": (0.0,)}, "2 numbers, one a lead"),
        (STATISTICS | {"mean": (0.0, float("nan"))}, "2 numbers, one a lead"),
        (STATISTICS | {"std": ("a", "b")}, "2 numbers, one a lead"),
        (STATISTICS | {"std": (0.2, 0.0)}, "positive numbers"),
        ({"clip": 0}, "clip=0"),
        ({"clip": float("nan")}, "clip=nan"),
    ],
)
def test_an_input_that_cannot_be_is_refused_by_the_fields_name(change, words):
    values = {"leads": ("I", "II"), "sampling_rate": 100.0, "window_samples": 250} | change
    with pytest.raises(WeightsFormatError, match=words):
        InputSpec(**values)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (TemporalConfig, {"dim": 30}, "multiple of num_heads=4"),
        (TemporalConfig, {"dim": 9, "num_heads": 3}, "even number"),
        (LeadwiseConfig, {"dim": 6, "num_heads": 3}, "multiple of 4"),
        (TemporalConfig, {"depth": 0}, "depth=0"),
        (TemporalConfig, {"depth": 2.0}, "depth=2.0"),
        (TemporalConfig, {"num_heads": True}, "num_heads=True"),
        (TemporalConfig, {"num_registers": -1}, "num_registers=-1"),
        (TemporalConfig, {"bias": 1}, "bias=1"),
        (TemporalConfig, {"norm_eps": 0}, "norm_eps=0"),
        (LeadwiseConfig, {"mlp_ratio": "4"}, "mlp_ratio='4'"),
        (LeadwiseConfig, {"n_patches": -1}, "n_patches=-1"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused_by_the_fields_name(kind: type[EncoderConfig], change, words):
    values = {"n_leads": 2, "patch_samples": 5, "n_patches": 4, "dim": 16, "depth": 2, "num_heads": 4} | change
    with pytest.raises(WeightsFormatError, match=words):
        kind(**values)
