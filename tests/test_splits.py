from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold

from skecg.errors import LeakageWarning, ParameterError
from skecg.splits import warn_of_shared_patients

PATIENTS = np.repeat(["ann", "bob", "cat", "dan"], 3)
LABELS = np.tile([0, 1], 6)


def test_a_patient_on_both_sides_is_warned_of_with_the_way_out() -> None:
    with pytest.warns(LeakageWarning, match=r"StratifiedKFold .* StratifiedGroupKFold, and pass groups"):
        shared = warn_of_shared_patients(3, range(12), LABELS, PATIENTS)

    assert shared == 2  # four records to a fold, three to a patient


def test_splits_by_patient_pass_in_silence() -> None:
    assert warn_of_shared_patients(GroupKFold(2), range(12), LABELS, PATIENTS) == 0


def test_a_plain_split_that_happens_to_keep_patients_together_passes() -> None:
    assert warn_of_shared_patients(KFold(4), range(12), None, PATIENTS) == 0


def test_one_name_is_wanted_for_every_record() -> None:
    with pytest.raises(ParameterError, match=r"\(12,\) for 11 records"):
        warn_of_shared_patients(3, range(11), LABELS[:11], PATIENTS)
