"""Anybody's object with ``transform(records)`` stands in the same table as any weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import TINY, small_set

from skecg.errors import LeadError, ParameterError, ShapeError
from skecg.evaluation import compare, standard_sources
from skecg.evaluation.features import MODEL, EncoderFeatures, ObjectFeatures, features_of, is_object
from skecg.evaluation.regression import compare_regressions

SOURCE = """
import numpy as np
import torch

from skecg.errors import LeadError


class Deviations:
    seen = []

    def transform(self, records):
        self.seen.append([(record.sampling_rate, record.leads, record.signal.shape) for record in records])
        return np.stack([record.signal.std(axis=1) for record in records])


ready = Deviations()
nothing = 3


class Wrong:
    def __init__(self, make=lambda records: np.zeros((len(records) + 1, 2))):
        self.transform = make


ragged = Wrong(lambda records: np.zeros((len(records), len(records))))
missing = Wrong(lambda records: np.full((len(records), 2), np.nan))
words = Wrong(lambda records: np.full((len(records), 2), "a"))
alike = Wrong(lambda records: np.full((len(records), 2), 3.0) + 1e-9 * np.arange(len(records))[:, None])
wide = Wrong(lambda records: np.full((len(records), 2), 1e300))
line = Wrong(lambda records: np.zeros(len(records)))
empty = Wrong(lambda records: np.zeros((len(records), 0)))
uneven = Wrong(lambda records: [[0.0] * (1 + number % 2) for number in range(len(records))])
breaks = Wrong(lambda records: 1 / 0)
tensor = Wrong(lambda records: torch.full((len(records), 2), 0.5, dtype=torch.bfloat16, requires_grad=True))
yes_or_no = Wrong(lambda records: torch.ones((len(records), 2), dtype=torch.bool))
spectrum = Wrong(lambda records: torch.ones((len(records), 2), dtype=torch.complex64))


def complain(records):
    raise LeadError("no such lead")


complains = Wrong(complain)


class Needs:
    def __init__(self, weights):
        pass
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "others_features.py").write_text(SOURCE)
    yield str(tmp_path / "others_features.py")
    sys.modules.pop("others_features", None)


@pytest.mark.parametrize("attribute", ["Deviations", "ready"])
def test_features_are_those_of_the_object_record_by_record(module: str, attribute: str) -> None:
    dataset = small_set()
    found = ObjectFeatures("theirs", f"{module}:{attribute}").features(dataset)
    wanted = [record.signal.std(axis=1) for record in dataset.records]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.dtype == np.float32
    calls = sys.modules["others_features"].Deviations.seen
    assert [len(call) for call in calls] == [64, 56]
    assert calls[0][0] == (250.0, dataset.records[0].leads, dataset.records[0].signal.shape)


def test_models_and_objects_stand_in_one_table_in_the_order_named(module: str, tmp_path: Path) -> None:
    sources = standard_sources([f"{module}:ready", TINY], tmp_path / "twins", n_kernel_draws=1)
    models = [source for kind, source in sources if kind == MODEL]
    assert [type(source) for source in models] == [ObjectFeatures, EncoderFeatures]
    assert sum(source.name.startswith("untrained") for _, source in sources) == 1  # an object has no shape to copy
    report = compare(small_set(), "superdiagnostic", sources, fractions=(1.0,), n_draws=1, n_resamples=20, cache=None)
    text = report.to_text()
    assert "others_features.py:ready" in text
    assert "tiny-temporal" in text


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("absent", "no 'absent'"),
        ("nothing", r"int.*transform\(records\)"),
        ("ready.absent", "no 'absent'"),
        ("Needs", "called without arguments.*'weights'"),
    ],
)
def test_what_is_not_there_or_no_transformer_is_refused_at_once(
    module: str, attribute: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=words):
        standard_sources([f"{module}:{attribute}"], tmp_path)


def test_a_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no_such_module"):
        standard_sources(["no_such_module:x"], tmp_path)


@pytest.mark.parametrize(
    "attribute", ["Wrong", "ragged", "missing", "words", "wide", "line", "empty", "yes_or_no", "spectrum"]
)
def test_what_is_no_row_of_numbers_for_each_record_is_refused(module: str, attribute: str) -> None:
    with pytest.raises(ShapeError, match="one row for each record"):
        ObjectFeatures("theirs", f"{module}:{attribute}").features(small_set())


@pytest.mark.parametrize(
    ("attribute", "error", "words"),
    [
        ("uneven", ParameterError, "failed on 64 records.*inhomogeneous"),
        ("breaks", ParameterError, "failed on 64 records.*ZeroDivisionError"),
        ("complains", LeadError, "^no such lead$"),
    ],
)
def test_what_an_object_fails_with_is_told(module: str, attribute: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ObjectFeatures("theirs", f"{module}:{attribute}").features(small_set())


def test_tensors_of_any_precision_are_features(module: str) -> None:
    found = ObjectFeatures("theirs", f"{module}:tensor").features(small_set())
    assert found.dtype == np.float32
    assert np.all(found == 0.5)


@pytest.mark.parametrize(
    ("model", "is_one"),
    [("a.b:c", True), ("folder/file.py:make.it", True), ("default", False), ("owner/name", False), ("a:", False)],
)
def test_only_a_name_in_a_module_is_an_object(model: str, is_one: bool) -> None:
    assert is_object(model) == is_one


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights:v2").mkdir()
    assert not is_object(tmp_path / "weights:v2")


def test_features_that_are_the_same_for_all_are_named(module: str) -> None:
    sources = [(MODEL, ObjectFeatures("theirs", f"{module}:{name}")) for name in ("ready", "alike")]
    with pytest.raises(ShapeError, match=r"same features for all 120 recordings from 'theirs'.*collapsed"):
        compare(small_set(), "superdiagnostic", sources[1:], fractions=(1.0,), n_resamples=10)
    with pytest.raises(ShapeError, match="same features for all 120 recordings from 'theirs'"):
        compare_regressions(small_set(), sources[1:], {"x": np.arange(120.0)})
    assert features_of(sources[0][1], small_set()).shape == (120, 12)
