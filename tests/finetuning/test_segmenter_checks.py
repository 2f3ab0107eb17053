"""scikit-learn's own checks, as far as they can be put to an estimator whose `y` is a sequence for each record.

Those that fit hand a class or a number for each row of X, which a Segmenter rightly refuses. They are therefore run on
one that takes such a `y` to mean that every sample of the row is of that class, and that answers with the class of
most samples; all that lies between is Segmenter's own. Of the checks of the Segmenter itself those pass that fit
nothing, and the others fail by this very refusal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from skecg import Segmenter

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
QUICK: dict[str, Any] = {
    "model": str(TINY),
    "leads": ["II"],
    "sampling_rate": 250,
    "missing_leads": "zero",
    "short_records": "pad",
    "head_epochs": 1,
    "epochs": 1,
    "width": 4,
    "validation_fraction": 0.0,
    "augment": False,
    "device": "cpu",
}


class OneClassARecord(Segmenter):
    """A Segmenter of rows that are of one class from end to end."""

    def fit(self, X: Any, y: Any, **named: Any) -> OneClassARecord:
        if y is None:
            return super().fit(X, None, **named)
        n_samples = np.shape(X)[-1] if np.ndim(X) > 1 else 1
        numbers = np.minimum(np.unique(np.asarray(y).reshape(len(y), -1)[:, 0], return_inverse=True)[1], 3)
        return super().fit(X, [np.full(n_samples, number) for number in numbers], **named)

    def predict(self, X: Any, **named: Any) -> NDArray[np.int64]:
        return np.array([np.bincount(labels).argmax() for labels in super().predict(X, **named)])

    def predict_proba(self, X: Any, **named: Any) -> NDArray[np.float64]:
        return np.array([found.mean(axis=0) for found in super().predict_proba(X, **named)])

    def score(self, X: Any, y: Any, **named: Any) -> float:
        return float(np.mean(self.predict(X, **named) == 0))


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@parametrize_with_checks([OneClassARecord(**QUICK)])
def test_every_check_of_an_estimator_passes_where_a_record_is_of_one_class(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.filterwarnings(
    "ignore::skecg.errors.SkecgWarning", "ignore::sklearn.exceptions.EstimatorCheckFailedWarning"
)
def test_a_segmenter_itself_fails_none_but_those_whose_y_it_refuses() -> None:
    results = check_estimator(Segmenter(**QUICK), on_fail=None, on_skip=None)

    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    failed = [result for result in results if result["status"] not in ("passed", "skipped")]
    assert {"check_get_params_invariance", "check_estimators_unfitted", "check_requires_y_none"} <= passed
    assert len(passed) >= 17  # with the oldest scikit-learn; newer ones have more
    for result in failed:
        error = result["exception"]
        assert "y[0] of shape ()" in f"{error} {error.__cause__} {error.__context__}", result["check_name"]
