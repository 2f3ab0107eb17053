"""Fine-tuned estimators tell which leads each record was predicted with."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from skecg import FineTunedClassifier
from skecg.datasets import make_ecg
from skecg.records import ECGRecord


@pytest.mark.filterwarnings("ignore::skecg.errors.SkecgWarning")
def test_a_prediction_tells_the_leads_of_each_record() -> None:
    records = make_ecg(4, random_state=0).records
    single = ECGRecord(records[1].signal[:1], records[1].sampling_rate, records[1].leads[:1])
    model = FineTunedClassifier(epochs=1, validation_fraction=0, random_state=0).fit(records, [0, 1, 0, 1])
    assert model.leads_used_ == []
    model.predict([records[0], single])
    assert model.leads_used_ == [records[0].leads, ("I",)]
    # Threads may predict at once: the list is of one of the predictions, never of both.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(model.predict, [records, records]))
    assert len(model.leads_used_) == 4
    assert pickle.loads(pickle.dumps(model)).leads_used_ == []
