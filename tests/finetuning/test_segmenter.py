"""A Segmenter labels every sample of any record, learns from what is known of others, and stays what it was."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score

import skecg
from skecg import ECGRecord, JEPAEmbedder, Segmenter
from skecg.annotations import wave_traces
from skecg.datasets import SyntheticWaves, make_waves
from skecg.errors import InputError, ParameterError, ShapeError, SignalWarning, SkecgWarning
from skecg.finetuning.losses import mean_f1
from skecg.finetuning.sample_labels import read_sample_labels
from skecg.weights import find_weights, loaded_encoder


def quick(model: str | Path, **parameters: Any) -> Segmenter:
    return Segmenter(model, **{"epochs": 1, "head_epochs": 1, "batch_size": 4, **parameters})


def labels_of(hearts: SyntheticWaves) -> list[NDArray[np.int8]]:
    return [read_sample_labels(waves, record, "majority", 0) for record, waves in zip(*hearts, strict=True)]


def assert_same_answers(one: Segmenter, other: Segmenter, records: Any) -> None:
    for mine, theirs in zip(one.predict_proba(records), other.predict_proba(records), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def state_of(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    return dict(segmenter.network_.state_dict())


def differs(one: Segmenter, other: Segmenter) -> bool:
    return any(not torch.equal(tensor, state_of(other)[name]) for name, tensor in state_of(one).items())


def test_waves_are_found_in_hearts_that_were_not_learned_from(segmenter: Segmenter) -> None:
    unseen = make_waves(4, random_state=1)

    assert segmenter.score(unseen.records, unseen.waves) > 0.85


@pytest.mark.parametrize(("rate", "seconds"), [(500.0, 10.0), (360.0, 3.3), (100.0, 2.5), (1000.0, 1.0), (128.0, 61.7)])
def test_every_sample_of_a_record_has_a_label_at_its_own_rate(
    segmenter: Segmenter, rate: float, seconds: float
) -> None:
    record = make_waves(1, duration_seconds=seconds, sampling_rate=rate, random_state=2).records[0]

    labels, probabilities = segmenter.predict([record])[0], segmenter.predict_proba([record])[0]

    assert labels.shape == (record.n_samples,)
    assert labels.dtype == np.int8
    assert set(labels) <= set(segmenter.classes_)
    assert probabilities.shape == (record.n_samples, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)


def test_the_middle_of_a_long_record_is_labelled_as_if_it_were_all_there_is(segmenter: Segmenter) -> None:
    record = make_waves(1, duration_seconds=25.0, random_state=3).records[0]
    part = ECGRecord(record.signal[:, 5000:10000], 500.0, record.leads)

    whole, alone = segmenter.predict([record, part])

    assert len(whole) == 12500
    assert (whole[5500:9500] == alone[500:4500]).mean() > 0.97
    assert (whole[5500:9500] > 0).mean() > 0.2


def test_records_of_all_lengths_and_leads_may_come_together(segmenter: Segmenter, hearts: SyntheticWaves) -> None:
    two_leads = ECGRecord(hearts.records[0].signal[:2, :1700], 500.0, ["I", "II"])
    some = [hearts.records[1], two_leads, make_waves(1, duration_seconds=31.0, random_state=4).records[0]]

    together = segmenter.predict_proba(some)

    for record, answer in zip(some, together, strict=True):
        np.testing.assert_allclose(segmenter.predict_proba([record])[0], answer, atol=1e-5)


def test_arrays_and_files_are_taken_as_by_the_embedder(
    segmenter: Segmenter, hearts: SyntheticWaves, tmp_path: Path
) -> None:
    record = hearts.records[0]
    wfdb.wrsamp(
        "r", 500, ["mV"] * 12, list(record.leads), p_signal=record.signal.T.astype(np.float64), fmt=["16"] * 12,
        write_dir=str(tmp_path),
    )  # fmt: skip

    of_record = segmenter.predict([record])[0]

    array = np.stack([record.signal, hearts.records[1].signal])
    np.testing.assert_array_equal(segmenter.predict(array, sampling_rate=500)[0], of_record)
    np.testing.assert_array_equal(segmenter.predict(torch.from_numpy(array), sampling_rate=500)[0], of_record)
    assert (segmenter.predict([tmp_path / "r"])[0] == of_record).mean() > 0.99  # rounded to the file's steps


def test_what_is_not_known_does_not_matter(hearts: SyntheticWaves, tiny: Path) -> None:
    """Neither how it is marked, nor records of which nothing is known."""
    records, tracks = hearts.records[:6], labels_of(hearts)[:6]
    marked_otherwise = [np.where(track < 0, -2, track) for track in tracks]

    one = quick(tiny, validation_fraction=0).fit(records, tracks)

    assert_same_answers(one, quick(tiny, validation_fraction=0).fit(records, marked_otherwise), records[:2])
    silent = [*records, hearts.records[7]], [*tracks, np.full(5000, -1)]
    assert_same_answers(one, quick(tiny, validation_fraction=0).fit(*silent), records[:2])


def test_labels_may_be_of_each_lead(hearts: SyntheticWaves, tiny: Path) -> None:
    records, waves = hearts.records[:4], hearts.waves[:4]
    of_leads = [np.stack([trace.labels for trace in wave_traces(some, "each")]) for some in waves]
    of_leads = [np.pad(labels, ((0, 0), (0, 5000 - labels.shape[1])), constant_values=-1) for labels in of_leads]

    one = quick(tiny, stages="head").fit(records, waves)

    assert_same_answers(one, quick(tiny, stages="head").fit(records, of_leads), records)
    assert_same_answers(one, quick(tiny, stages="head", target="II").fit(records, of_leads), records)


def test_one_seed_gives_one_result_whoever_computes(hearts: SyntheticWaves, tiny: Path) -> None:
    records, waves = hearts.records[:6], hearts.waves[:6]
    one = quick(tiny, random_state=1).fit(records, waves)

    assert not differs(one, quick(tiny, random_state=1, n_jobs=2).fit(records, waves))
    assert differs(one, quick(tiny, random_state=2).fit(records, waves))


def test_fitting_leaves_everybodys_random_numbers_alone(hearts: SyntheticWaves, tiny: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.mtrand._rand.get_state()[1].tolist()

    quick(tiny).fit(hearts.records[:4], hearts.waves[:4])

    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.mtrand._rand.get_state()[1].tolist() == before[1]


def test_the_encoder_that_the_process_shares_stays_what_it_was(hearts: SyntheticWaves, tiny: Path) -> None:
    shared_one = loaded_encoder(find_weights(tiny), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in shared_one.state_dict().items()}

    fitted = quick(tiny, validation_fraction=0).fit(hearts.records[:4], hearts.waves[:4])

    assert all(torch.equal(tensor, before[name]) for name, tensor in shared_one.state_dict().items())
    assert any(not torch.equal(state_of(fitted)[f"encoder.{name}"], tensor) for name, tensor in before.items())


def test_the_head_alone_leaves_the_encoder_as_it_was(hearts: SyntheticWaves, tiny: Path) -> None:
    encoder, _ = skecg.load_encoder(tiny)

    fitted = quick(tiny, stages="head", validation_fraction=0).fit(hearts.records[:4], hearts.waves[:4])

    for name, tensor in encoder.state_dict().items():
        assert torch.equal(state_of(fitted)[f"encoder.{name}"], tensor)
    assert list(fitted.history_) == ["head"]
    assert list(quick(tiny, stages="all").fit(hearts.records[:4], hearts.waves[:4]).history_) == ["all"]


def test_a_layer_decay_near_zero_trains_the_decoder_alone(hearts: SyntheticWaves, tiny: Path) -> None:
    encoder, _ = skecg.load_encoder(tiny)

    fitted = quick(tiny, stages="all", layer_decay=1e-9, validation_fraction=0).fit(
        hearts.records[:4], hearts.waves[:4]
    )

    for name, tensor in encoder.state_dict().items():
        if not name.startswith("norm."):  # which learns with the decoder
            torch.testing.assert_close(state_of(fitted)[f"encoder.{name}"], tensor, rtol=0, atol=1e-6)


def test_no_patient_is_both_learned_from_and_held_out(hearts: SyntheticWaves, tiny: Path) -> None:
    patients = np.array(["a", "b", "c", "a", "b", "c", "d", "d", "e", "f", "e", "f"])

    fitted = quick(tiny, stages="head", validation_fraction=0.3).fit(hearts.records, hearts.waves, groups=patients)

    held = patients[fitted.validation_rows_]
    rest = np.delete(patients, fitted.validation_rows_)
    assert len(set(held)) == 2
    assert set(held).isdisjoint(rest)
    with pytest.raises(ParameterError, match="groups of shape"):
        quick(tiny).fit(hearts.records, hearts.waves, groups=patients[:3])


@pytest.mark.parametrize("stages", ["head", "all"])
def test_no_window_of_a_patient_held_out_is_learned_from(
    hearts: SyntheticWaves, tiny: Path, monkeypatch: pytest.MonkeyPatch, stages: str
) -> None:
    from skecg.finetuning.data import WindowBatches

    seen: set[int] = set()
    loss = WindowBatches.loss

    def noted(self: WindowBatches, network: Any, part: Any) -> torch.Tensor:
        seen.update(self.windows.inputs.windows.owner[part.rows].tolist())
        return loss(self, network, part)

    monkeypatch.setattr(WindowBatches, "loss", noted)
    patients = np.arange(12) // 3

    fitted = quick(tiny, stages=stages, validation_fraction=0.25).fit(hearts.records, hearts.waves, groups=patients)

    assert len(seen) == 9
    assert seen.isdisjoint(fitted.validation_rows_.tolist())


def test_the_epoch_that_is_best_on_the_held_out_is_kept(hearts: SyntheticWaves, tiny: Path) -> None:
    fitted = Segmenter(tiny, stages="head", head_epochs=6, batch_size=4).fit(hearts.records, hearts.waves)
    history = fitted.history_["head"]
    held = fitted.validation_rows_

    assert history.best_epoch == int(np.argmax(history.scores))
    found = fitted.score([hearts.records[row] for row in held], [hearts.waves[row] for row in held])
    assert found == pytest.approx(history.scores[history.best_epoch], abs=0.02)  # at another rate, and stitched


def test_too_few_patients_to_hold_any_out_are_warned_of(hearts: SyntheticWaves, tiny: Path) -> None:
    with pytest.warns(SkecgWarning, match="too few patients"):
        fitted = quick(tiny).fit(hearts.records[:1], hearts.waves[:1])
    assert len(fitted.validation_rows_) == 0


@pytest.mark.parametrize("copy", ["pickle", "folder"])
def test_a_copy_gives_the_same_answers(segmenter: Segmenter, hearts: SyntheticWaves, tmp_path: Path, copy: str) -> None:
    if copy == "pickle":
        other = pickle.loads(pickle.dumps(segmenter))
    else:
        segmenter.save(tmp_path / "waves", licence="none")
        other = Segmenter.load(tmp_path / "waves")

    assert_same_answers(segmenter, other, hearts.records[:3])
    assert other.get_params() == segmenter.get_params()
    np.testing.assert_array_equal(other.classes_, segmenter.classes_)
    assert not next(other.network_.parameters()).requires_grad


def test_a_clone_is_unfitted_with_the_same_parameters(segmenter: Segmenter) -> None:
    copy = clone(segmenter)

    assert copy.get_params() == segmenter.get_params()
    with pytest.raises(NotFittedError):
        copy.predict([])


def test_a_saved_folder_serves_as_weights_of_the_encoder(
    segmenter: Segmenter, hearts: SyntheticWaves, tmp_path: Path
) -> None:
    segmenter.save(tmp_path / "waves")

    features = JEPAEmbedder(tmp_path / "waves", cache=None).fit_transform(hearts.records[:2])

    assert np.isfinite(features).all()
    assert (
        sorted(path.suffix for path in (tmp_path / "waves").iterdir())
        == [".json", ".json", ".md"] + [".safetensors"] * 3
    )


def test_leads_of_a_leadwise_encoder_are_averaged(hearts: SyntheticWaves, tiny_leadwise: Path) -> None:
    fitted = quick(tiny_leadwise, head_epochs=6).fit(hearts.records, hearts.waves)

    assert fitted.score(hearts.records, hearts.waves) > 0.3
    some = ECGRecord(hearts.records[0].signal[:2], 500.0, ["I", "II"])
    subset = quick(tiny_leadwise, missing_leads="subset").fit([some] * 2, hearts.waves[:2], groups=[0, 1])
    assert subset.predict([some])[0].shape == (5000,)


def test_waves_that_were_found_lie_where_they_are(segmenter: Segmenter) -> None:
    records, waves = make_waves(2, random_state=6)

    for found, truth in zip(segmenter.annotate(records), waves, strict=True):
        inside = (found.table[:, 0] > 300) & (found.table[:, 2] < 4700)
        mine = found.table[inside & (found.table[:, 3] == 1), 1]
        true = truth.tables[0][truth.tables[0][:, 3] == 1, 1]
        nearest = np.abs(mine[:, None] - true[None, :]).min(axis=1)
        assert len(mine) > 5
        assert np.median(nearest) < 15  # 30 ms
        assert (np.diff(found.sample) >= 0).all()


def test_annotations_written_can_be_learned_from(
    segmenter: Segmenter, hearts: SyntheticWaves, tiny: Path, tmp_path: Path
) -> None:
    paths = []
    for number, found in enumerate(segmenter.annotate(hearts.records[:3])):
        paths.append(tmp_path / f"r{number}.waves")
        found.write(paths[-1])

    assert segmenter.score(hearts.records[:3], paths) > 0.97
    quick(tiny, stages="head").fit(hearts.records[:3], paths)


def test_gaps_are_neither_waves_nor_background(segmenter: Segmenter) -> None:
    (whole,), waves = make_waves(1, random_state=5)
    signal = whole.signal.copy()
    signal[:, 2000:3000] = np.nan
    signal[3:, 500:1000] = np.nan  # the others are there
    record = ECGRecord(signal, whole.sampling_rate, whole.leads)
    with pytest.warns(SignalWarning, match="gap"):
        (labels,), (chances,), (found,) = (
            getattr(segmenter, method)([record]) for method in ("predict", "predict_proba", "annotate")
        )
    assert np.flatnonzero(labels < 0).tolist() == list(range(2000, 3000))
    assert np.flatnonzero(np.isnan(chances).all(axis=1)).tolist() == list(range(2000, 3000))
    assert not any(2000 <= onset < 3000 or 2000 <= offset < 3000 for onset, _, offset, _ in found.table)
    with pytest.warns(SignalWarning, match="gap"):
        assert 0 < segmenter.score([record], list(waves)) <= 1


def test_the_score_counts_known_samples_only(segmenter: Segmenter, hearts: SyntheticWaves) -> None:
    records = hearts.records[:2]
    own = [labels.astype(int) for labels in segmenter.predict(records)]

    assert segmenter.score(records, own) == 1.0
    wrong = [np.where(np.arange(5000) < 2500, labels, (labels + 1) % 4) for labels in own]
    hidden = [np.where(np.arange(5000) < 2500, labels, -1) for labels in wrong]
    assert segmenter.score(records, wrong) < 0.9
    assert segmenter.score(records, hidden) == 1.0


def test_a_wave_that_nobody_has_and_nobody_finds_does_not_count() -> None:
    fibrillating = np.zeros((4, 4), dtype=np.int64)
    fibrillating[[0, 2, 3], [0, 2, 3]] = 100
    assert mean_f1(fibrillating) == 1.0
    fibrillating[0, 1] = 1  # one sample that is taken for a P wave
    assert mean_f1(fibrillating) == pytest.approx(2 / 3)
    fibrillating[2, 0] = 50
    assert mean_f1(fibrillating) == pytest.approx((0 + 200 / 250 + 1) / 3)
    assert mean_f1(np.diag([100, 0, 0, 0])) == 1.0


def test_a_score_without_p_waves_is_that_of_the_others(segmenter: Segmenter, hearts: SyntheticWaves) -> None:
    records = hearts.records[:2]
    own = [np.where(labels == 1, -1, labels).astype(int) for labels in segmenter.predict(records)]

    assert segmenter.score(records, own) == 1.0


def test_a_score_of_nothing_known_is_refused_as_a_fit_is(segmenter: Segmenter, hearts: SyntheticWaves) -> None:
    with pytest.raises(InputError, match="without a single label"):
        segmenter.score(hearts.records[:2], [np.full(5000, -1)] * 2)


def test_it_can_be_cross_validated_by_patients(hearts: SyntheticWaves, tiny: Path) -> None:
    segmenter = quick(str(tiny), stages="head", head_epochs=6)

    scores = cross_val_score(
        segmenter, hearts.records, hearts.waves, groups=np.arange(12) // 2, cv=GroupKFold(2), error_score="raise"
    )

    assert (scores > 0.4).all()


def test_an_interrupted_fit_leaves_what_was_learned(
    hearts: SyntheticWaves, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skecg.finetuning import stages as training

    n_epochs = 1

    def interrupted(*arguments: Any, **named: Any) -> None:
        named["history"].losses += [1.0] * n_epochs
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_network", interrupted)
    segmenter = quick(tiny)

    with pytest.raises(KeyboardInterrupt):
        segmenter.fit(hearts.records[:4], hearts.waves[:4])

    assert segmenter.predict(hearts.records[:1])[0].shape == (5000,)
    n_epochs = 0
    with pytest.raises(KeyboardInterrupt):
        segmenter.fit(hearts.records[:4], hearts.waves[:4])
    with pytest.raises(NotFittedError):
        segmenter.predict(hearts.records[:1])


def test_progress_is_shown_when_asked_for(
    hearts: SyntheticWaves, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quick(tiny, verbose=1).fit(hearts.records[:4], hearts.waves[:4]).predict(hearts.records[:1])

    shown = capfd.readouterr().err
    assert all(f"{what}: 100%" in shown for what in ("reading", "training the head", "fine-tuning", "segmenting"))


@pytest.mark.parametrize("name", ["stride", "n_jobs"])
def test_what_is_not_allowed_is_refused_where_it_is_used(
    segmenter: Segmenter, hearts: SyntheticWaves, name: str
) -> None:
    other = pickle.loads(pickle.dumps(segmenter)).set_params(**{name: 0})

    with pytest.raises(ParameterError, match=f"{name}=0"):
        other.predict(hearts.records[:1])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stages": "three"}, "stages='three'"),
        ({"epochs": 0}, "epochs=0"),
        ({"head_learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"width": 2.5}, "width=2.5"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"missing_leads": "guess"}, "missing_leads='guess'"),
        ({"stride": 0}, "stride=0"),
        ({"augment": "yes"}, "augment='yes'"),
    ],
)
def test_parameters_that_are_not_allowed_are_refused(
    hearts: SyntheticWaves, tiny: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        quick(tiny, **parameters).fit(hearts.records[:2], hearts.waves[:2])


def test_labels_that_do_not_belong_to_the_records_are_refused(hearts: SyntheticWaves, tiny: Path) -> None:
    with pytest.raises(ShapeError, match="3 entries for 2 records"):
        quick(tiny).fit(hearts.records[:2], hearts.waves[:3])
    with pytest.raises(ShapeError, match=r"y\[1\] of shape \(7,\)"):
        quick(tiny).fit(hearts.records[:2], [np.zeros(5000, int), np.zeros(7, int)])
    with pytest.raises(InputError, match="without a single label"):
        quick(tiny).fit(hearts.records[:2], [np.full(5000, -1)] * 2)
