"""The whole way from recordings to a report, on recordings made for it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_set import TINY, small_set
from hub_weights import make_weights

from skecg.embedding_cache import MemoryCache
from skecg.errors import LeakageWarning, ParameterError
from skecg.evaluation import Report, compare, standard_sources
from skecg.evaluation.features import BASELINE, MODEL, EncoderFeatures, MajorityFeatures
from skecg.evaluation.protocols import PooledProtocol
from skecg.evaluation.report import aligned, markdown
from skecg.evaluation.splitting import split_by_folds
from skecg.evaluation.tasks import task_labels


class Given:
    """Features that are given, and a count of how often they were asked for."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.note, self.values, self.seen = name, "given", values, []

    def features(self, dataset: Any, *, cache: Any = None, verbose: int = 0) -> np.ndarray:
        self.seen.append(len(dataset))
        return self.values[np.isin(small_set().record_ids, dataset.record_ids)].astype(np.float32)


class Coordinates(Given):
    """Features whose scales say what counts."""

    standardize = False


def knowing(noise: float, seed: int = 0) -> Given:
    """Features that are the labels under noise."""
    labels = task_labels(small_set(), "superdiagnostic").labels
    return Given(f"noise {noise:g}", labels + noise * np.random.default_rng(seed).normal(size=labels.shape))


@pytest.fixture(scope="module")
def report() -> Report:
    sources = [(BASELINE, MajorityFeatures()), (MODEL, knowing(0.3)), (MODEL, knowing(2.0))]
    return compare(small_set(), "superdiagnostic", sources, fractions=(0.2, 1.0), n_draws=3, n_resamples=200)


def test_scores_are_those_of_the_test_records(report: Report) -> None:
    split = split_by_folds(small_set(), task_labels(small_set(), "superdiagnostic"))

    assert report.split["n_test"] == len(split.test)
    assert report.split["n_test_patients"] == len(split.test) // 2
    positives = task_labels(small_set(), "superdiagnostic").labels[split.test].sum(axis=0)
    assert report.split["test_positives"] == positives.tolist()


def test_better_features_have_better_scores_and_the_majority_one_half(report: Report) -> None:
    majority, good, bad = report.rows

    assert majority.largest.macro_auroc_all_labels.estimate == 0.5
    assert good.largest.macro_auroc_all_labels.estimate > 0.95
    assert bad.largest.macro_auroc_all_labels.estimate < good.largest.macro_auroc_all_labels.estimate
    by_share = [part.macro_auroc_all_labels.estimate for part in good.by_fraction]
    assert by_share[0] <= by_share[1]


def test_labels_with_few_test_positives_are_reported_apart(report: Report) -> None:
    few = [k for k, count in enumerate(report.split["test_positives"]) if count < 10]
    text = report.to_text()

    assert few
    before, after = text.split("Labels with fewer than 10 test positives or negatives, not in any mean above")
    for k in few:
        assert f"\n{report.task['classes'][k]} " not in before
        assert f"\n{report.task['classes'][k]} " in after


def test_a_mean_is_over_the_labels_that_count() -> None:
    report = compare(small_set(), "superdiagnostic", [(MODEL, knowing(1.0))], fractions=(1.0,), n_resamples=50)

    scores = report.rows[0].labels
    counted = [s for s in scores if 10 <= s.test_positives <= report.split["n_test"] - 10]
    assert 2 <= len(counted) < len(scores)
    assert any(0 < s.test_positives < 10 for s in scores)
    expected = np.mean([s.auroc.estimate for s in counted])
    assert report.rows[0].largest.macro_auroc.estimate == pytest.approx(expected)


def test_differences_are_of_every_pair_and_have_a_sign(report: Report) -> None:
    assert len(report.differences) == 3 * 2
    one = report.difference("noise 0.3", "majority", 1.0)
    other = report.difference("majority", "noise 0.3", 1.0)

    assert (one.estimate, one.low, one.high) == (-other.estimate, -other.high, -other.low)
    with pytest.raises(ParameterError, match="no difference"):
        report.difference("majority", "nobody", 1.0)


def test_every_draw_is_listed_with_its_patients(report: Report) -> None:
    assert [(draw["fraction"], draw["draw"]) for draw in report.draws] == [(0.2, 0), (0.2, 1), (0.2, 2), (1.0, 0)]
    for draw in report.draws[:3]:
        assert len(draw["patients"]) == draw["n_patients"]
        assert set(draw["patients"]) <= set(small_set().patients)
    assert len(report.rows[1].by_fraction[0].draws) == 3


def test_the_report_is_json_and_holds_every_number(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.run["command"] = "skecg evaluate"

    files = report.save(tmp_path / "out")

    assert [file.name for file in files] == ["report.json", "report.md", "report.png"]
    stored = json.loads(files[0].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    area = report.rows[2].largest.macro_auroc
    shown = {"estimate": area.estimate, "low": area.low, "high": area.high}
    assert stored["rows"][2]["by_fraction"][1]["macro_auroc"] == shown
    assert set(stored) >= {"dataset", "task", "split", "protocol", "intervals", "draws", "rows", "differences", "run"}
    assert "| noise 0.3 |" in files[1].read_text()
    assert "skecg evaluate" in files[1].read_text()
    assert files[2].stat().st_size > 5000


def test_records_of_no_side_are_never_read() -> None:
    kept = replace(small_set(), folds=np.where(small_set().folds == 3, 10, small_set().folds))
    source = knowing(1.0)

    compare(kept, "superdiagnostic", [(MODEL, source)], fractions=(1.0,), n_resamples=10, test_fold=2)

    assert source.seen == [int((kept.folds != 10).sum())]


def test_a_killed_run_finds_what_it_had_computed(tmp_path: Path) -> None:
    cache, said = MemoryCache(2**24), []
    options = {"fractions": (1.0,), "n_resamples": 10, "cache": cache}
    sources = standard_sources([TINY], tmp_path / "a", n_kernel_draws=1)
    first = compare(small_set(), "superdiagnostic", sources, **options)
    second = compare(small_set(), "superdiagnostic", sources, say=said.append, **options)

    assert [row.costs["n_from_cache"] for row in first.rows] == [0] * 5
    assert [row.costs["n_from_cache"] for row in second.rows] == [0, 120, 120, 120, 120]
    for one, other in zip(first.rows, second.rows, strict=True):
        assert one.largest.macro_auroc.estimate == other.largest.macro_auroc.estimate
    assert said[0].startswith("[1/5] majority")
    assert "(cache)" in second.to_text()


def test_an_encoder_and_every_baseline_tell_blocks_from_normal_beats(tmp_path: Path) -> None:
    sources = standard_sources(["untrained-temporal"], tmp_path, n_kernel_draws=1)
    task = task_labels(small_set(), "superdiagnostic")

    report = compare(small_set(), "superdiagnostic", sources, fractions=(1.0,), n_resamples=20)

    areas = {row.name: row.labels[task.classes.index("CD")].auroc.estimate for row in report.rows}
    assert areas.pop("majority") == 0.5
    assert min(areas.values()) > 0.75, areas


def test_one_row_alone_is_compared_with_nothing_and_none_is_refused() -> None:
    report = compare(small_set(), "rhythm", [(MODEL, knowing(1.0))], fractions=(1.0,), n_resamples=10)

    assert report.differences == []
    assert "AUROC by label" in report.to_text()
    with pytest.raises(ParameterError, match="nothing to evaluate"):
        compare(small_set(), "rhythm", [])
    with pytest.raises(ParameterError, match="expected each name once"):
        compare(small_set(), "rhythm", [(MODEL, knowing(1.0)), (BASELINE, knowing(1.0))])


def test_copies_of_other_patients_records_among_the_test_records_are_warned_of(tmp_path: Path) -> None:
    dataset = small_set()
    split = split_by_folds(dataset, task_labels(dataset, "superdiagnostic"))
    records = list(dataset.records)
    records[split.test[3]] = records[split.train[5]]
    encoder = [s for s in standard_sources([TINY], tmp_path) if isinstance(s[1], EncoderFeatures)]
    options = {"fractions": (1.0,), "n_resamples": 10}

    names = f"{dataset.record_ids[split.train[5]]} and {dataset.record_ids[split.test[3]]}"
    with pytest.warns(LeakageWarning, match=rf"Got 1 test records .*{names} are the first"):
        compare(replace(dataset, records=records), "superdiagnostic", encoder, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        compare(dataset, "superdiagnostic", encoder, **options)


def test_where_all_test_records_have_the_same_labels_nothing_can_be_scored() -> None:
    task = task_labels(small_set(), "superdiagnostic")
    alike = replace(task, labels=np.ones_like(task.labels))
    with pytest.raises(ParameterError, match=r"Got no label that some of the .* nothing could be scored"):
        compare(small_set(), alike, [(MODEL, knowing(1.0))])


def test_coordinates_along_directions_keep_their_scales() -> None:
    noise = np.random.default_rng(4).normal(size=(len(small_set()), 60)) / 100
    given = np.hstack([knowing(0.5).values, noise]).astype(np.float32)
    sources = [(MODEL, Coordinates("coordinates", given)), (MODEL, Given("as any features", given))]
    report = compare(small_set(), "superdiagnostic", sources, fractions=(0.2,), n_draws=1, n_resamples=10)
    kept, levelled = (row.largest.macro_auroc.estimate for row in report.rows)
    assert kept > levelled + 0.05
    for measure in ("one_class", "retrieval"):
        kept, levelled = (
            report.geometry["rows"][name][measure].estimate for name in ("coordinates", "as any features")
        )
        assert kept > levelled + 0.05


def test_a_protocol_that_does_not_standardize_does_so_for_no_row() -> None:
    noise = np.random.default_rng(4).normal(size=(len(small_set()), 60)) / 100
    given = np.hstack([knowing(0.5).values, noise]).astype(np.float32)
    options = {"protocol": PooledProtocol(standardize=False), "fractions": (0.2,), "n_draws": 1, "n_resamples": 10}
    sources = [(MODEL, Coordinates("coordinates", given)), (MODEL, Given("as any features", given))]
    report = compare(small_set(), "superdiagnostic", sources, **options)
    one, other = (row.largest.macro_auroc.estimate for row in report.rows)
    assert one == other
    assert report.protocol["standardization"] == "mean of each feature over the records fitted, one deviation for all"


def test_truncated_features_are_coordinates() -> None:
    assert not EncoderFeatures("64", "default", {"truncate_dim": 64}).standardize
    assert EncoderFeatures("all", "default").standardize


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"trained": True, "data": "ptbxl"}, "trained on ptbxl"),
        ({"trained": False}, "untrained"),
        ({}, "not known to be trained"),
    ],
)
def test_only_what_is_known_to_be_untrained_is_called_so(tmp_path: Path, known: dict[str, Any], words: str) -> None:
    assert words in EncoderFeatures("tiny", make_weights(tmp_path / "tiny", **known)).note.split(", ")


def test_tables_line_up() -> None:
    table = [["a", "number"], ["long name", "1"], ["b|c", "22"]]

    assert aligned(table) == "a          number\nlong name       1\nb|c            22"
    assert markdown(table).splitlines()[1:] == ["| --- | ---: |", "| long name | 1 |", "| b\\|c | 22 |"]


def test_the_mean_of_draws_is_what_the_table_shows(report: Report) -> None:
    bad = report.rows[2].by_fraction[0]

    assert len(set(bad.draws)) == 3
    assert bad.macro_auroc.estimate == pytest.approx(np.mean(bad.draws))
