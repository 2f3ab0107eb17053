from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from waved_hearts import waved_heart

from skecg import JEPAEmbedder
from skecg.annotations import Waves
from skecg.datasets import make_ecg, read_packed
from skecg.datasets.base import LabelledECGs
from skecg.errors import ShapeError
from skecg.evaluation.delineation import annotated_waves
from skecg.evaluation.features import standard_sources
from skecg.evaluation.regression import (
    compare_regressions,
    heart_rates,
    predict_by_ridge,
    qrs_durations,
    regression_table,
    score_regression,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def beats(peaks: list[int], width: int = 40) -> np.ndarray:
    return np.array([[peak - width // 2, peak, peak + width // 2, 1] for peak in peaks])


def test_the_heart_rate_is_the_rate_that_the_heart_was_made_with() -> None:
    _, waves = zip(*(waved_heart(seed, 50.0 + 10 * seed) for seed in range(5)), strict=True)

    # Sinus rhythm breathes; over ten seconds the mean strays by a few beats a minute.
    np.testing.assert_allclose(heart_rates(waves), [50, 60, 70, 80, 90], rtol=0.06)


def test_a_beat_forgotten_in_one_lead_does_no_harm_and_other_waves_are_no_beats() -> None:
    whole, gap = beats([500, 1000, 1500, 2000, 2500]), beats([500, 1000, 2000, 2500])
    whole = np.concatenate([whole, [[700, 720, 760, 2], [400, 420, 440, 0]]])

    rate = heart_rates([Waves(500.0, ("I", "II", "III"), (whole, gap, whole))])

    np.testing.assert_allclose(rate, [60.0])


@pytest.mark.parametrize("pause", [3, 200])
def test_time_that_nobody_annotated_between_beats_is_no_interval(pause: int) -> None:
    first = np.arange(500, 3000, 500)
    two_parts = beats([*first, *(first + 2000 + 500 * pause)])

    np.testing.assert_allclose(heart_rates([Waves(500.0, ("II",), (two_parts,))]), [60.0])
    np.testing.assert_allclose(heart_rates([Waves(500.0, ("II",), (beats([500, 1000, 500 * pause + 2000]),))]), [60.0])


def test_beats_that_are_far_apart_are_no_pulse_and_irregular_ones_all_count() -> None:
    irregular = Waves(500.0, ("II",), (beats([500, 900, 1300, 2180]),))  # the last after 2.2 of the others

    np.testing.assert_allclose(heart_rates([irregular]), [60 / 1.12])
    assert np.isnan(heart_rates([Waves(500.0, ("II",), (beats([500, 2500]),))])).all()


def test_what_nobody_annotated_is_not_known() -> None:
    nothing = Waves(500.0, ("I",), (np.empty((0, 4), dtype=np.int64),))
    unmarked = Waves(500.0, ("I",), (np.array([[-1, 500, 520, 1], [980, 1000, -1, 1]]),))

    assert np.isnan(heart_rates([nothing])).all()
    assert np.isnan(qrs_durations([nothing, unmarked])).all()
    np.testing.assert_allclose(heart_rates([unmarked]), [60.0])


def test_the_qrs_duration_is_in_milliseconds_and_the_median_of_beats_and_leads() -> None:
    waves = Waves(500.0, ("I", "II"), (beats([500, 1000, 1500], 40), beats([500, 1000], 60)))

    np.testing.assert_allclose(qrs_durations([waves]), [80.0])


def test_a_linear_target_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 20)) * np.logspace(-2, 2, 20)
    y = X @ (rng.normal(size=20) / np.logspace(-2, 2, 20)) + 70 + 0.1 * rng.normal(size=200)
    patients = np.arange(200)

    found = score_regression(y, predict_by_ridge(X, y, patients), patients)
    noise = rng.normal(size=200)
    nothing = score_regression(noise, predict_by_ridge(X, noise, patients), patients)

    assert found.r2.estimate > 0.99
    assert found.mean_absolute_error.estimate < 0.15
    assert nothing.r2.estimate < 0.05
    assert found.r2.low < found.r2.estimate < found.r2.high


def test_patients_are_never_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    # Features say who it is, and nothing of the target but that it is the patient's own.
    X = rng.normal(size=(40, 60))[patients]
    y = rng.normal(size=40)[patients]

    apart = score_regression(y, predict_by_ridge(X, y, patients, penalties=[0.1]), patients)
    chosen = score_regression(y, predict_by_ridge(X, y, patients), patients)
    mixed = score_regression(y, predict_by_ridge(X, y, np.arange(200)), np.arange(200))

    assert apart.r2.estimate < -0.2
    # Nor when the penalty is chosen: there is nothing to find, and the strongest one says so.
    assert -0.15 < chosen.r2.estimate < 0.1
    assert mixed.r2.estimate > 0.9


def test_records_without_a_target_are_neither_fitted_on_nor_predicted() -> None:
    rng = np.random.default_rng(0)
    X, patients = rng.normal(size=(60, 3)), np.arange(60)
    y = X[:, 0].copy()
    y[::4] = np.nan

    found = predict_by_ridge(X, y, patients)

    assert np.isnan(found[::4]).all()
    assert np.isfinite(found[1::4]).all()
    assert score_regression(y, found, patients).n_records == 45


def test_without_features_the_training_mean_is_predicted() -> None:
    y = np.arange(50.0)

    found = score_regression(y, predict_by_ridge(np.empty((50, 0)), y, np.arange(50)), np.arange(50))

    assert -0.2 < found.r2.estimate <= 0.0
    assert found.mean_absolute_error.estimate == pytest.approx(12.5, rel=0.1)


def test_one_penalty_is_plain_ridge() -> None:
    rng = np.random.default_rng(0)
    X, patients = rng.normal(size=(40, 4)), np.arange(40)
    y = X[:, 0] + rng.normal(size=40)
    found = predict_by_ridge(X, y, patients, n_folds=2, penalties=[3.0])

    first = np.isclose(found, found)  # all
    folds = np.random.default_rng(0).permutation(40) % 2
    train, test = folds == 1, folds == 0
    mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
    plain = Ridge(alpha=3.0).fit((X[train] - mean) / scale, y[train]).predict((X[test] - mean) / scale)
    assert first.all()
    np.testing.assert_allclose(found[test], plain)


def test_errors_and_r2_by_hand() -> None:
    found = score_regression([1.0, 2.0, 3.0, np.nan], [1.0, 2.0, 5.0, 9.0], ["a", "b", "c", "d"])

    assert found.r2.estimate == pytest.approx(1 - 4 / 2)
    assert found.mean_absolute_error.estimate == pytest.approx(2 / 3)
    assert found.n_records == 3
    with pytest.raises(ShapeError, match="no record"):
        score_regression([np.nan], [1.0], ["a"])
    with pytest.raises(ShapeError, match="a row for each record"):
        predict_by_ridge(np.zeros((3, 2)), [1.0, 2.0], ["a", "b", "c"])


def test_patients_with_many_records_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    off = np.repeat(rng.normal(size=10), 20)

    apart = score_regression(y, y + off, np.arange(200)).mean_absolute_error
    together = score_regression(y, y + off, np.repeat(np.arange(10), 20)).mean_absolute_error

    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_heart_rate_is_read_from_pooled_vectors_of_an_untrained_encoder(tmp_path: Path) -> None:
    records, labels = make_ecg(120, heart_rate=(45, 140), sampling_rate=250, random_state=0)
    features = JEPAEmbedder().fit_transform(records)
    rates, patients = labels["heart_rate"], np.arange(120)

    found = score_regression(rates, predict_by_ridge(features, rates, patients), patients)

    assert found.r2.estimate > 0.7


def thirty_hearts(folder: Path) -> tuple[LabelledECGs, np.ndarray]:
    """Return recordings of thirty patients, and their heart rates."""
    records, labels = make_ecg(30, heart_rate=(45, 140), sampling_rate=250, random_state=0)
    unknown = np.full(30, "", dtype=str)
    dataset = LabelledECGs(
        name="synthetic",
        records=records,
        sampling_rate=None,
        leads=None,
        codes=({},) * 30,
        patients=np.arange(30).astype(str),
        folds=np.zeros(30, dtype=np.int64),
        sexes=unknown,
        ages=np.full(30, np.nan),
        licence="",
        citation="",
        folder=folder,
    )
    return dataset, labels["heart_rate"]


@dataclass
class Given:
    """Features that are there already."""

    name: str
    values: np.ndarray
    standardize: bool
    note: str = ""

    def features(self, dataset: LabelledECGs, **options: object) -> np.ndarray:
        return self.values


def test_features_whose_scales_say_what_counts_keep_them(tmp_path: Path) -> None:
    dataset, rates = thirty_hearts(tmp_path)
    # The rate, and noise that would drown it if it were as large.
    values = np.column_stack([rates, np.random.default_rng(0).normal(size=(30, 60)) / 100])
    sources = [
        ("model", Given(name, values, standardize)) for name, standardize in (("levelled", True), ("kept", False))
    ]
    scores = compare_regressions(dataset, sources, {"rate": rates}, n_draws=10)["rate"]
    assert scores["kept"].r2.estimate > 0.99 > scores["levelled"].r2.estimate + 0.1


def test_the_table_has_the_baselines_and_the_model(tmp_path: Path) -> None:
    dataset, rates = thirty_hearts(tmp_path)

    scores = compare_regressions(
        dataset,
        standard_sources([FIXTURES / "tiny-temporal"], tmp_path, n_kernel_draws=1),
        {"rate": rates},
    )

    names = list(scores["rate"])
    assert (names[0], names[-1]) == ("mean of the training patients", "tiny-temporal")
    assert len(names) == 5
    assert len(regression_table(scores["rate"], "bpm").splitlines()) == 6


def test_heart_rates_of_ludb_agree_with_its_diagnoses(shared: Path) -> None:
    dataset = read_packed(shared / "data" / "ludb_500hz.npz")
    waves = annotated_waves(dataset)
    rates, durations = heart_rates(waves), qrs_durations(waves)
    slow = np.array([any("sinus bradycardia" in code.lower() for code in codes) for codes in dataset.codes])

    assert np.isfinite(rates).all()
    assert slow.sum() >= 15
    assert np.median(rates[slow]) < 60 < np.median(rates[~slow])
    assert (durations > 60).all()
    assert (durations < 200).all()
