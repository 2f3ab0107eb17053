from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from waved_hearts import waved_heart

from skecg import ECGRecord, JEPAEmbedder
from skecg.annotations import OUTSIDE, UNCLEAR, Trace, Waves, boundaries, lead_labels, majority_labels, wave_traces
from skecg.datasets import read_packed
from skecg.datasets.base import LabelledECGs
from skecg.errors import LeadError, ParameterError, ShapeError
from skecg.evaluation.delineation import WaveProtocol, annotated_waves, compare_waves, predict_background, predict_waves
from skecg.evaluation.delineation_scores import (
    PredictedTrace,
    boundary_table,
    match_boundaries,
    score_waves,
    wave_table,
)
from skecg.evaluation.features import standard_sources
from skecg.evaluation.token_probe import TokenHead, raw_tokens, slices_of
from skecg.inference.pipeline import RecordTokens
from skecg.linear_model import newton
from skecg.splits import patient_folds

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def hearts() -> tuple[list[ECGRecord], list[Waves], NDArray[np.str_]]:
    """Sixteen records of as many people."""
    records, waves = zip(*(waved_heart(seed) for seed in range(16)), strict=True)
    return list(records), list(waves), np.arange(16).astype(str)


# Labels.


def test_what_was_not_annotated_is_not_background() -> None:
    labels = lead_labels(np.array([[10, 12, 14, 1], [20, 25, 30, 2]]), 40)

    assert (labels[:10] == OUTSIDE).all()
    assert (labels[31:] == OUTSIDE).all()
    assert (labels[15:20] == 0).all()
    assert (labels[10:15] == 2).all()
    assert (labels[20:31] == 3).all()


def test_an_edge_that_was_not_marked_leaves_the_time_to_the_neighbour_open() -> None:
    labels = lead_labels(np.array([[2, 3, 4, 0], [-1, 8, 9, 1], [12, 13, -1, 2], [18, 19, 20, 0], [-1, 25, -1, 2]]), 30)

    assert labels[4] == 1
    assert labels[5] == 0
    assert (labels[6:8] == UNCLEAR).all()
    assert (labels[8:10] == 2).all()
    assert (labels[10:12] == 0).all()
    assert (labels[14:17] == UNCLEAR).all()
    assert labels[17] == labels[21] == 0
    assert (labels[22:25] == UNCLEAR).all()
    assert labels[25] == 3
    assert (labels[26:] == UNCLEAR).all()


def test_the_order_of_the_table_does_not_matter_and_the_qrs_complex_covers_what_overlaps() -> None:
    table = np.array([[2, 4, 9, 2], [8, 12, 15, 0], [14, 16, 18, 1]])

    np.testing.assert_array_equal(lead_labels(table), lead_labels(table[::-1]))
    assert lead_labels(table)[[8, 14]].tolist() == [1, 2]
    assert len(lead_labels(np.empty((0, 4)), 7)) == 7


def test_the_majority_is_of_the_leads_that_know() -> None:
    leads = np.array([[2, 2, -1, 0, 1], [2, 0, -1, 0, -2], [0, -1, 3, 1, 1], [2, -1, 3, 1, 1]], dtype=np.int8)

    assert majority_labels(leads).tolist() == [2, OUTSIDE, OUTSIDE, 0, 1]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=12))
def test_boundaries_of_labels_are_those_annotated(steps: list[tuple[int, int, int]]) -> None:
    rows, at = [], 0
    for gap, length, kind in steps:
        rows.append([at + gap, at + gap, at + gap + length, kind])
        at += gap + length + 1
    table = np.array(rows)
    labels = lead_labels(table)

    for kind in range(3):
        onsets, offsets = boundaries(labels, 500.0, kind + 1)
        of_kind = table[table[:, 3] == kind]
        np.testing.assert_allclose(onsets * 500, of_kind[:, 0])
        np.testing.assert_allclose(offsets * 500, of_kind[:, 2])


def test_an_edge_that_nobody_marked_is_no_boundary() -> None:
    onsets, offsets = boundaries(lead_labels(np.array([[-1, 3, 5, 1], [9, 10, -1, 1], [15, 16, 17, 1]]), 20), 1.0, 2)

    assert onsets.tolist() == [9, 15]
    assert offsets.tolist() == [5, 17]


def test_traces_follow_the_target_and_unknown_leads_are_refused() -> None:
    waves = Waves(500.0, ("I", "II"), (np.array([[2, 3, 4, 1]]), np.array([[3, 4, 5, 1]])))

    assert [trace.lead for trace in wave_traces(waves, "each")] == ["I", "II"]
    np.testing.assert_array_equal(wave_traces(waves, "II")[0].labels, [-1, -1, -1, 2, 2, 2])
    np.testing.assert_array_equal(wave_traces(waves, "majority")[0].labels, [-1, -1, -1, 2, 2, -1])
    with pytest.raises(LeadError, match="target='V9'"):
        wave_traces(waves, "V9")


# The head.


def test_the_head_is_the_logistic_regression_of_each_instant() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6)).astype(np.float32) * [1, 2, 3, 0.1, 5, 1] + [0, 3, 0, 0, 9, 0]
    X = X.astype(np.float32)
    y = ((X[:, :1] + rng.normal(size=(300, 2)) > 0.3).astype(np.int64)) + (rng.random((300, 2)) < 0.3)
    penalty = 0.01
    head = TokenHead(3, penalty).fit(X, y)

    found = head.log_probabilities(X)

    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    for instant in range(2):
        # scikit-learn sums over records where this takes the mean over records and instants.
        peer = LogisticRegression(C=1 / (penalty * 300), tol=1e-8, max_iter=1000).fit(standard, y[:, instant])
        np.testing.assert_allclose(np.exp(found[:, instant]), peer.predict_proba(standard), atol=5e-4)


def test_the_head_reaches_the_same_optimum_whatever_the_scale_of_features() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 5)).astype(np.float32)
    y = rng.integers(0, 4, (200, 3))
    scaled = X * np.array([1e-2, 1, 10, 1e3, 5], dtype=np.float32) + 7

    one, other = TokenHead(4, 0.1).fit(X, y), TokenHead(4, 0.1).fit(scaled, y)

    np.testing.assert_allclose(one.log_probabilities(X), other.log_probabilities(scaled), atol=1e-4)


def test_instants_solved_in_several_blocks_are_those_solved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, (60, 5))
    at_once = TokenHead(3, 0.01).fit(X, y).log_probabilities(X)
    monkeypatch.setattr(newton, "LARGEST_BLOCK", 2 * 3 * 60)

    np.testing.assert_allclose(TokenHead(3, 0.01).fit(X, y).log_probabilities(X), at_once, atol=1e-5)


def test_a_feature_without_variance_does_no_harm_and_odd_labels_are_refused() -> None:
    X = np.ones((10, 2), dtype=np.float32)
    assert np.isfinite(TokenHead(4, 0.01).fit(X, np.zeros((10, 2), dtype=int)).log_probabilities(X)).all()
    with pytest.raises(ShapeError, match="expected 0 to 3"):
        TokenHead(4, 0.01).fit(X, np.full((10, 2), -1))


# Tokens and instants.


def tokens_of(values: NDArray[np.float32], starts: list[float], lead: str = "all") -> RecordTokens:
    start = np.array(starts)
    return RecordTokens(values, start, start + 0.1, np.array([lead] * len(start)))


def test_neighbours_are_found_by_time_and_not_by_row() -> None:
    values = np.arange(1, 6, dtype=np.float32)[:, None]
    # Two windows, the second overlapping the first by half a token.
    tokens = tokens_of(values, [0.0, 0.1, 0.2, 0.15, 0.25])
    trace = Trace(np.zeros(200, dtype=np.int8), 500.0, "majority")

    found = slices_of(tokens, trace, "majority", 1, 250.0)

    np.testing.assert_array_equal(found.features, [[0, 1, 2], [1, 2, 3], [2, 3, 0], [0, 4, 5], [4, 5, 0]])
    assert found.first_instants.tolist() == [0, 25, 50, 38, 62]
    assert found.labels.shape == (5, 25)


def test_tokens_of_a_lead_are_held_to_their_lead_or_set_side_by_side() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    start = np.array([0.0, 0.1, 0.0, 0.1])
    tokens = RecordTokens(values, start, start + 0.1, np.array(["I", "I", "II", "II"]))
    trace = Trace(np.zeros(100, dtype=np.int8), 500.0, "II")

    np.testing.assert_array_equal(slices_of(tokens, trace, "each", 0, 250.0).features, values[2:])
    np.testing.assert_array_equal(
        slices_of(tokens, trace, "II", 0, 250.0).features, values.reshape(2, 2, 2).transpose(1, 0, 2).reshape(2, 4)
    )


def test_labels_stand_at_the_instants_of_their_tokens() -> None:
    labels = np.zeros(500, dtype=np.int8)
    labels[100:150] = 2  # 0.2 s to 0.3 s at 500 Hz
    trace = Trace(labels, 500.0, "majority")

    found = slices_of(tokens_of(np.zeros((5, 1), np.float32), [0.0, 0.1, 0.2, 0.3, 0.4]), trace, "majority", 0, 250.0)

    assert (found.labels == 2).all(axis=1).tolist() == [False, False, True, False, False]
    assert (found.labels == 2).any(axis=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("folder", ["tiny-temporal", "tiny-leadwise"])
def test_samples_in_the_place_of_tokens_have_the_places_of_tokens(folder: str) -> None:
    records = [waved_heart(0)[0]]
    embedder = JEPAEmbedder(FIXTURES / folder).fit(records)

    raw, tokens = raw_tokens(embedder, records)[0], embedder.transform_tokens(records)[0]

    by_place = [
        sorted(zip(t.leads, t.start_seconds.round(6), t.stop_seconds.round(6), strict=True)) for t in (raw, tokens)
    ]
    assert by_place[0] == by_place[1]
    n_leads = 12 if folder == "tiny-temporal" else 1
    assert raw.values.shape == (len(tokens), 25 * n_leads)


# Scores.


def test_perfect_predictions_score_one_and_background_scores_nothing() -> None:
    _, waves = waved_heart(0)
    trace = wave_traces(waves, "majority")[0]
    truth = trace.at(np.arange(2500) / 250)
    perfect = PredictedTrace(0, np.where(truth < 0, 0, truth).astype(np.int8), 250.0, trace)

    best, worst = score_waves([perfect], ["a"]), score_waves(predict_background([waves]), ["a"])

    assert best.macro_f1.estimate == best.mean_iou == 1.0
    assert set(best.dice.values()) == {1.0}
    for found in best.boundaries.values():
        assert found.sensitivity == found.positive_predictive_value == 1.0
        assert abs(found.mean_error_ms) <= 2.0
        assert found.sd_error_ms <= 2.0
    assert worst.macro_f1.estimate == 0.0
    assert worst.n_instants == best.n_instants == int((truth >= 0).sum())
    assert all(found.sensitivity == 0.0 for found in worst.boundaries.values())


def test_a_shift_in_time_is_the_error_that_is_reported() -> None:
    _, waves = waved_heart(1)
    trace = wave_traces(waves, "II")[0]
    truth = trace.at(np.arange(2500) / 250)
    late = np.roll(np.where(truth < 0, 0, truth), 5).astype(np.int8)  # 20 ms

    found = score_waves([PredictedTrace(0, late, 250.0, trace)], ["a"])

    for scores in found.boundaries.values():
        assert scores.mean_error_ms == pytest.approx(20.0, abs=2.1)
    assert 0.5 < found.macro_f1.estimate < 0.95


def test_f1_counts_by_hand() -> None:
    trace = Trace(np.array([2, 2, 2, 2, 0, 0, -1, -2], dtype=np.int8), 250.0, "II")
    predicted = np.array([2, 2, 2, 0, 2, 0, 2, 2], dtype=np.int8)

    found = score_waves([PredictedTrace(0, predicted, 250.0, trace)], ["a"])

    # Three right of four annotated and four predicted; what is outside or unclear counts nowhere.
    assert found.f1["QRS"] == pytest.approx(0.75)
    assert found.n_instants == 6
    # A wave that nobody annotated and nobody predicted has no score, and no part in the mean.
    assert math.isnan(found.f1["P"])
    assert math.isnan(found.dice["P"])
    assert found.macro_f1.estimate == pytest.approx(0.75)

    nothing = Trace(np.full(8, -1, dtype=np.int8), 250.0, "II")
    empty = score_waves([PredictedTrace(0, predicted, 250.0, nothing)], ["a"]).macro_f1
    assert all(map(math.isnan, (empty.estimate, empty.low, empty.high)))


def test_dice_is_the_mean_over_records_and_f1_over_instants() -> None:
    long = Trace(np.r_[np.full(90, 2), np.zeros(10)].astype(np.int8), 250.0, "II")
    short = Trace(np.r_[np.full(10, 2), np.zeros(90)].astype(np.int8), 250.0, "II")
    predictions = [
        PredictedTrace(0, long.labels, 250.0, long),
        PredictedTrace(1, np.zeros(100, np.int8), 250.0, short),
    ]

    found = score_waves(predictions, ["a", "b"])

    assert found.dice["QRS"] == pytest.approx(0.5)
    assert found.f1["QRS"] == pytest.approx(180 / 190)
    assert found.macro_f1.low <= found.macro_f1.estimate <= found.macro_f1.high


def test_each_boundary_has_one_partner_the_nearest_within_150_ms() -> None:
    rows, columns = match_boundaries(np.array([1.0, 1.1, 5.0]), np.array([1.04, 1.09, 1.3, 5.15, 5.16]))

    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 3)]
    assert [some.tolist() for some in match_boundaries(np.array([1.0, 1.1]), np.array([1.09]))] == [[1], [0]]
    assert len(match_boundaries(np.array([1.0]), np.array([1.16]))[0]) == 0


def test_what_is_predicted_where_nobody_annotated_is_no_false_alarm_and_slivers_are_no_waves() -> None:
    labels = np.zeros(1000, dtype=np.int8)
    labels[:300], labels[700:] = OUTSIDE, OUTSIDE
    labels[300:350], labels[650:700] = 2, 2
    predicted = np.zeros(1000, dtype=np.int8)
    for start, stop in ((50, 100), (300, 350), (400, 404), (500, 550), (650, 700)):
        predicted[start:stop] = 2

    found = score_waves([PredictedTrace(0, predicted, 250.0, Trace(labels, 250.0, "II"))], ["a"])

    assert found.boundaries["QRS", "onset"].positive_predictive_value == pytest.approx(2 / 3)
    assert found.boundaries["QRS", "onset"].sensitivity == 1.0
    # An onset before the first that was annotated is that one's, and counts as it would anywhere else.
    predicted[290:300] = 2
    early = score_waves([PredictedTrace(0, predicted, 250.0, Trace(labels, 250.0, "II"))], ["a"])
    assert early.boundaries["QRS", "onset"].positive_predictive_value == pytest.approx(2 / 3)


# The probe.


def test_patients_are_never_on_both_sides() -> None:
    patients = np.repeat([f"p{i}" for i in range(11)], 3)
    folds = patient_folds(patients, 5, 0)

    assert all(len(set(folds[patients == name])) == 1 for name in patients)
    assert sorted(np.bincount(folds) // 3) == [2, 2, 2, 2, 3]
    with pytest.raises(ParameterError, match="expected a patient for each"):
        patient_folds(patients, 12, 0)


def test_no_record_is_predicted_by_a_head_that_saw_its_patient(hearts: tuple) -> None:
    _, waves, patients = hearts
    rng = np.random.default_rng(0)
    # Each record's tokens are a code of its own and of the time: a head that saw the record knows every label.
    starts = [i / 10 for i in range(100)]
    tokens = [tokens_of(rng.normal(size=(100, 300)).astype(np.float32), starts) for _ in waves[:6]]
    how = WaveProtocol(penalties=(1e-4,), n_folds=3, grid_hz=50.0)

    apart = score_waves(predict_waves(tokens, waves[:6], patients[:6], how), patients[:6])
    # The same records once more, under other names: most heads have seen what they predict.
    names = np.arange(12).astype(str)
    twice = score_waves(predict_waves(tokens * 2, waves[:6] * 2, names, how), names)

    assert apart.macro_f1.estimate < 0.3
    assert twice.macro_f1.estimate > 0.6


def test_the_probe_reads_waves_from_tokens_that_spell_them_out(hearts: tuple) -> None:
    _, waves, patients = hearts
    tokens = []
    for some in waves[:6]:
        labels = np.maximum(wave_traces(some, "II")[0].at(np.arange(2500) / 250), 0)
        spelled = np.eye(4, dtype=np.float32)[labels].reshape(100, 100)
        tokens.append(tokens_of(spelled, [i / 10 for i in range(100)]))

    found = score_waves(
        predict_waves(tokens, waves[:6], patients[:6], WaveProtocol(target="II", n_folds=2)), patients[:6]
    )

    assert found.macro_f1.estimate > 0.99


def test_waves_are_read_from_an_untrained_encoder_and_neighbours_help(hearts: tuple) -> None:
    records, waves, patients = (some[:8] for some in hearts)
    tokens = JEPAEmbedder().fit(records).transform_tokens(records)
    alone, beside = (WaveProtocol(penalties=(1e-3,), n_folds=2, context=k) for k in (0, 1))

    narrow = score_waves(predict_waves(tokens, waves, patients, alone), patients)
    wide = score_waves(predict_waves(tokens, waves, patients, beside), patients)

    assert wide.macro_f1.estimate > narrow.macro_f1.estimate > 0.7
    assert wide.f1["QRS"] > 0.9
    assert wide.boundaries["QRS", "onset"].sd_error_ms < 15


def test_each_lead_has_a_trace_for_both_architectures(hearts: tuple) -> None:
    records, waves, patients = (some[:4] for some in hearts)
    how = WaveProtocol(target="each", penalties=(1e-3,), n_folds=2, grid_hz=50.0)
    for folder, n_leads in (("tiny-temporal", 12), ("tiny-leadwise", 8)):
        embedder = JEPAEmbedder(FIXTURES / folder).fit(records)
        found = predict_waves(embedder.transform_tokens(records), waves, patients, how)

        assert len(found) == 4 * n_leads
        assert {trace.truth.lead for trace in found if trace.record == 3} == set(
            embedder.embedding_config().info.spec.leads
        )
        assert all(len(trace.labels) == 500 for trace in found)


def test_the_same_seed_gives_the_same_predictions(hearts: tuple) -> None:
    records, waves, patients = (some[:6] for some in hearts)
    tokens = JEPAEmbedder(FIXTURES / "tiny-temporal").fit(records).transform_tokens(records)
    how = WaveProtocol(n_folds=2, grid_hz=50.0)

    one, other = (predict_waves(tokens, waves, patients, how) for _ in range(2))

    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)


def test_what_does_not_belong_together_is_refused(hearts: tuple) -> None:
    _, waves, _ = hearts
    with pytest.raises(ShapeError, match="expected one for each record"):
        predict_waves([], waves, [])
    with pytest.raises(ParameterError, match="n_folds=1, expected an integer of at least 2"):
        WaveProtocol(n_folds=1)


def dataset_of(records: list[ECGRecord], waves: list[Waves] | None, patients: NDArray[np.str_]) -> LabelledECGs:
    unknown = np.full(len(records), "", dtype=str)
    return LabelledECGs(
        name="hearts",
        records=records,
        sampling_rate=None,
        leads=None,
        codes=({},) * len(records),
        patients=patients,
        folds=np.zeros(len(records), dtype=np.int64),
        sexes=unknown,
        ages=np.full(len(records), np.nan),
        licence="",
        citation="",
        folder=Path(),
        waves=None if waves is None else waves.__getitem__,
    )


def test_the_table_holds_background_samples_the_untrained_twin_and_the_model(hearts: tuple, tmp_path: Path) -> None:
    records, waves, patients = (some[:6] for some in hearts)
    dataset = dataset_of(records, waves, patients)
    sources = standard_sources([FIXTURES / "tiny-temporal"], tmp_path)

    scores = compare_waves(
        dataset, sources, contexts=[0], protocol=WaveProtocol(n_folds=2, penalties=(1e-3,), grid_hz=50.0)
    )

    assert list(scores) == [
        "background everywhere",
        "samples (temporal, 250 ms), k=0",
        "untrained, shape of tiny-temporal, k=0",
        "tiny-temporal, k=0",
    ]
    assert len(wave_table(scores).splitlines()) == 5
    assert len(boundary_table(scores).splitlines()) == 1 + 4 * 6
    with pytest.raises(ParameterError, match="without annotated waves"):
        annotated_waves(dataset_of(records, None, patients))


def test_annotations_of_ludb_make_sense(shared: Path) -> None:
    dataset = read_packed(shared / "data" / "ludb_500hz.npz")
    waves = annotated_waves(dataset)
    truth = np.concatenate([wave_traces(some, "majority")[0].labels for some in waves])

    shares = np.bincount(truth[truth >= 0]) / (truth >= 0).sum()
    assert shares == pytest.approx([0.58, 0.08, 0.12, 0.22], abs=0.05)
    for some in waves:
        assert (wave_traces(some, "II")[0].labels[:100] < 0).all() or some.tables[1][0, 0] < 100
