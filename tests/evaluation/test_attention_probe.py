from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.errors import ParameterError, ShapeError
from skecg.evaluation.attention_probe import AttentionProbe
from skecg.evaluation.attention_protocol import crop_record, crop_tokens
from skecg.finetuning.heads import AttentionHead

N_CROPS, N_TOKENS, DIM = 3, 10, 8

SMALL = {"n_steps": 600, "batch_size": 64, "learning_rate": 1e-2, "weight_decay": 0.0, "validate_every": 50}


def needles(n_records: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One token a crop carries a mark and the class's sign; the others are noise and take the sign's sum away."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(n_records, N_CROPS, N_TOKENS, DIM)).astype(np.float32)
    y = rng.integers(0, 2, n_records)
    tokens[..., 0] = 0.0
    at = rng.integers(0, N_TOKENS, (n_records, N_CROPS))
    rows, crops = np.indices(at.shape)
    tokens[rows, crops, at, 0] = 4.0
    tokens[rows, crops, at, 1] = (2 * y - 1)[:, None]
    others = np.ones((n_records, N_CROPS, N_TOKENS), dtype=bool)
    others[rows, crops, at] = False
    # The mean over tokens is the same in both classes.
    excess = tokens[..., 1].sum(axis=2) / (N_TOKENS - 1)
    tokens[..., 1] -= np.where(others, excess[..., None], 0.0)
    return tokens, y


@pytest.fixture(scope="module")
def probe() -> AttentionProbe:
    return AttentionProbe(num_heads=2, **SMALL).fit(*needles(512, 0))


def test_attention_finds_what_the_mean_over_tokens_hides(probe: AttentionProbe) -> None:
    train, y = needles(512, 0)
    test, y_test = needles(256, 1)
    pooled = LogisticRegression().fit(train.mean(axis=(1, 2)), y)

    assert roc_auc_score(y_test, pooled.decision_function(test.mean(axis=(1, 2)))) < 0.65
    assert roc_auc_score(y_test, probe.predict_proba(test)[:, 1]) > 0.95


def test_one_seed_gives_one_head_and_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    few = AttentionProbe(num_heads=2, **SMALL | {"n_steps": 60})
    one, again, other = (clone(few).set_params(random_state=s).fit(*needles(128, 0)) for s in (0, 0, 1))
    test, _ = needles(32, 1)

    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(again.predict_proba(test), one.predict_proba(test))
    assert not np.array_equal(other.predict_proba(test), one.predict_proba(test))


def test_a_record_is_the_mean_of_the_logits_of_its_crops(probe: AttentionProbe) -> None:
    test, _ = needles(9, 2)
    crops = [probe.decision_function(test[:, [crop]]) for crop in range(N_CROPS)]

    np.testing.assert_allclose(probe.decision_function(test), np.mean(crops, axis=0), rtol=1e-4, atol=1e-5)


def test_the_order_of_tokens_and_crops_does_not_matter(probe: AttentionProbe) -> None:
    test, _ = needles(9, 2)

    np.testing.assert_allclose(
        probe.decision_function(test), probe.decision_function(test[:, ::-1, ::-1]), rtol=1e-4, atol=1e-5
    )


def test_padding_of_shorter_crops_gets_no_attention(probe: AttentionProbe) -> None:
    test, _ = needles(4, 3)
    ragged = [test[0, :, :4], *test[1:]]

    together = probe.decision_function(ragged)

    np.testing.assert_allclose(together[:1], probe.decision_function([test[0, :, :4]]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together[1:], probe.decision_function(test)[1:], rtol=1e-4, atol=1e-5)


def test_each_label_of_an_indicator_has_its_own_probability() -> None:
    tokens, y = needles(512, 0)
    shifted = np.roll(y, 1)  # a label that the tokens know nothing of
    test, y_test = needles(256, 1)
    probe = AttentionProbe(num_heads=2, **SMALL).fit(tokens, np.stack([y, shifted, 1 - y], axis=1))

    found = probe.predict_proba(test)

    assert found.shape == (256, 3)
    assert roc_auc_score(y_test, found[:, 0]) > 0.95
    assert roc_auc_score(1 - y_test, found[:, 2]) > 0.95
    assert probe.predict(test).shape == (256, 3)


def test_classes_keep_their_names() -> None:
    tokens, y = needles(256, 0)
    names = np.array(["sinus", "af"])[y]
    probe = AttentionProbe(num_heads=2, **SMALL).fit(tokens, names)

    assert probe.classes_.tolist() == ["af", "sinus"]
    assert np.mean(probe.predict(tokens) == names) > 0.8


def test_validation_patients_are_never_trained_on() -> None:
    tokens, y = needles(40, 0)
    probe = AttentionProbe(num_heads=2, n_steps=1, validation_fraction=0.25)
    patients = np.repeat(np.arange(10), 4)
    numbered = [np.full((1, 1, 2), row) for row in range(40)]
    probe._encode(y, 40, learn=True)

    train, train_y, held, held_y = probe._hold_out(numbered, y, patients)

    train_rows, held_rows = ([int(tokens[0, 0, 0]) for tokens in part] for part in (train, held))
    assert sorted(train_rows + held_rows) == list(range(40))
    assert not set(patients[train_rows]) & set(patients[held_rows])
    np.testing.assert_array_equal(train_y, y[train_rows])
    assert 0 < np.mean(held_y) < 1
    with pytest.raises(ParameterError, match="none can be held out"):
        AttentionProbe(num_heads=2, n_steps=1).fit(tokens[:2], [0, 1])


def test_the_step_kept_is_the_best_on_validation_and_patience_ends_the_rest() -> None:
    tokens, y = needles(64, 0)
    noise = np.random.default_rng(5).normal(size=tokens.shape).astype(np.float32)
    probe = AttentionProbe(num_heads=2, **{**SMALL, "n_steps": 5000}, patience=200)
    probe.fit(tokens, y, validation=(noise, np.arange(64) % 2))

    steps, scores = zip(*probe.validation_scores_, strict=True)
    assert scores[steps.index(probe.best_step_)] == max(scores)
    assert steps[-1] - probe.best_step_ == 200


def test_the_rate_rises_then_falls_along_half_a_cosine() -> None:
    probe = AttentionProbe(n_steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)

    assert [probe._rate(step) for step in (5, 10, 60, 110)] == pytest.approx([0.5, 1.0, 0.55, 0.1])


def test_the_head_equals_attention_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    head = AttentionHead(dim=DIM, num_heads=2, n_outputs=3)
    torch.nn.init.normal_(head.query, generator=generator)
    tokens = torch.randn(5, 7, DIM, generator=generator)
    query = (head.to_query.weight @ head.query).view(2, 1, 4)
    keys, values = (part.view(5, 7, 2, 4).transpose(1, 2) for part in head.to_keys_values(tokens).split(DIM, dim=-1))
    weights = (query @ keys.transpose(2, 3) / 4**0.5).softmax(dim=-1)
    few = (query @ keys[:, :, :4].transpose(2, 3) / 4**0.5).softmax(dim=-1)
    absent = (torch.arange(7) >= 4).expand(5, 7)

    torch.testing.assert_close(head(tokens), head.linear((weights @ values).reshape(5, DIM)))
    torch.testing.assert_close(head(tokens, counted_BN=~absent), head.linear((few @ values[:, :, :4]).reshape(5, DIM)))


@pytest.mark.parametrize(("shape", "y"), [((4, 10, 8), [0, 1, 0, 1]), ((4, 3, 10, 8), [0, 1])])
def test_tokens_and_labels_that_do_not_belong_together_are_refused(shape: tuple[int, ...], y: list[int]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        AttentionProbe().fit(np.zeros(shape, np.float32), y)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ParameterError, match="divisor"):
        AttentionProbe(num_heads=3).fit(*needles(8, 0))


def test_ten_seconds_are_seven_crops_and_a_short_record_is_one() -> None:
    record = make_ecg(1, sampling_rate=500, random_state=0).records[0]
    crops = crop_record(record)

    assert [crop.n_samples for crop in crops] == [1250] * 7
    np.testing.assert_array_equal(crops[-1].signal, record.signal[:, -1250:])
    short = ECGRecord(record.signal[:, :1000], 500, record.leads)
    assert [crop.n_samples for crop in crop_record(short)] == [1000]
    with pytest.raises(ParameterError, match="expected both > 0"):
        crop_record(record, 0.0)


def test_tokens_of_crops_are_those_of_the_cut_records_whatever_the_input_is() -> None:
    records = make_ecg(3, sampling_rate=250, random_state=0).records
    embedder = JEPAEmbedder(sampling_rate=250).fit(records)

    found = crop_tokens(embedder, records)
    arrays = crop_tokens(embedder, np.stack([record.signal for record in records]))
    half = crop_tokens(embedder, records, dtype="float16")

    assert [tokens.shape for tokens in found] == [(7, 25, 396)] * 3
    third = ECGRecord(records[1].signal[:, 625:1250], 250, records[1].leads)
    np.testing.assert_allclose(found[1][2], embedder.transform_tokens([third])[0].values, atol=1e-5)
    np.testing.assert_array_equal(found, arrays)
    frame = pandas.DataFrame({"age": [50, 60, 70], "ecg": records})
    in_frame = JEPAEmbedder(sampling_rate=250, path_column="ecg").fit(frame)
    np.testing.assert_array_equal(crop_tokens(in_frame, frame), found)
    assert half[0].dtype == np.float16


@pytest.mark.slow
def test_rhythms_are_told_apart_from_tokens_of_a_real_encoder() -> None:
    records, labels = make_ecg(96, rhythm=["sinus", "af"], noise=0.02, sampling_rate=250, random_state=3)
    embedder = JEPAEmbedder().fit(records)
    tokens, y = crop_tokens(embedder, records), labels["rhythm"]

    probe = AttentionProbe(n_steps=150, batch_size=32, validate_every=25).fit(tokens[:64], y[:64])

    assert roc_auc_score(y[64:] == "sinus", probe.predict_proba(tokens[64:])[:, 1]) > 0.8
