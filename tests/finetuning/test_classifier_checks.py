"""FineTunedClassifier keeps scikit-learn's contract, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from skecg.finetuning.classifier import FineTunedClassifier

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
ONE_LEAD = {"leads": ["II"], "sampling_rate": 100, "short_records": "pad", "epochs": 1}


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
@parametrize_with_checks([FineTunedClassifier(TINY, **ONE_LEAD)])
def test_scikit_learns_whole_check_passes(estimator, check) -> None:
    check(estimator)


def test_scikit_learn_has_as_many_checks_for_it_as_for_any_classifier() -> None:
    checks = list(estimator_checks_generator(FineTunedClassifier(TINY, **ONE_LEAD), legacy=True))

    assert len(checks) >= 50
    assert FineTunedClassifier(TINY).__sklearn_tags__().classifier_tags.multi_label
