"""What a probability rests on is found where it is known, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

from skecg import ECGRecord, JEPAEmbedder, explain
from skecg.datasets import make_ecg
from skecg.errors import ParameterError, SamplingRateError, SignalWarning, SkecgWarning
from skecg.plotting import plot_explanation

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"


class Peaks:
    """Says yes by the highest sample of V1 in its second second."""

    classes_ = np.array(["no", "yes"])
    n_asked = 0

    def predict_proba(self, records: list[ECGRecord]) -> np.ndarray:
        self.n_asked = max(self.n_asked, len(records))
        odds = np.array([record.signal[6, 100:200].max() - 1.0 for record in records])
        return 1 / (1 + np.exp(np.stack([odds, -odds], axis=1)))


class NanPeaks(Peaks):
    """The same, deaf to gaps."""

    def predict_proba(self, records: list[ECGRecord]) -> np.ndarray:
        return super().predict_proba(
            [ECGRecord(np.nan_to_num(r.signal, nan=-9), r.sampling_rate, r.leads) for r in records]
        )


def record(where: int = 170) -> ECGRecord:
    signal = np.zeros((12, 400), dtype=np.float32)
    signal[:, where] = 3.0
    return ECGRecord(signal, 100, make_ecg(1, random_state=0).records[0].leads)


def test_only_what_the_answer_rests_on_is_worth_anything() -> None:
    found = explain(Peaks(), record(), "yes", piece_seconds=0.5)

    expected = np.zeros((12, 8))
    expected[6, 3] = 3.0
    np.testing.assert_allclose(found.pieces, expected, atol=1e-5)
    np.testing.assert_allclose(found.leads, expected.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.moments, expected.sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.edges, np.arange(9) / 2)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert (found.target, found.record.name) == ("yes", record().name)


def test_a_probability_that_nothing_can_move_is_said() -> None:
    certain = record()
    certain.signal[6] += 40.0
    for label, number in (("yes", 1), ("no", 0)):
        with pytest.warns(SkecgWarning, match=f"a probability of {number} for '{label}', as far as numbers go"):
            explain(Peaks(), certain, label)


def test_a_gap_hides_nothing_but_itself() -> None:
    whole = record()
    signal = whole.signal.copy()
    signal[6, 80:110] = np.nan  # the end of one piece and the beginning of another
    found = explain(NanPeaks(), ECGRecord(signal, 100, whole.leads), "yes", piece_seconds=0.5)

    expected = np.zeros((12, 8))
    expected[6, 3] = 3.0
    np.testing.assert_allclose(found.pieces, expected, atol=1e-5)
    np.testing.assert_allclose(found.leads, expected.sum(axis=1), atol=1e-5)
    embedder = make_pipeline(JEPAEmbedder(TINY), LogisticRegression())
    records, labels = make_ecg(8, conduction=["normal", "lbbb"], sampling_rate=250, random_state=0)
    embedder.fit(records, labels["conduction"])
    gap = records[0].signal.copy()
    gap[6, 100:110] = np.nan
    with pytest.warns(SignalWarning, match=r"gaps \(NaN\)"):  # as predictions of it say
        worth = explain(embedder, ECGRecord(gap, 250, records[0].leads), piece_seconds=5).leads
    assert np.isfinite(worth).all()
    assert worth[6] != 0


def test_a_single_lead_is_explained_in_time() -> None:
    records, labels = make_ecg(8, conduction=["normal", "lbbb"], sampling_rate=250, leads=["II"], random_state=0)
    pipeline = make_pipeline(JEPAEmbedder(sampling_rate=250), LogisticRegression()).fit(records, labels["conduction"])

    found = explain(pipeline, records[0], piece_seconds=2)

    assert np.isfinite(found.pieces).all()
    np.testing.assert_allclose(found.moments, found.pieces[0], atol=1e-6)
    assert np.isnan(found.leads).all()
    with pytest.raises(ParameterError, match=r"a single lead\. Draw pieces or phases"):
        found.plot()
    found.plot("pieces")


def test_labels_of_a_classifier_for_each_are_explained_by_their_number() -> None:
    records, labels = make_ecg(8, conduction=["normal", "lbbb"], sampling_rate=250, random_state=0)
    y = np.stack([np.array(labels["conduction"]) == "lbbb", np.arange(8) % 2 == 0], axis=1).astype(int)
    pipeline = make_pipeline(JEPAEmbedder(TINY), MultiOutputClassifier(LogisticRegression())).fit(records, y)

    found = explain(pipeline, records[0], 1, piece_seconds=5)

    assert found.probability == pytest.approx(pipeline.predict_proba(records[:1])[1][0, 1], abs=1e-6)
    three = make_pipeline(JEPAEmbedder(TINY), MultiOutputClassifier(LogisticRegression())).fit(
        records, np.arange(16).reshape(8, 2) % 3
    )
    with pytest.raises(ParameterError, match="Got labels of 3 classes, expected two of each"):
        explain(three, records[0], piece_seconds=5)


def test_what_speaks_for_one_class_speaks_against_the_other() -> None:
    np.testing.assert_allclose(
        explain(Peaks(), record(), "no").pieces, -explain(Peaks(), record(), "yes").pieces, atol=1e-5
    )


def test_the_most_probable_class_is_explained_where_none_is_named() -> None:
    assert explain(Peaks(), record(), piece_seconds=2).target == "yes"
    assert explain(Peaks(), record(20), piece_seconds=2).target == "no"


def test_batches_are_bounded_and_change_nothing() -> None:
    few, many = Peaks(), Peaks()

    found = explain(few, record(), "yes", batch_records=7)

    np.testing.assert_array_equal(found.pieces, explain(many, record(), "yes", batch_records=10_000).pieces)
    n_phases = 0 if np.isnan(found.phases).all() else 4
    assert (few.n_asked, many.n_asked) == (7, 1 + 12 * 10 + 12 + 10 + n_phases)


def test_the_record_itself_stays_as_it_was_and_a_slope_hides_nothing() -> None:
    one = record()
    slope = ECGRecord(np.tile(np.linspace(0, 9, 400), (12, 1)), 100, one.leads)
    before = one.signal.copy()
    explain(Peaks(), one)

    np.testing.assert_array_equal(one.signal, before)
    np.testing.assert_allclose(explain(Peaks(), slope, "yes").pieces, 0, atol=1e-4)


def test_a_pipeline_embeds_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    records, labels = make_ecg(8, duration_seconds=4, sampling_rate=100, conduction=["normal", "lbbb"], random_state=0)
    pipeline = make_pipeline(JEPAEmbedder(TINY, cache="memory"), LogisticRegression()).fit(
        records, labels["conduction"]
    )
    first = explain(pipeline, records[0], piece_seconds=2)
    monkeypatch.setattr("skecg.encoders.temporal.TemporalEncoder.forward", lambda *_: pytest.fail("embedded again"))

    np.testing.assert_array_equal(explain(pipeline, records[0], piece_seconds=2).pieces, first.pieces)
    assert np.abs(first.pieces).max() > 0


class Late(Peaks):
    """Says yes by the mean of V1 from 0.1 to 0.18 s after R peaks, which are where a second begins."""

    def predict_proba(self, records: list[ECGRecord]) -> np.ndarray:
        after = np.arange(1, 3)[:, None] * 250 + np.arange(25, 45)
        odds = np.array([4 * record.signal[6, after].mean() for record in records])
        return 1 / (1 + np.exp(np.stack([odds, -odds], axis=1)))


def beats(st_level: float = 0.5, n_beats: int = 2) -> ECGRecord:
    """Make a beat a second, without P and T waves, on a baseline of 0.25 mV."""
    seconds = np.arange(2500) / 250
    beat = [
        np.exp(-0.5 * ((seconds - b) / 0.012) ** 2) + st_level * ((seconds > b + 0.08) & (seconds < b + 0.2))
        for b in range(1, n_beats + 1)
    ]
    return ECGRecord(np.tile(0.25 + np.sum(beat, axis=0), (12, 1)), 250, record().leads)


def test_the_phase_that_the_answer_rests_on_is_found_in_all_beats_at_once() -> None:
    found = explain(Late(), beats(), "yes", piece_seconds=5)

    np.testing.assert_allclose(found.phases, [0, 0, 4 * 0.5, 0], atol=0.02)
    axes = found.plot("phases", layout="stacked")
    worth = [patch for patch in axes.patches if patch.get_gid() == "worth" and patch.get_alpha() > 0.5]
    assert len(worth) == 12 * 2
    assert {round(patch.get_x() % 1, 2) for patch in worth} <= {0.07, 0.08, 0.09}
    assert {round(patch.get_width(), 2) for patch in worth} == {0.12}


def test_beats_at_the_ends_of_a_record_and_close_together_lose_what_there_is_of_their_phases() -> None:
    # 120 beats a minute, cut at both ends.
    quick = ECGRecord(beats(n_beats=8).signal[:, 230:1200:2], 250, record().leads)
    before = quick.signal.copy()

    assert np.isfinite(explain(Peaks(), quick, piece_seconds=5).phases).all()
    np.testing.assert_array_equal(quick.signal, before)


def test_without_beats_there_are_no_phases() -> None:
    silent = ECGRecord(np.zeros((12, 400)), 100, record().leads)
    found = explain(Peaks(), silent, "no", piece_seconds=2)

    assert np.isnan(found.phases).all()
    with pytest.raises(ParameterError, match=r"of='phases' for .*, in which no beat was found"):
        found.plot("phases")


def test_pieces_are_half_a_record_at_most_since_of_one_nothing_would_be_left() -> None:
    found = explain(Peaks(), record(), "yes", piece_seconds=100)

    np.testing.assert_allclose(found.edges, [0, 2, 4])


def test_a_label_of_several_is_named_by_its_column() -> None:
    class Labels(Peaks):
        classes_ = [np.array([0, 1])] * 2

    assert explain(Labels(), record(), 1, piece_seconds=2).target == 1


def test_the_picture_has_a_patch_for_each_piece_that_is_shown() -> None:
    found = explain(Peaks(), record(), "yes", piece_seconds=0.5)
    axes = found.plot("pieces", layout="stacked")

    worth = [patch for patch in axes.patches if patch.get_gid() == "worth"]
    assert len(worth) == 12 * 8
    strongest = max(worth, key=lambda patch: patch.get_alpha())
    assert (strongest.get_x(), strongest.get_width()) == (1.5, 0.5)
    assert sum(patch.get_alpha() > 0.01 for patch in worth) == 1
    by_lead = [patch.get_alpha() for patch in found.plot().patches if patch.get_gid() == "worth"]
    assert (len(by_lead), max(by_lead)) == (13, pytest.approx(0.6))
    with pytest.raises(ParameterError, match="of='beats', expected one of 'leads', 'pieces', 'phases'"):
        found.plot("beats")
    with pytest.raises(ParameterError, match=r"pieces of shape \(12, 8\) for 12 leads and 3 edges"):
        plot_explanation(found.record, found.pieces, found.edges[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pipeline": JEPAEmbedder()}, "JEPAEmbedder, which has no predict_proba"),
        ({"target": "maybe"}, "target='maybe', expected one of 'no', 'yes'"),
        ({"piece_seconds": 0}, "piece_seconds=0"),
        ({"batch_records": 0}, "batch_records=0"),
    ],
)
def test_what_cannot_be_explained_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        explain(**{"pipeline": Peaks(), "record": record(), **arguments})


def test_a_file_is_read_as_the_pipeline_reads_it(tmp_path: Path) -> None:
    made, paths = make_ecg(6, duration_seconds=4.0, sampling_rate=100, noise=0.05, random_state=0).records, []
    for number, one in enumerate(made):
        lines = [",".join(one.leads), *(",".join(f"{1000 * value:.3f}" for value in row) for row in one.signal.T)]
        paths.append(str(tmp_path / f"{number}.csv"))
        Path(paths[-1]).write_text("\n".join(lines))
    frame = pd.DataFrame({"file": paths, "age": 50})
    embedder = JEPAEmbedder(TINY, units="uV", sampling_rate=100, path_column="file")
    pipeline = make_pipeline(embedder, LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1.0]}, cv=2)
    wrapped = CalibratedClassifierCV(FrozenEstimator(pipeline.fit(frame, [0, 1] * 3)), cv=2)
    for model in (pipeline, search, wrapped):
        model.fit(frame, [0, 1] * 3)
        found = explain(model, paths[0], 1, piece_seconds=2.0)
        np.testing.assert_allclose(found.record.signal, made[0].signal, atol=1e-5)
        assert found.probability == pytest.approx(model.predict_proba(frame[:1])[0, 1], abs=1e-6)
    with pytest.raises(SamplingRateError):  # nothing in this one reads
        explain(Peaks(), paths[0])
