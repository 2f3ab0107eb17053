"""Labelled recordings made for tests: synthetic, small, with patients and folds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from skecg.datasets import make_ecg
from skecg.datasets.base import LabelledECGs

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")

# What PTB-XL would call what is made.
_RHYTHMS = {"sinus": "SR", "af": "AFIB"}
_CONDUCTIONS = {"normal": "NORM", "lbbb": "CLBBB", "rbbb": "CRBBB"}


@lru_cache(maxsize=2)
def small_set(n_records: int = 120, n_folds: int = 3) -> LabelledECGs:
    """Make recordings of 4 s, two a patient, with NORM or CD, MI in a third of them, HYP in few, and SR or AFIB."""
    conduction = {"normal": 0.4, "lbbb": 0.3, "rbbb": 0.3}
    made = make_ecg(
        n_records,
        duration_seconds=4.0,
        sampling_rate=250,
        rhythm=list(_RHYTHMS),
        conduction=conduction,
        noise=0.05,
        random_state=0,
    )
    injured = make_ecg(
        n_records,
        duration_seconds=4.0,
        sampling_rate=250,
        st_level=0.3,
        conduction=conduction,
        noise=0.05,
        random_state=1,
    )
    codes, records = [], []
    for row in range(n_records):
        source, statements = (injured, {"IMI": 100.0}) if row % 3 == 0 else (made, {})
        records.append(source.records[row])
        statements = statements | ({"LVH": 100.0} if row % 20 == 7 else {})
        rhythm, beat = source.labels["rhythm"][row], source.labels["conduction"][row]
        codes.append(statements | {_RHYTHMS[rhythm]: 0.0, _CONDUCTIONS[beat]: 100.0})
    patients = np.arange(n_records) // 2
    return LabelledECGs(
        name="made",
        records=records,
        sampling_rate=None,
        leads=None,
        codes=tuple(codes),
        patients=patients.astype(str),
        folds=(patients % n_folds + 1).astype(np.int64),
        sexes=np.full(n_records, ""),
        ages=np.full(n_records, np.nan),
        licence="none needed",
        citation="",
        folder=Path(),
    )
