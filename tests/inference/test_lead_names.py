"""Leads with other names: refused where nobody knows them, named where they are left out, renamed where one says so."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skecg import ECGRecord, JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.errors import InputError, LeadError, LeadWarning, SamplingRateError, ShapeError, SignalWarning, UnitsError
from skecg.inference.inputs import RecordSource
from skecg.leads import CANONICAL_LEADS

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal"
TWELVE = make_ecg(3, random_state=0).records


def holter(record: ECGRecord, first: str = "MLII") -> ECGRecord:
    rows = [CANONICAL_LEADS.index(lead) for lead in ("II", "V1")]
    return ECGRecord(record.signal[rows], record.sampling_rate, [first, "V1"], record.name)


def embed(records: list[ECGRecord], **how: object) -> np.ndarray:
    return JEPAEmbedder(TINY, missing_leads="subset", **{"cache": None} | how).fit_transform(records)


@pytest.mark.parametrize(("name", "suggestion"), [("V7x", "V"), ("aVX", "aV"), ("IL", "I")])
def test_a_lead_that_the_user_names_and_nobody_knows_is_an_error_with_a_suggestion(name: str, suggestion: str) -> None:
    for leads in (["I", "II", name], {"MLII": name}):
        with pytest.raises(LeadError, match=rf"named '{name}', which nobody knows.*Did you mean '{suggestion}"):
            JEPAEmbedder(TINY, sampling_rate=500, leads=leads).fit(np.ones((1, 3, 5000)))


def test_a_lead_that_cannot_be_used_is_named_once_with_the_way_out() -> None:
    with pytest.warns(LeadWarning, match=r"3 of 3 records .*record 0 .*\(MLII\)") as caught:
        embed([holter(record) for record in TWELVE])
    assert sum(issubclass(w.category, LeadWarning) for w in caught) == 1
    assert 'leads={"MLII": "II"}' in str(caught[0].message)


def test_a_lead_that_is_said_to_be_another_is_embedded_as_that_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeadWarning)
        renamed = embed([holter(record) for record in TWELVE], leads={"mlii": "ii"})
        alone = [ECGRecord(record.signal[:1], record.sampling_rate, ["ECG"]) for record in TWELVE]
        only = embed(alone, leads={"ECG": "II"})
    np.testing.assert_array_equal(renamed, embed([holter(record, "II") for record in TWELVE]))
    np.testing.assert_array_equal(only, embed([ECGRecord(r.signal, r.sampling_rate, ["II"]) for r in alone]))


def test_a_record_of_one_unknown_lead_says_how_to_name_it() -> None:
    alone = ECGRecord(TWELVE[0].signal[:1], TWELVE[0].sampling_rate, ["ECG"])
    with pytest.raises(LeadError, match=r"leads=\{'ECG': 'II'\}"):
        embed([alone])


@pytest.mark.parametrize("leads", [{}, {"MLII": "MLI"}, {"MLII": "II", "ECG": "II"}])
def test_a_mapping_that_names_no_lead_of_the_twelve_or_one_twice_is_refused(leads: dict[str, str]) -> None:
    with pytest.raises(LeadError):
        JEPAEmbedder(TINY, leads=leads).fit(TWELVE)


def test_the_leads_of_each_record_are_reported_from_the_cache_too() -> None:
    limbless = ECGRecord(TWELVE[1].signal[6:], TWELVE[1].sampling_rate, CANONICAL_LEADS[6:])
    two = ECGRecord(TWELVE[2].signal[:2], TWELVE[2].sampling_rate, ["I", "II"])
    embedder = JEPAEmbedder(TINY, missing_leads="subset").fit(TWELVE)
    spec_leads = embedder.embedding_config().info.spec.leads
    for _ in range(2):
        embedder.transform([TWELVE[0], limbless, two])
        assert embedder.leads_used_ == [
            tuple(lead for lead in spec_leads if lead in names)
            for names in (CANONICAL_LEADS, CANONICAL_LEADS[6:], CANONICAL_LEADS[:6])
        ]
    assert pickle.loads(pickle.dumps(embedder)).leads_used_ == []


@pytest.mark.parametrize("spelled", ["ECG 1", "ecg_1", "Ecg.1", "ECG1"])
def test_spellings_of_a_name_in_a_mapping_do_not_matter(spelled: str) -> None:
    records = [holter(record, "ECG1") for record in TWELVE]
    embedder = JEPAEmbedder(TINY, leads={spelled: "II"}, missing_leads="subset", cache=None)
    embedder.fit_transform(records)
    assert all("II" in leads for leads in embedder.leads_used_)


def test_a_name_in_a_mapping_that_no_record_has_is_named() -> None:
    with pytest.warns(LeadWarning, match="Got leads= for MLII, which none of 3 record") as caught:
        embed(TWELVE, leads={"MLII": "II"})
    assert Path(caught[0].filename) == Path(__file__)


def test_leads_used_are_those_of_one_call_whatever_threads_do() -> None:
    embedder = JEPAEmbedder(TINY, cache=None).fit(TWELVE)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: embedder.transform(TWELVE), range(24)))
    assert len(embedder.leads_used_) == len(TWELVE)


def test_a_call_that_fails_leaves_the_leads_of_the_one_before() -> None:
    embedder = JEPAEmbedder(TINY, cache=None)
    embedder.fit_transform(TWELVE[:2])
    bad = ECGRecord(np.full((12, 5000), np.inf), 500, CANONICAL_LEADS)
    with pytest.raises(InputError):
        embedder.transform([TWELVE[0], bad])
    assert len(embedder.leads_used_) == 2


def frames_of(records: list[ECGRecord], order: list[str], *, as_columns: bool) -> list[object]:
    pandas = pytest.importorskip("pandas")
    frames = [pandas.DataFrame(record.signal.T, columns=list(record.leads))[order] for record in records]
    return frames if as_columns else [frame.T for frame in frames]


@pytest.mark.parametrize("as_columns", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_leads_of_data_frames_go_by_their_names(as_columns: bool, given: bool) -> None:
    records = make_ecg(2, sampling_rate=250, random_state=0).records
    order = [*CANONICAL_LEADS[:6], "V2", "V1", *CANONICAL_LEADS[8:]]
    frames = frames_of(records, order, as_columns=as_columns)
    found = JEPAEmbedder(sampling_rate=250, leads=order if given else None, cache=None).fit_transform(frames)
    np.testing.assert_array_equal(found, JEPAEmbedder(cache=None).fit_transform(records))


@pytest.mark.parametrize("dtype", ["Float64", "Int64", "double[pyarrow]"])
def test_data_frames_of_nullable_numbers_are_data_frames_too(dtype: str) -> None:
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    records = make_ecg(2, sampling_rate=250, random_state=0).records
    frames = [pandas.DataFrame((1000 * r.signal.T).round(), columns=list(r.leads)) for r in records]
    nullable = [frame.astype(dtype) for frame in frames]
    nullable[0].iloc[7, 3] = pandas.NA
    frames[0].iloc[7, 3] = np.nan
    with pytest.warns(SignalWarning, match="gaps"):
        found, expected = (embed(some, sampling_rate=250, units="uV") for some in (nullable, frames))
    np.testing.assert_array_equal(found, expected)


def test_leads_of_data_frames_may_have_names_of_their_own() -> None:
    pandas = pytest.importorskip("pandas")
    records = [holter(record) for record in TWELVE]
    frames = [pandas.DataFrame({"MLII": record.signal[0]}) for record in records]
    alone = [ECGRecord(record.signal[:1], record.sampling_rate, ["II"]) for record in records]
    found = embed(frames, leads={"MLII": "II"}, sampling_rate=records[0].sampling_rate)
    np.testing.assert_array_equal(found, embed(alone))


@pytest.mark.parametrize(("units", "unit"), [("mV", "uV"), ("uV", "uV"), ("per-lead standard deviation", "mV")])
def test_the_unit_in_the_names_of_a_data_frame_is_obeyed(units: str, unit: str) -> None:
    pandas = pytest.importorskip("pandas")
    scale = {"uV": 1e3, "mV": 1.0}[unit]
    records = make_ecg(2, sampling_rate=250, random_state=0).records
    names = [f"{lead} ({unit})" for lead in CANONICAL_LEADS]
    frames = [pandas.DataFrame(record.signal.T * np.float64(scale), columns=names) for record in records]
    found = JEPAEmbedder(sampling_rate=250, units=units, cache=None).fit_transform(frames)
    expected = JEPAEmbedder(units=units if unit == "mV" else "mV", cache=None).fit_transform(records)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_column_of_a_data_frame_has_its_own_unit() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"II (uV)": [2000.0] * 3, "V1": [3.0] * 3, "ABP (V)": [1.0] * 3})
    assert read_frame(frame, "mV").tolist() == [[2.0] * 3, [3.0] * 3, [1000.0] * 3]
    assert read_frame(frame, ["uV", "mV", "V"]).tolist() == read_frame(frame, "mV").tolist()
    with pytest.raises(UnitsError, match=r"named II \(uV\) and values in nV"):
        read_frame(frame, "nV")


def read_frame(frame: object, units: Any) -> np.ndarray:
    return RecordSource([frame], sampling_rate=500, leads=None, units=units)[0].signal


def test_the_unit_in_the_names_of_arrays_must_be_that_of_their_values() -> None:
    X, names = np.ones((1, 1, 5000)), ["II (uV)"]
    assert RecordSource(X, sampling_rate=500, leads=names, units="uV")[0].signal.max() == np.float32(1e-3)
    assert RecordSource(X, sampling_rate=500, leads=names, units=["uV"])[0].signal.max() == np.float32(1e-3)
    assert RecordSource(X, sampling_rate=500, leads=names, units="per-lead standard deviation")[0].leads == ("II",)
    with pytest.raises(UnitsError, match=r"named II \(uV\) and values in mV"):
        JEPAEmbedder(TINY, sampling_rate=500, leads=names).fit(X)


def test_a_data_frame_without_names_is_an_array_and_one_with_others_is_refused() -> None:
    records = make_ecg(2, sampling_rate=250, random_state=0).records
    (frame, _) = frames_of(records, list(CANONICAL_LEADS), as_columns=False)
    embedder = JEPAEmbedder(sampling_rate=250, cache=None)
    plain = embedder.fit_transform([frame.reset_index(drop=True)])
    np.testing.assert_array_equal(plain, embedder.fit_transform([records[0].signal]))
    with pytest.raises(LeadError, match=r"columns \['a0', 'a1', 'a2', 'a3'\] in X\[0\].*leads such as 'II'"):
        embedder.fit_transform([frame.T.rename(columns={lead: f"a{i}" for i, lead in enumerate(CANONICAL_LEADS)})])
    with pytest.raises(LeadError, match=r"Leave leads out"):
        JEPAEmbedder(sampling_rate=250, leads=list(CANONICAL_LEADS[::-1]), cache=None).fit_transform([frame])


RECORD = TWELVE[0]
SECONDS = np.arange(RECORD.n_samples) / RECORD.sampling_rate


def read(frame: Any, sampling_rate: float = RECORD.sampling_rate) -> ECGRecord:
    return RecordSource([frame], sampling_rate=sampling_rate, leads=None, units="mV")[0]


@pytest.mark.parametrize(
    "index",
    [
        lambda pandas: pandas.to_datetime(1.7e9 + SECONDS, unit="s"),
        lambda pandas: pandas.to_datetime(1.7e9 + SECONDS, unit="s").tz_localize("UTC").tz_convert("CET"),
        lambda pandas: pandas.to_timedelta(SECONDS, unit="s"),
        lambda pandas: pandas.Index(SECONDS),
        lambda pandas: pandas.Index((1000 * SECONDS).astype(int), name="time"),
    ],
    ids=["dates", "dates of a zone", "spans", "seconds", "milliseconds"],
)
def test_the_index_of_a_data_frame_has_to_agree_with_the_rate(index: Callable[[Any], Any]) -> None:
    (frame,) = frames_of([RECORD], list(RECORD.leads), as_columns=True)
    frame = frame.set_index(index(pytest.importorskip("pandas")))
    np.testing.assert_array_equal(read(frame).signal, RECORD.signal)
    np.testing.assert_array_equal(read(frame.T).signal, RECORD.signal)
    with pytest.raises(SamplingRateError, match=r"times that advance by .* a row in X\[0\]"):
        read(frame, 2 * RECORD.sampling_rate)
    with pytest.raises(InputError, match=r"times that only go back in X\[0\]"):
        read(frame[::-1])


def test_rows_that_were_left_out_or_put_in_another_order_are_told() -> None:
    (frame,), rate = frames_of([RECORD], list(RECORD.leads), as_columns=True), RECORD.sampling_rate
    assert read(frame[::2], rate / 2).n_samples == RECORD.n_samples // 2
    assert read(frame[500:], rate).n_samples == RECORD.n_samples - 500
    with pytest.warns(SignalWarning, match=r"The times in X\[0\] jump .* after row 100"):
        read(frame.drop(range(100, 200)), rate)
    with pytest.raises(InputError, match="only go back"):
        read(frame[::-1], rate)


@pytest.mark.parametrize("place", [0, 12])
def test_a_column_of_times_in_a_data_frame_is_no_lead_and_has_to_agree_with_the_rate(place: int) -> None:
    (frame,) = frames_of([RECORD], list(RECORD.leads), as_columns=True)
    frame.insert(place, "time", SECONDS)
    record = read(frame, RECORD.sampling_rate)
    assert record.leads == RECORD.leads
    np.testing.assert_array_equal(record.signal, RECORD.signal)
    with pytest.raises(SamplingRateError, match=r"times that advance by .* a row in X\[0\]"):
        read(frame, 2 * RECORD.sampling_rate)


def test_what_rdsamp_of_wfdb_gives_is_told_another_way() -> None:
    with pytest.raises(ShapeError, match=r"type tuple.*Take wfdb\.rdrecord in place of wfdb\.rdsamp"):
        read((RECORD.signal.T, {"fs": 500, "sig_name": list(RECORD.leads)}))
