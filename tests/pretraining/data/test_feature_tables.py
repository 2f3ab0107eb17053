"""What describes a recording without labels: laws of the numbers, and their way into the objective."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_bits, small_config, small_shards

from pretraining.config import ObjectiveConfig, PretrainConfig
from pretraining.data import feature_tables
from pretraining.data.batches import to_values
from pretraining.data.corpora import open_corpus
from pretraining.data.feature_tables import N_DESCRIPTORS, read_descriptors, write_descriptors
from pretraining.data.features import beat_features, describe_recordings
from pretraining.data.pack import pack
from pretraining.data.scaling import fit_whitening
from pretraining.data.shards import ShardSet, open_shards
from pretraining.loader import draw_training_batch
from pretraining.monitoring.journal import read_journal
from pretraining.objectives.jepa import Described, Describer, Jepa, JepaDraw, description_loss
from pretraining.runs import load_checkpoint
from pretraining.trainer import Trainer
from skecg.datasets import make_ecg
from skecg.errors import DamagedRecordError, ParameterError
from skecg.leads import CANONICAL_LEADS
from skecg.preprocessing.r_peaks import find_r_peaks
from skecg.spec import InputSpec, TemporalConfig


def twelve_leads() -> PretrainConfig:
    """A small run that sees all twelve leads, and describes."""
    config = small_config(objective=ObjectiveConfig(describe_weight=0.5), run__steps=12)
    whole = {
        "input": InputSpec(CANONICAL_LEADS, 100.0, 200, normalization="zscore", clip=5.0),
        "encoder": TemporalConfig(12, 10, 20, 16, 2, 2),
    }
    return dataclasses.replace(config, **whole)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return small_shards(tmp_path_factory.mktemp("described"), n_records=40)


def test_r_peaks_are_where_the_beats_are() -> None:
    records, labels = make_ecg(6, duration_seconds=10.0, sampling_rate=250.0, noise=0.02, random_state=3)
    for record, rate in zip(records, labels["heart_rate"], strict=True):
        peaks = find_r_peaks(record.signal, 250.0)
        found = 60 * 250 / np.diff(peaks).mean()
        assert found == pytest.approx(rate, rel=0.08)


@pytest.mark.parametrize("samples", [40, 2000])
def test_a_silent_recording_has_no_beats_and_zeros_for_them(samples: int) -> None:
    silent = np.zeros((1, 12, samples), np.float32)

    assert len(find_r_peaks(silent[0], 250.0)) == 0
    assert not beat_features(silent, [np.zeros(0, np.int64)], 250.0).any()
    assert np.isfinite(describe_recordings(silent, 250.0)).all()


def test_the_median_beat_does_not_depend_on_when_the_recording_began() -> None:
    records, _ = make_ecg(1, duration_seconds=12.0, sampling_rate=250.0, noise=0.0, random_state=1)
    signal = records[0].signal
    early, late = (signal[None, :, start : start + 2500] for start in (0, 77))

    first, second = (beat_features(part, [find_r_peaks(part[0], 250.0)], 250.0)[0, :-4] for part in (early, late))

    assert np.corrcoef(first, second)[0, 1] > 0.99


def test_whitened_components_are_uncorrelated_of_unit_variance_and_deaf_to_outliers() -> None:
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    raw[0] = 1e6
    raw[1, 3] = np.nan

    whitening = fit_whitening(raw, 8)
    values = whitening(raw)

    assert values.shape == (500, 8)
    np.testing.assert_allclose(values.T @ values / 500, np.eye(8), atol=1e-4)
    assert np.abs(values[0]).max() < 60
    assert np.all(np.diff(whitening.importance) <= 0)


def test_no_components_are_made_of_nothing() -> None:
    raw = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 6, axis=1).astype(np.float32)
    assert fit_whitening(raw, 5)(raw).shape == (50, 1)
    assert fit_whitening(np.ones((50, 3), np.float32), 5)(np.ones((50, 3), np.float32)).shape == (50, 0)


def test_descriptors_are_computed_once_and_standardized(shards: ShardSet) -> None:
    write_descriptors(shards, progress=False)
    (path,) = shards.folder.glob("descriptors-*.npz")
    written = path.stat().st_mtime_ns
    write_descriptors(shards, progress=False)

    found = read_descriptors(shards)

    assert path.stat().st_mtime_ns == written
    assert found.values.shape == (40, N_DESCRIPTORS)
    assert found.is_known.all()
    assert found.importance.mean() == pytest.approx(1.0, rel=1e-5)
    used = found.importance > 0
    np.testing.assert_allclose(found.values[:, used].std(axis=0), 1.0, atol=2e-2)
    assert not found.values[:, ~used].any()


@pytest.fixture
def many(tmp_path: Path) -> ShardSet:
    """More rows than three chunks hold, so that several processes work on them."""
    return small_shards(tmp_path, n_records=200)


def test_descriptions_are_the_same_bits_whatever_the_number_of_processes(many: ShardSet) -> None:
    found = []
    for n_jobs in (1, 2):
        write_descriptors(many, n_jobs=n_jobs, progress=False)
        found.append(read_descriptors(many).values.copy())
        next(many.folder.glob("descriptors-*.npz")).unlink()
    np.testing.assert_array_equal(*found)


def test_the_same_recording_is_described_alike_whether_whitening_was_fitted_on_it_or_not(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [open_corpus(name, shards.folder.parent / "small.npz") for name in ("once", "again")]
    twice = pack(corpora, tmp_path, sampling_rate=100.0, segment_seconds=2.0, n_jobs=1, progress=False)
    monkeypatch.setattr(feature_tables, "_MOST_ROWS_DESCRIBED", 50)
    write_descriptors(twice, n_jobs=1, progress=False)

    once, again = np.split(read_descriptors(twice).values, 2)

    assert np.abs(once).max(axis=1).min() > 0
    np.testing.assert_allclose(once, again, atol=1e-5)


def test_tables_are_mapped_into_memory_not_read(shards: ShardSet) -> None:
    write_descriptors(shards, progress=False)
    values = read_descriptors(shards).values
    base: Any = values
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with np.load(next(shards.folder.glob("descriptors-*.npz"))) as columns:
        np.testing.assert_array_equal(values, columns["values"])


@pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")
def test_the_disk_has_room_for_a_table_before_it_is_filled(shards: ShardSet) -> None:
    values = feature_tables._rows_on_disk(shards, 1000)
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    (table,) = [link for link in links if re.match(rf"{shards.folder}/.*\(deleted\)", str(link.readlink()))]
    assert table.stat().st_blocks * 512 >= values.nbytes


def test_a_folder_that_cannot_be_written_to_shows_before_the_work(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = open_shards(shutil.copytree(shards.folder, tmp_path / "gone", ignore=shutil.ignore_patterns("desc*")))
    shutil.rmtree(elsewhere.folder)
    monkeypatch.setattr(feature_tables, "_compute_descriptors", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(ParameterError, match="Copy the shards"):
        write_descriptors(elsewhere, progress=False)


def test_rows_that_do_not_differ_are_said_not_to(tmp_path: Path) -> None:
    record = make_ecg(1, duration_seconds=2.0, sampling_rate=100.0, random_state=0).records[0]
    steps = np.stack([np.rint(record.signal * 1e3).astype(np.int16)] * 2)
    np.savez(tmp_path / "equal.npz", signals=steps, lsb=1e-3, units="mV", fs=100.0, leads=list(record.leads))
    corpus = open_corpus("equal", tmp_path / "equal.npz")
    same = pack([corpus], tmp_path / "out", sampling_rate=100.0, segment_seconds=2.0, progress=False)

    with pytest.raises(ParameterError, match=r"2 rows .* that do not differ .* objective\.describe_weight=0"):
        write_descriptors(same, progress=False)
    assert not list(same.folder.glob("descriptors-*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_table_of_what_is_no_number_is_refused(value: float, tmp_path: Path) -> None:
    own = small_shards(tmp_path, n_records=6)
    write_descriptors(own, progress=False)
    (path,) = own.folder.glob("descriptors-*.npz")
    columns = dict(np.load(path))
    columns["values"][3, 5] = value
    np.savez(path, **columns)

    with pytest.raises(DamagedRecordError, match=r"damaged \(values with values that are no numbers"):
        read_descriptors(own)


@pytest.mark.parametrize("change", [lambda old: old[: len(old) // 2], lambda old: old[:9000] + b"9999" + old[9004:]])
def test_a_table_that_was_changed_is_refused_and_computed_again(change: Any, tmp_path: Path) -> None:
    own = small_shards(tmp_path, n_records=6)
    write_descriptors(own, progress=False)
    whole = read_descriptors(own).values.copy()
    (path,) = own.folder.glob("descriptors-*.npz")
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(DamagedRecordError, match=r"descriptors-.*npz.* Delete the file"):
        read_descriptors(own)
    path.unlink()
    write_descriptors(own, progress=False)

    np.testing.assert_array_equal(read_descriptors(own).values, whole)


def test_directions_of_many_rows_are_those_of_their_singular_values() -> None:
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30))).astype(np.float32)
    clipped = np.clip((raw - np.median(raw, axis=0)) / (raw.std(axis=0, dtype=np.float64) + 1e-6), -5, 5)
    left, singular, _ = np.linalg.svd(clipped - clipped.mean(axis=0), full_matrices=False)

    whitening = fit_whitening(raw, 12)

    np.testing.assert_allclose(whitening.importance, singular[:12] ** 0.5 / (singular[:12] ** 0.5).sum(), rtol=1e-5)
    np.testing.assert_allclose(np.abs(whitening(raw)), np.abs(left[:, :12]) * 400**0.5, atol=1e-3)


def test_padding_does_not_change_a_description(tmp_path: Path) -> None:
    records, _ = make_ecg(8, duration_seconds=2.0, sampling_rate=100.0, random_state=0)
    steps = np.stack([np.rint(record.signal * 1e3) for record in records]).astype(np.int16)

    def described(n_samples: int) -> np.ndarray:
        folder = tmp_path / str(n_samples)
        folder.mkdir()
        padded = np.concatenate([steps, np.full((8, 12, n_samples - 200), 99, np.int16)], axis=2)
        what = {"lsb": 1e-3, "units": "mV", "fs": 100.0, "leads": list(CANONICAL_LEADS), "valid_len": np.full(8, 200)}
        np.savez(folder / "some.npz", signals=padded, **what)
        seconds = n_samples / 100
        options = {"sampling_rate": 100.0, "segment_seconds": seconds, "n_jobs": 1, "progress": False}
        shards = pack([open_corpus("some", folder / "some.npz")], folder / "shards", **options)
        write_descriptors(shards, progress=False)
        return read_descriptors(shards).values

    np.testing.assert_allclose(described(260), described(200), atol=1e-4)


def test_rows_that_lack_a_lead_are_not_described_and_do_not_count(tmp_path: Path) -> None:
    records, _ = make_ecg(12, duration_seconds=2.0, sampling_rate=100.0, random_state=0)
    steps = np.stack([np.rint(record.signal * 1e3) for record in records]).astype(np.int16)
    corpora = []
    for name, n_leads in (("whole", 12), ("two", 2)):
        what = {"lsb": 1e-3, "units": "mV", "fs": 100.0, "leads": list(CANONICAL_LEADS[:n_leads])}
        np.savez(tmp_path / f"{name}.npz", signals=steps[:, :n_leads], **what)
        corpora.append(open_corpus(name, tmp_path / f"{name}.npz"))
    shards = pack(corpora, tmp_path / "s", sampling_rate=100.0, segment_seconds=2.0, n_jobs=1, progress=False)
    write_descriptors(shards, progress=False)

    found = read_descriptors(shards)

    np.testing.assert_array_equal(found.is_known, shards.lead_mask.all(axis=1))
    assert 0 < found.is_known.sum() < len(shards)
    described = Described(torch.randn(4, N_DESCRIPTORS), torch.zeros(4, N_DESCRIPTORS))
    assert description_loss(torch.randn(4, N_DESCRIPTORS), described) == 0

    (tmp_path / "none").mkdir()
    lonely = pack(corpora[1:], tmp_path / "none", sampling_rate=100.0, segment_seconds=2.0, n_jobs=1, progress=False)
    with pytest.raises(ParameterError, match="all twelve leads"):
        write_descriptors(lonely, progress=False)


def test_the_describer_reads_mean_and_deviation_of_the_tokens_in_any_order() -> None:
    tokens = torch.randn(3, 7, 16)
    describer = Describer([16])
    torch.testing.assert_close(describer(tokens[:, torch.randperm(7)]), describer(tokens), rtol=0, atol=1e-5)
    assert not torch.allclose(describer(tokens * torch.linspace(0, 1, 7)[:, None]), describer(tokens), atol=1e-3)


def test_each_part_of_a_token_describes_the_recording_by_itself() -> None:
    tokens, other = torch.randn(2, 3, 7, 10)
    describer = Describer([4, 6], "mean+std+max")
    first, second = describer(tokens)
    mixed = describer(torch.cat([tokens[..., :4], other[..., 4:]], dim=-1))
    torch.testing.assert_close(mixed[0], first)
    assert not torch.allclose(mixed[1], second, atol=1e-3)
    described = Described(torch.randn(3, N_DESCRIPTORS), torch.rand(3, N_DESCRIPTORS))
    both = (description_loss(first, described) + description_loss(second, described)) / 2
    torch.testing.assert_close(description_loss(describer(tokens), described), both)


def test_describing_reaches_the_context_encoder_and_only_it(shards: ShardSet) -> None:
    config = twelve_leads()
    write_descriptors(shards, progress=False)
    part = draw_training_batch(config, shards, 0, range(8), read_descriptors(shards))
    model = Jepa(config)
    values = to_values(part.batch, config, "cpu")

    loss = model(values, part.drawn)
    without = model(values, JepaDraw(part.drawn.masks))

    assert not without.description.any()
    expected = without.total.detach() + 0.5 * loss.description.detach()
    torch.testing.assert_close(loss.total.detach(), expected)
    loss.description.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.context_encoder.parameters())
    assert all(p.grad is None for p in model.predictor.parameters())
    assert all(p.grad is None for p in model.target_encoder.parameters())


def test_a_description_can_be_made_from_slices_of_its_own(shards: ShardSet) -> None:
    whole = twelve_leads()
    config = dataclasses.replace(whole, objective=dataclasses.replace(whole.objective, describe_share=0.5))
    write_descriptors(shards, progress=False)
    part = draw_training_batch(config, shards, 5, range(8), read_descriptors(shards))
    later = draw_training_batch(config, shards, 5, range(3, 8), read_descriptors(shards))
    model = Jepa(config)
    values = to_values(part.batch, config, "cpu")

    assert part.drawn.described is not None
    assert later.drawn.described is not None
    seen = part.drawn.described.seen
    assert seen is not None
    assert seen.shape == (8, 10)
    assert (seen.diff(dim=1) > 0).all()
    assert torch.equal(seen[3:], later.drawn.described.seen)
    assert not torch.equal(seen[0], seen[1])
    ours = model(values, part.drawn).description
    tokens = model.context_encoder(values, visible_BK=seen)[:, model.context_encoder.num_registers :]
    torch.testing.assert_close(ours, description_loss(model.describer(tokens), part.drawn.described))
    blind = dataclasses.replace(part.drawn, described=dataclasses.replace(part.drawn.described, seen=None))
    assert not torch.isclose(ours, model(values, blind).description)


def test_descriptions_can_be_all_that_is_learned(shards: ShardSet) -> None:
    whole = twelve_leads()
    config = dataclasses.replace(whole, objective=dataclasses.replace(whole.objective, predict_weight=0.0))
    write_descriptors(shards, progress=False)
    part = draw_training_batch(config, shards, 0, range(8), read_descriptors(shards))
    model = Jepa(config)

    loss = model(to_values(part.batch, config, "cpu"), part.drawn)
    loss.total.backward()

    assert not loss.prediction.any()
    torch.testing.assert_close(loss.total.detach(), 0.5 * loss.description.detach())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ParameterError, match=r"objective\.predict_weight, .*one that is not 0"):
        ObjectiveConfig(predict_weight=0.0)


def test_each_row_is_compared_with_its_own_description(shards: ShardSet) -> None:
    write_descriptors(shards, progress=False)
    descriptors = read_descriptors(shards)
    part = draw_training_batch(twelve_leads(), shards, 3, range(2, 6), descriptors)
    assert part.drawn.described is not None
    np.testing.assert_array_equal(part.drawn.described.values.numpy(), descriptors.values[part.batch.rows])


def test_a_run_that_describes_is_resumed_bit_for_bit_and_says_its_parts(shards: ShardSet, tmp_path: Path) -> None:
    config = twelve_leads()
    Trainer(config, shards, tmp_path / "whole", device="cpu").train()
    stopped = Trainer(config, shards, tmp_path / "two", device="cpu")
    take_step = stopped._take_step
    stopped._take_step = lambda stop, feed: stopping_after_three(take_step(stop, feed))  # type: ignore[method-assign]
    stopped.train()
    Trainer(config, shards, tmp_path / "two", resume=True, device="cpu").train()

    whole, two = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "two"))
    assert stopped.step == 3
    assert_same_bits(whole["model"], two["model"])
    assert "describer.linear.0.weight" in whole["model"]
    lines = [line for line in read_journal(tmp_path / "whole") if "loss" in line]
    assert lines[-1]["description"] < lines[0]["description"]


def stopping_after_three(taken: Any) -> Any:
    return dataclasses.replace(taken, stopping=taken.step == 3)
