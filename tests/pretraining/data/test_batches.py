from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import heart, write_arrays

from pretraining.config import DataConfig, PretrainConfig
from pretraining.data.batches import Batch, check_shards, draw_batch, draw_shown_leads, to_values, uniforms
from pretraining.data.corpora import open_corpus
from pretraining.data.pack import pack
from pretraining.data.shards import ShardSet
from pretraining.recipes import load_recipe
from skecg.errors import LeadError, LeadWarning, ParameterError, SignalWarning
from skecg.leads import CANONICAL_LEADS, EIGHT_LEADS
from skecg.preprocessing.windows import prepare
from skecg.records import ECGRecord
from skecg.spec import InputSpec

# Noise, offsets and wander stand in for recordings here; what is odd about them is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::skecg.errors.SignalWarning", "ignore::skecg.errors.UnitsWarning")

STATISTICS = {"mean": tuple(0.01 * i for i in range(12)), "std": tuple(0.1 + 0.05 * i for i in range(12))}
NORMALIZATIONS: list[dict[str, Any]] = [
    {"normalization": "none"},
    {"normalization": "statistics", **STATISTICS},
    {"normalization": "zscore"},
    {"normalization": "record"},
]


def kind(options: dict[str, Any]) -> str:
    return str(options["normalization"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Ten whole records, six of 7 s, four of two leads, three of V1 alone."""
    folder = tmp_path_factory.mktemp("shards")
    two = np.stack([np.rint(heart(seed, 10, 250)[:2] * 1000).astype(np.int16) for seed in range(30, 34)])
    one = np.stack([np.rint(heart(seed, 10, 250)[6:7] * 1000).astype(np.int16) for seed in range(40, 43)])
    corpora = [
        open_corpus("whole", write_arrays(folder / "whole.npz", 10)),
        open_corpus("short", write_arrays(folder / "short.npz", 6, seconds=7)),
        open_corpus("two", write_arrays(folder / "two.npz", 4, signals=two, leads=np.array(["I", "II"]))),
        open_corpus("one", write_arrays(folder / "one.npz", 3, signals=one, leads=np.array(["V1"]))),
    ]
    return pack(corpora, folder / "out", sampling_rate=250, progress=False)


def configure(*, data: DataConfig | None = None, seed: int = 0, **spec: Any) -> PretrainConfig:
    """The tiny recipe with another input."""
    tiny = load_recipe("tiny")
    given = InputSpec(
        **{"leads": CANONICAL_LEADS, "sampling_rate": 250, "window_samples": 2500, "any_leads": True, **spec}
    )
    shape = {"n_leads": given.n_leads, "n_patches": given.window_samples // tiny.encoder.patch_samples}
    return dataclasses.replace(
        tiny,
        input=given,
        encoder=dataclasses.replace(tiny.encoder, **shape),
        data=data or DataConfig(),
        run=dataclasses.replace(tiny.run, seed=seed),
    )


def columns_of(batch: Batch) -> dict[str, np.ndarray]:
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def record_of(batch: Batch, row: int, leads: Sequence[str] | None = None) -> ECGRecord:
    """The recording that a row holds, of the leads it is shown with."""
    signal = batch.signals[row, :, : batch.valid_samples[row]] * (batch.scale_uv[row] * np.float32(1e-3))
    shown = np.flatnonzero(batch.lead_mask[row] & batch.kept_leads[row])
    names = tuple(CANONICAL_LEADS[i] for i in shown)
    return ECGRecord(signal[shown], 250, names, f"row {row}")


EVERYTHING = DataConfig(weights={"whole": 2.0, "short": 1.0, "two": 1.0}, roll=True, gain=(0.5, 2.0), lead_dropout=0.5)


@given(start=st.integers(0, 40), cut=st.integers(0, 24), step=st.integers(0, 10**6), seed=st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_a_position_is_drawn_the_same_whatever_is_drawn_with_it(
    shards: ShardSet, start: int, cut: int, step: int, seed: int
) -> None:
    config = configure(data=EVERYTHING, seed=seed)
    whole = columns_of(draw_batch(shards, config, step, range(start, start + 24)))
    first = columns_of(draw_batch(shards, config, step, range(start, start + cut)))
    second = columns_of(draw_batch(shards, config, step, range(start + cut, start + 24)))

    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), values, err_msg=name)


def test_steps_seeds_streams_and_positions_differ() -> None:
    draws = [
        uniforms(seed, step, range(position, position + 1), 6, stream=stream)
        for seed in (0, 1, -1)
        for step in (0, 1)
        for position in (0, 1)
        for stream in (0, 1)
    ]

    assert len({tuple(draw[0]) for draw in draws}) == 24
    assert len(np.unique(np.concatenate(draws))) == 24 * 6


def test_draws_are_uniform() -> None:
    drawn = uniforms(3, 5, range(20_000), 7, stream=0)

    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(7), atol=0.03)


def test_corpora_are_drawn_by_their_weights_and_rows_evenly(shards: ShardSet) -> None:
    batch = draw_batch(shards, configure(data=EVERYTHING), 0, range(8000))
    shares = np.bincount(shards.corpus_of[batch.rows], minlength=4) / 8000

    expected = [{"whole": 0.5, "short": 0.25, "two": 0.25}.get(name, 0) for name in shards.corpora]
    np.testing.assert_allclose(shares, expected, atol=0.02)
    counts = np.bincount(batch.rows, minlength=shards.n_records)[shards.rows_of("whole")]
    np.testing.assert_allclose(counts, 400, atol=80)


def test_without_weights_every_row_is_as_likely(shards: ShardSet) -> None:
    batch = draw_batch(shards, configure(), 1, range(9200))

    np.testing.assert_allclose(np.bincount(batch.rows, minlength=23), 400, atol=80)


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
@pytest.mark.parametrize("clip", [None, 0.6])
def test_values_are_those_of_prepare(options: dict[str, Any], clip: float | None, shards: ShardSet) -> None:
    config = configure(**options, clip=clip)
    batch = draw_batch(shards, config, 0, range(40))

    windows = prepare([record_of(batch, row) for row in range(40)], config.input)
    values = to_values(batch, config, "cpu")

    assert set(shards.corpus_of[batch.rows]) == {0, 1, 2, 3}
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values.numpy(), windows.values, atol=1e-5)


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_values_of_a_record_do_not_depend_on_its_neighbours(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(**options, data=EVERYTHING, window_samples=1500)
    batch = draw_batch(shards, config, 0, range(90))

    parts = [to_values(batch[start:stop], config, "cpu") for start, stop in ((0, 7), (7, 8), (8, 71), (71, 90))]

    assert torch.equal(torch.cat(parts), to_values(batch, config, "cpu"))


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_autocast_costs_values_no_digits(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(**options)
    batch = draw_batch(shards, config, 0, range(8))

    with torch.autocast("cpu", torch.bfloat16):
        cast = to_values(batch, config, "cpu")

    assert torch.equal(cast, to_values(batch, config, "cpu"))


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_a_record_shown_with_fewer_leads_is_what_prepare_makes_of_a_record_that_has_no_more(
    options: dict[str, Any], shards: ShardSet
) -> None:
    config = configure(**options, data=DataConfig(lead_dropout=0.999))
    batch = draw_batch(shards, config, 0, range(60))

    windows = prepare([record_of(batch, row) for row in range(60)], config.input)

    np.testing.assert_array_equal(windows.lead_mask, batch.lead_mask & batch.kept_leads)
    np.testing.assert_allclose(to_values(batch, config, "cpu").numpy(), windows.values, atol=1e-5)


@pytest.mark.parametrize("options", [NORMALIZATIONS[0], *NORMALIZATIONS[2:]], ids=kind)
def test_leads_come_in_the_encoders_order(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(leads=EIGHT_LEADS[::-1], any_leads=False, **options)
    batch = draw_batch(shards, config, 0, range(20))

    windows = prepare([record_of(batch, row) for row in range(20)], dataclasses.replace(config.input, any_leads=True))

    np.testing.assert_allclose(to_values(batch, config, "cpu").numpy(), windows.values, atol=1e-5)


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_flat_leads_and_offsets_are_treated_as_prepare_treats_them(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(**options)
    batch = draw_batch(shards, configure(data=DataConfig(weights={"whole": 1.0})), 0, range(4))
    batch.signals[0, 3] = 0
    batch.signals[1, 7] = 777
    batch.signals[2] += 3000
    batch.scale_uv[3] = 7.5

    windows = prepare_quietly([record_of(batch, row) for row in range(4)], config.input)

    np.testing.assert_allclose(to_values(batch, config, "cpu").numpy(), windows, atol=1e-5)


def prepare_quietly(records: list[ECGRecord], spec: InputSpec) -> np.ndarray:
    with pytest.warns(SignalWarning, match="flat"):
        return prepare(records, spec).values


def test_crops_lie_within_the_signal_and_anywhere_in_it(shards: ShardSet) -> None:
    config = configure(window_samples=1500)
    batch = draw_batch(shards, config, 0, range(2000))
    values = to_values(batch, config, "cpu").numpy()
    signals = batch.signals * (batch.scale_uv[:, None, None] / 1000)

    short = batch.valid_samples == 1750
    assert (batch.crop_start + 1500 <= batch.valid_samples).all()
    assert np.unique(batch.crop_start[short]).size > 180
    assert batch.crop_start[~short].max() > 980
    assert batch.crop_start[~short].min() < 20
    for row in range(50):
        start = batch.crop_start[row]
        expected = signals[row, :, start : start + 1500]
        np.testing.assert_allclose(values[row], expected, atol=1e-6)


def test_normalization_is_of_the_whole_row_before_it_is_cropped(shards: ShardSet) -> None:
    whole, cropped = (configure(window_samples=n, normalization="zscore") for n in (2500, 1000))
    batch = draw_batch(shards, cropped, 0, range(8))
    all_of_it, part = to_values(batch, whole, "cpu"), to_values(batch, cropped, "cpu")

    for row, start in enumerate(batch.crop_start):
        torch.testing.assert_close(part[row], all_of_it[row, :, start : start + 1000])


def test_a_window_longer_than_a_row_holds_its_last_value(shards: ShardSet) -> None:
    config = configure(window_samples=3000, normalization="record")
    batch = draw_batch(shards, config, 0, range(30))

    windows = prepare([record_of(batch, row) for row in range(30)], config.input)

    assert not batch.crop_start.any()
    np.testing.assert_allclose(to_values(batch, config, "cpu").numpy(), windows.values, atol=1e-5)


def test_records_of_exactly_one_window_are_rolled_and_no_others(shards: ShardSet) -> None:
    config = configure(data=DataConfig(roll=True), normalization="zscore")
    batch = draw_batch(shards, config, 0, range(300))
    still = dataclasses.replace(batch, roll=np.zeros_like(batch.roll))

    values, unrolled = to_values(batch, config, "cpu"), to_values(still, config, "cpu")

    one_window = batch.valid_samples == 2500
    assert np.unique(batch.roll[one_window]).size > 150
    assert not batch.roll[~one_window].any()
    for row in range(300):
        torch.testing.assert_close(values[row], unrolled[row].roll(int(batch.roll[row]), dims=-1), rtol=0, atol=0)


def test_rows_of_which_the_window_is_all_that_is_valid_are_rolled_within_it(shards: ShardSet) -> None:
    config = configure(data=DataConfig(roll=True), window_samples=1750)
    batch = draw_batch(shards, config, 0, range(200))
    values = to_values(batch, config, "cpu").numpy()
    signals = batch.signals * (batch.scale_uv[:, None, None] / 1000)

    rolled = np.flatnonzero(batch.roll)
    assert (batch.valid_samples[rolled] == 1750).all()
    assert rolled.size > 30
    for row in range(200):
        window = signals[row, :, batch.crop_start[row] :][:, :1750]
        np.testing.assert_allclose(values[row], np.roll(window, batch.roll[row], axis=-1), atol=1e-6)


@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_gain_changes_amplitudes_under_every_normalization(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(data=DataConfig(gain=(0.5, 2.0)), **options)
    batch = draw_batch(shards, config, 0, range(400))
    plain = to_values(dataclasses.replace(batch, gain=np.ones_like(batch.gain)), config, "cpu")

    torch.testing.assert_close(to_values(batch, config, "cpu"), plain * torch.from_numpy(batch.gain)[:, None, None])
    assert 0.5 <= batch.gain.min() < 0.52
    assert 1.9 < batch.gain.max() <= 2.0
    assert (batch.gain < 1).mean() == pytest.approx(0.5, abs=0.08)


def test_lead_dropout_keeps_some_leads_of_those_there_are_as_often_as_asked(shards: ShardSet) -> None:
    config = configure(data=DataConfig(lead_dropout=0.4, weights={"whole": 1.0, "two": 1.0}), leads=CANONICAL_LEADS)
    batch = draw_batch(shards, config, 0, range(4000))
    whole = batch.lead_mask.all(axis=1)
    kept = batch.kept_leads

    assert kept.any(axis=1).all()
    assert not (kept & ~batch.lead_mask).any()
    # One of twelve draws keeps all twelve, and some that keep eleven lack a limb lead, which is derived again.
    assert (~kept[whole].all(axis=1)).mean() == pytest.approx(0.4 * 11 / 12, abs=0.04)
    assert (kept[whole].sum(axis=1) == 1).mean() / 0.4 == pytest.approx(1 / 12, abs=0.03)
    limb = kept[:, :6].sum(axis=1)
    assert set(limb) == {0, 1, 6}


def test_lead_dropout_heeds_the_leads_of_the_encoder(shards: ShardSet) -> None:
    config = configure(leads=["V1", "I"], data=DataConfig(lead_dropout=0.9))
    batch = draw_batch(shards, config, 0, range(500))
    shown = (batch.lead_mask & batch.kept_leads)[:, [6, 0]]

    assert shown.any(axis=1).all()
    assert {tuple(row) for row in shown.tolist()} == {(True, False), (False, True), (True, True)}
    values = to_values(batch, config, "cpu").numpy()
    assert ((values != 0).any(axis=2) == shown).all()


def test_each_look_at_a_record_lacks_other_leads_of_those_that_it_is_shown_with(shards: ShardSet) -> None:
    config = configure(leads=["V1", "I", "II"], data=DataConfig(lead_dropout=0.3))
    batch = draw_batch(shards, config, 0, range(600))
    looks = draw_shown_leads(batch, config.input, 0.5, range(600), seed=0, step=0, n_looks=2)
    shown = (batch.lead_mask & batch.kept_leads)[:, [6, 0, 1]]
    for look in looks:
        assert look.any(axis=1).all()
        assert not (look & ~shown).any()
        assert 0.2 < (look != shown).any(axis=1)[shown.sum(axis=1) > 1].mean() < 0.45
    assert (looks[0] != looks[1]).any(axis=1).mean() > 0.2
    part = draw_shown_leads(batch[100:300], config.input, 0.5, range(100, 300), seed=0, step=0, n_looks=2)
    np.testing.assert_array_equal(part, looks[:, 100:300])


def test_records_without_the_encoders_leads_are_drawn_only_if_any_will_do(shards: ShardSet) -> None:
    every = draw_batch(shards, configure(), 0, range(500))
    whole = draw_batch(shards, configure(any_leads=False), 0, range(500))
    limb = draw_batch(shards, configure(leads=["I", "III"], any_leads=False), 0, range(500))
    names = [{shards.corpora[number] for number in shards.corpus_of[batch.rows]} for batch in (every, whole, limb)]

    assert names == [{"whole", "short", "two", "one"}, {"whole", "short"}, {"whole", "short", "two"}]
    with pytest.warns(LeadWarning, match="7 of 23 rows are never drawn"):
        check_shards(shards, configure(any_leads=False))
    with pytest.raises(LeadError, match="'one'"):
        draw_batch(shards, configure(any_leads=False, data=DataConfig(weights={"one": 1.0})), 0, range(1))


@pytest.mark.parametrize(
    ("other", "way_out"),
    [
        ({"sampling_rate": 500, "window_samples": 5000}, "with --sampling-rate 500, or with --recipe"),
        ({"highpass_hz": 0.5}, "with --highpass-hz 0.5, or with --recipe"),
        ({"lowpass_hz": 40.0}, "with --lowpass-hz 40, or with --recipe"),
        ({"notch_hz": 50.0}, "Pack them again with --recipe or --from"),
    ],
)
def test_the_way_out_for_unfit_shards_is_spelt_as_on_the_command_line(
    shards: ShardSet, other: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(ParameterError, match=f"{re.escape(way_out)}.* that takes them as they are"):
        draw_batch(shards, configure(**other), step=0, positions=range(2))


def test_shards_that_the_encoder_cannot_be_fed_are_refused(shards: ShardSet) -> None:
    with pytest.raises(ParameterError, match=r"'whoel'.*'whole'"):
        check_shards(shards, configure(data=DataConfig(weights={"whoel": 1.0})))
    with pytest.warns(SignalWarning, match="polyphase"):
        check_shards(shards, configure(resampling="fourier"))
    check_shards(shards, configure(filter_order=2))


def test_rows_shorter_than_a_window_are_said_with_both_lengths(shards: ShardSet) -> None:
    with pytest.warns(SignalWarning, match="rows of 10 s for windows of 12 s"):
        check_shards(shards, configure(window_samples=3000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_shards(shards, configure(window_samples=2500))


def test_shards_without_the_encoders_leads_are_not_said_to_do_for_objectives_that_mix_them(tmp_path: Path) -> None:
    one = np.ones((2, 1, 2500), np.int16) * np.arange(2500, dtype=np.int16)
    corpus = open_corpus("one", write_arrays(tmp_path / "one.npz", 2, signals=one, leads=np.array(["V1"])))
    with pytest.raises(LeadError, match=r"input.any_leads=true, unless the objective mixes leads, as 'beat_ssl'"):
        check_shards(pack([corpus], tmp_path / "out", sampling_rate=250, progress=False), configure(any_leads=False))


def test_the_batch_left_on_the_host_is_not_changed(shards: ShardSet) -> None:
    config = configure(data=EVERYTHING, normalization="zscore", clip=5.0)
    batch = draw_batch(shards, config, 0, range(16))
    before = {name: values.copy() for name, values in columns_of(batch).items()}

    first, second = to_values(batch, config, "cpu"), to_values(batch, config, "cpu")

    assert torch.equal(first, second)
    for name, values in columns_of(batch).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("options", NORMALIZATIONS, ids=kind)
def test_values_on_an_accelerator_are_those_on_a_cpu(options: dict[str, Any], shards: ShardSet) -> None:
    config = configure(**options, data=EVERYTHING, window_samples=1500)
    batch = draw_batch(shards, config, 0, range(90))

    there, here = to_values(batch, config, "cuda"), to_values(batch, config, "cpu")

    np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), atol=1e-5)
