"""Beat-SSL: beats are found once and followed into windows, recordings without them only lack the beats' loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_bits, small_config

from pretraining.config import PretrainConfig
from pretraining.config.objectives import BeatSslConfig
from pretraining.data.batches import Batch, draw_batch, to_values
from pretraining.data.corpora import open_corpus
from pretraining.data.feature_tables import BeatTable, read_beats, write_beats
from pretraining.data.features import BEAT_KINDS, RECORD_KINDS, describe_beats, describe_record
from pretraining.data.pack import pack
from pretraining.data.scaling import Kind, fit_kinds
from pretraining.data.shards import ShardSet
from pretraining.monitoring.journal import read_events, read_journal
from pretraining.monitoring.report import describe_run
from pretraining.objectives import beat_ssl, build_model
from pretraining.objectives.beat_ssl import (
    BeatDraw,
    BeatSsl,
    beats_in_windows,
    overlap_weights,
)
from pretraining.objectives.contrast import same_class, similarity, soft_contrast, targets
from pretraining.objectives.views import is_seen
from pretraining.recipes import RECIPES, load_recipe
from pretraining.recipes.beat_ssl import ABLATION
from pretraining.runs import load_checkpoint
from pretraining.trainer import Trainer
from skecg.datasets import make_ecg
from skecg.errors import ParameterError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.r_peaks import find_r_peaks
from skecg.spec import InputSpec, LeadwiseConfig, TemporalConfig

RATE, SAMPLES, PATCHES, PATCH = 100.0, 600, 60, 10
N_RECORDS, SILENT = 12, (3, 7)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Twelve hearts of six seconds, of which two do not beat."""
    folder = tmp_path_factory.mktemp("hearts")
    records, _ = make_ecg(N_RECORDS, duration_seconds=6.0, sampling_rate=RATE, random_state=0)
    steps = np.stack([np.rint(record.signal * 1e3) for record in records]).astype(np.int16)
    steps[list(SILENT)] = np.arange(600)  # a drift
    np.savez(folder / "hearts.npz", signals=steps, lsb=1e-3, units="mV", fs=RATE, leads=list(records[0].leads))
    corpus = open_corpus("hearts", folder / "hearts.npz")
    made = pack([corpus], folder / "shards", sampling_rate=RATE, segment_seconds=6.0, n_jobs=1, progress=False)
    write_beats(made, n_jobs=1, progress=False)
    return made


@pytest.fixture(scope="module")
def tables(shards: ShardSet) -> BeatTable:
    return read_beats(shards)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums to the last bit depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(leadwise: bool = False, **fields: Any) -> PretrainConfig:
    """Six steps of eight records, as small_config."""
    shape = LeadwiseConfig if leadwise else TemporalConfig
    return dataclasses.replace(
        small_config(),
        encoder=shape(12, PATCH, PATCHES, 16, 2, 2),
        input=InputSpec(CANONICAL_LEADS, RATE, SAMPLES),
        objective=BeatSslConfig(**({"projected_dim": 8} | fields)),
        predictor=None,
        masks=None,
        export_encoder="context",
    )


def drawn_for(config: PretrainConfig, shards: ShardSet, tables: BeatTable, n: int = 8) -> tuple[Batch, BeatDraw]:
    batch = draw_batch(shards, config, 0, range(n))
    return batch, BeatSsl.draw(config, tables, batch, 0, range(n))


# --- beats --------------------------------------------------------------------------------------------------------


def test_beats_are_found_where_the_heart_is_fastest() -> None:
    records, _ = make_ecg(4, sampling_rate=250.0, heart_rate=60.0, random_state=1)
    for record in records:
        beats = find_r_peaks(record.signal, 250.0)
        assert 8 <= len(beats) <= 11
        assert np.abs(np.diff(beats) / 250.0 - 1.0).max() < 0.15
        sizes = np.abs(np.gradient(record.signal, axis=1)).sum(axis=0)
        assert min(sizes[max(0, b - 15) : b + 15].max() for b in beats) > 0.3 * sizes.max()


def test_nothing_and_hardly_anything_have_no_beats() -> None:
    assert not len(find_r_peaks(np.zeros((12, 2500), np.float32), 250.0))
    assert not len(find_r_peaks(np.ones((12, 300), np.float32), 250.0))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_descriptions_have_the_lengths_that_are_said(n: int) -> None:
    signal = make_ecg(1, sampling_rate=RATE, random_state=0)[0][0].signal
    found = describe_beats(signal, np.array([5, 200, 999], np.int64)[:n], RATE)
    assert found.shape == (n, sum(kind.n_raw for kind in BEAT_KINDS))
    assert np.isfinite(found).all()
    assert describe_record(signal, RATE).shape == (sum(kind.n_raw for kind in RECORD_KINDS),)


def test_each_kind_of_numbers_has_its_share_of_a_length_of_one_and_strong_components_most_of_it() -> None:
    rng = np.random.default_rng(0)
    raw = np.concatenate(
        [rng.normal(size=(500, 6)) @ np.diag([9, 1, 1, 1, 1, 1]) @ rng.normal(size=(6, 6))] * 2, axis=1
    )
    vectors = fit_kinds(raw.astype(np.float32), (Kind(6, 4, 1.0), Kind(6, 3, 0.3)))(raw.astype(np.float32))
    squares = (vectors.astype(float) ** 2).mean(axis=0)
    assert squares[:4].sum() == pytest.approx(1.0 / 1.3, rel=1e-3)
    assert squares[4:].sum() == pytest.approx(0.3 / 1.3, rel=1e-3)
    assert squares[0] > 1.2 * squares[1] > 0


def test_each_row_has_its_own_beats_in_the_table(shards: ShardSet, tables: BeatTable) -> None:
    counts = np.diff(tables.first)
    assert [row for row in range(N_RECORDS) if not counts[row]] == list(SILENT)
    assert len(tables.samples) == len(tables.features) == len(tables.classes) == counts.sum() + 1
    row = 5
    signal = shards.gather([row])[0] * np.float32(1e-3)
    ours = tables.samples[tables.first[row] : tables.first[row + 1]]
    np.testing.assert_array_equal(ours, find_r_peaks(signal, RATE))
    squared = (tables.features[:-1, None] - tables.features[:-1]) ** 2
    assert squared.sum(axis=-1).mean() == pytest.approx(tables.beat_scale, rel=1e-3)


def test_the_table_is_written_once(shards: ShardSet, tables: BeatTable) -> None:
    (path,) = shards.folder.glob("beats-*.npz")
    before = path.stat().st_mtime_ns
    write_beats(shards, progress=False)
    assert path.stat().st_mtime_ns == before


# --- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "roll"), [(0, 0), (37, 0), (0, 1), (0, 150)])
def test_beats_follow_crop_and_roll(start: int, roll: int) -> None:
    """As values do: a row that is 1 at beats only is 1 in the window at the places that are said."""
    config = small()
    window = SAMPLES if roll else 500
    config = dataclasses.replace(
        config,
        encoder=TemporalConfig(12, PATCH, window // PATCH, 16, 2, 2),
        input=InputSpec(CANONICAL_LEADS, RATE, window),
    )
    beats = np.array([0, 40, 300, 520, 599])
    row = np.zeros((1, 12, SAMPLES), np.int16)
    row[:, :, beats] = 1000
    every, one = np.ones((1, 12), bool), np.ones(1, np.float32)
    valid, starts, rolls = (np.array([value]) for value in (SAMPLES, start, roll))
    batch = Batch(np.zeros(1, np.int64), row, one, every, every, valid, starts, rolls, one)
    places, inside = beats_in_windows(beats, start, roll, window)
    found = np.flatnonzero(to_values(batch, config, "cpu")[0, 0].numpy())
    assert sorted(places[inside].tolist()) == found.tolist()


def test_beats_that_are_drawn_are_different_and_seen_in_both_views(shards: ShardSet, tables: BeatTable) -> None:
    config = small(beats=2)
    batch, drawn = drawn_for(config, shards, tables, 64)
    assert (is_seen(drawn.views, drawn.samples) | ~drawn.is_beat).all()
    assert not drawn.is_beat[np.isin(batch.rows, SILENT)].any()
    both = drawn.is_beat.all(dim=1)
    assert both.any()
    assert (drawn.samples[both, 0] != drawn.samples[both, 1]).all()


def test_what_is_drawn_for_a_place_depends_on_nothing_else(shards: ShardSet, tables: BeatTable) -> None:
    config = small()
    _, whole = drawn_for(config, shards, tables)
    rest = BeatSsl.draw(config, tables, draw_batch(shards, config, 0, range(4, 8)), 0, range(4, 8))
    taken = whole.take(slice(4, 8))
    for name in ("rows", "records", "samples", "is_beat", "features", "classes"):
        assert torch.equal(getattr(taken, name), getattr(rest, name))
    assert torch.equal(taken.views.radians, rest.views.radians)


def test_a_bin_of_a_beat_is_the_mean_of_the_slices_that_it_overlaps() -> None:
    weights = overlap_weights(torch.tensor([[300, 0, 599]]), PATCHES, PATCH, RATE)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 3, 4))
    # The first bin is from 0.25 s to 0.075 s before the beat: samples 275 to 292.5.
    torch.testing.assert_close(weights[0, 0, 0, 27:30], torch.tensor([5.0, 10, 2.5]) / 17.5)
    assert weights[0, 1, 0, 0] == 1, "what begins before the window has its first slice"
    assert weights[0, 2, 3, -1] == 1


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leadwise", [False, True])
@pytest.mark.parametrize("beat", ["none", "hard", "soft_1", "soft_2"])
def test_gradients_reach_every_weight(beat: str, leadwise: bool, shards: ShardSet, tables: BeatTable) -> None:
    config = small(leadwise, beat=beat)
    model = build_model(config)
    batch, drawn = drawn_for(config, shards, tables)
    loss = model(to_values(batch, config, "cpu"), drawn)
    assert loss.total == loss.rhythm + loss.beat
    loss.total.backward()
    assert [
        name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ] == []


def test_recordings_without_beats_take_part_at_the_level_of_the_rhythm_only(
    shards: ShardSet, tables: BeatTable
) -> None:
    config = small()
    model = build_model(config)
    batch, drawn = drawn_for(config, shards, tables)
    values = to_values(batch, config, "cpu")
    one = torch.arange(8)[:, None] != 2
    with_all = model(values, dataclasses.replace(drawn, is_beat=drawn.is_beat & one))
    changed = model(
        values + torch.randn(8, 1, 1) * ~one[:, :, None], dataclasses.replace(drawn, is_beat=drawn.is_beat & one)
    )
    assert changed.beat == with_all.beat
    assert changed.rhythm != with_all.rhythm


def test_a_batch_without_beats_has_a_finite_loss_and_a_gradient_for_every_weight(
    shards: ShardSet, tables: BeatTable
) -> None:
    config = small()
    model = build_model(config)
    batch, drawn = drawn_for(config, shards, tables)
    loss = model(to_values(batch, config, "cpu"), dataclasses.replace(drawn, is_beat=torch.zeros_like(drawn.is_beat)))
    loss.total.backward()
    assert loss.beat == 0
    assert torch.isfinite(loss.total)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_recording_that_is_drawn_twice_is_not_told_apart_from_itself(shards: ShardSet, tables: BeatTable) -> None:
    config = small(rhythm="hard", beat="none")
    model = build_model(config)
    batch, drawn = drawn_for(config, shards, tables)
    assert drawn.rows.tolist() == batch.rows.tolist()
    values = to_values(batch, config, "cpu")
    for rows in (torch.arange(8), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])):
        projected = model.rhythm_projector(model.context_encoder(views_of(model, values, drawn))[:, 1:].mean(dim=1))
        wanted = targets(same_class(rows), 1.0)
        expected = soft_contrast(torch.stack(projected.chunk(2)), wanted, config.objective.temperature)
        torch.testing.assert_close(model(values, dataclasses.replace(drawn, rows=rows)).rhythm, expected)
        assert (wanted[0] > 0).sum() == (1 if rows[-1] else 3)


def views_of(model: BeatSsl, values: torch.Tensor, drawn: BeatDraw) -> torch.Tensor:
    return model.view_maker(values, drawn.views).flatten(0, 1)


@pytest.mark.parametrize(("rhythm", "beat"), [("hard", "soft_2"), ("soft_1", "hard"), ("soft_2", "soft_1")])
def test_each_contrast_has_the_targets_of_its_things(
    rhythm: str, beat: str, shards: ShardSet, tables: BeatTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(rhythm=rhythm, beat=beat, exponent=3.0)
    batch, drawn = drawn_for(config, shards, tables)
    noted: list[torch.Tensor] = []

    def note(views: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
        noted.append(wanted)
        return soft_contrast(views, wanted, temperature)

    monkeypatch.setattr(beat_ssl, "soft_contrast", note)
    build_model(config)(to_values(batch, config, "cpu"), drawn)
    classes, features = drawn.classes[drawn.is_beat], drawn.features[drawn.is_beat]
    assert len(classes.unique()) > 1
    of_recordings = {"hard": same_class(drawn.rows), "soft_1": similarity(drawn.records, "soft_1")}
    of_recordings["soft_2"] = similarity(drawn.records, "soft_2", tables.record_scale)
    of_beats = {"hard": same_class(classes), "soft_1": similarity(features, "soft_1")}
    of_beats["soft_2"] = similarity(features, "soft_2", tables.beat_scale)
    for wanted, likeness in zip(noted, (of_recordings[rhythm], of_beats[beat]), strict=True):
        torch.testing.assert_close(wanted, targets(likeness, 3.0))


@pytest.mark.parametrize("beat", ["none", "hard"])
def test_a_gain_is_what_a_loss_is_less_than_a_guess(beat: str, shards: ShardSet, tables: BeatTable) -> None:
    config = small(beat=beat)
    model = build_model(config)
    batch, drawn = drawn_for(config, shards, tables)
    loss = model(to_values(batch, config, "cpu"), drawn)
    assert loss.rhythm_gain.item() == pytest.approx(math.log(15) - loss.rhythm.item(), abs=1e-6)
    n_others = 2 * int(drawn.is_beat.sum()) - 1
    expected = 0.0 if beat == "none" else math.log(n_others) - loss.beat.item()
    assert loss.beat_gain.item() == pytest.approx(expected, abs=1e-6)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_run(shards: ShardSet, tmp_path: Path) -> None:
    config = small()
    config = dataclasses.replace(config, watch=dataclasses.replace(config.watch, gauge_every=3))
    Trainer(config, shards, tmp_path / "whole", device="cpu").train()
    whole = load_checkpoint(tmp_path / "whole" / "checkpoints")
    Trainer(config, shards, tmp_path / "parts", device="cpu").train()
    (tmp_path / "parts" / "checkpoints" / "step-00000006.pt").unlink()  # the run goes on from its third step
    Trainer(config, shards, tmp_path / "parts", device="cpu", resume=True).train()
    resumed = load_checkpoint(tmp_path / "parts" / "checkpoints")
    assert_same_bits(resumed["model"], whole["model"])
    assert_same_bits(resumed["optimizer"], whole["optimizer"])


@pytest.mark.parametrize(("exponent", "collapses"), [(1.0, True), (50.0, False)])
def test_targets_without_sharpening_collapse_and_that_is_announced(
    exponent: float, collapses: bool, shards: ShardSet, tmp_path: Path
) -> None:
    config = small(rhythm="soft_1", beat="soft_1", exponent=exponent)
    run, watch = dataclasses.replace(config.run, steps=60), dataclasses.replace(config.watch, gauge_every=10)
    config = dataclasses.replace(config, run=run, watch=dataclasses.replace(watch, log_every=10))
    Trainer(config, shards, tmp_path / "run", device="cpu").train()
    gauged = [line for line in read_journal(tmp_path / "run") if "record_spread" in line]
    announced = [event["text"] for event in read_events(tmp_path / "run") if event["event"] == "collapse"]
    assert bool(announced) == collapses
    for name in ("fixed_rhythm_gain", "fixed_beat_gain"):
        assert (abs(gauged[-1][name]) < 5e-4) == collapses
    assert not collapses or "told apart no better than by a guess" in announced[0]
    assert "better than guessed by" in describe_run(tmp_path / "run")


def test_shards_without_a_beat_are_refused_where_beats_are_asked_for(tmp_path: Path) -> None:
    steps = np.arange(600, dtype=np.int16) * np.ones((3, 12, 1), np.int16)
    np.savez(tmp_path / "still.npz", signals=steps, lsb=1e-3, units="mV", fs=RATE, leads=list(CANONICAL_LEADS))
    corpus = open_corpus("still", tmp_path / "still.npz")
    still = pack([corpus], tmp_path / "shards", sampling_rate=RATE, segment_seconds=6.0, n_jobs=1, progress=False)
    with pytest.raises(ParameterError, match=r"3 recordings in which no beat was found.*objective.beat=none"):
        Trainer(small(), still, tmp_path / "run", device="cpu")
    Trainer(small(beat="none"), still, tmp_path / "alone", device="cpu")


# --- configurations -----------------------------------------------------------------------------------------------


def test_every_row_of_the_ablation_is_a_recipe() -> None:
    assert [name for name in RECIPES if name.startswith("beat_ssl")] == list(ABLATION)
    assert len(ABLATION) == 14
    for name, row in ABLATION.items():
        objective = load_recipe(name).objective
        assert isinstance(objective, BeatSslConfig)
        assert (objective.rhythm, objective.beat, objective.exponent) == row[:3]
        assert PretrainConfig.from_dict(load_recipe(name).to_dict()) == load_recipe(name)


@pytest.mark.parametrize(
    ("part", "changes", "name"),
    [
        ("input", {"normalization": "zscore"}, "normalization"),
        ("input", {"normalization": "statistics", "mean": (0.0,) * 12, "std": (0.1,) * 11 + (0.2,)}, "std"),
        ("input", {"normalization": "statistics", "mean": (0.1,) * 12, "std": (0.1,) * 12}, "mean"),
        ("input", {"any_leads": True}, "any_leads"),
        ("data", {"lead_dropout": 0.5}, "lead_dropout"),
        ("objective", {"rhythm": "none"}, "rhythm"),
        ("objective", {"beat": "soft_3"}, "beat"),
        ("objective", {"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_go_together_is_refused(part: str, changes: dict[str, Any], name: str) -> None:
    config = small()
    with pytest.raises(ParameterError, match=name):
        dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})


def test_leads_that_views_are_made_of_have_to_be_there() -> None:
    with pytest.raises(ParameterError, match="V6"):
        dataclasses.replace(
            small(),
            encoder=TemporalConfig(11, PATCH, PATCHES, 16, 2, 2),
            input=InputSpec(CANONICAL_LEADS[:-1], RATE, SAMPLES),
        )
