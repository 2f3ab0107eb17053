from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_corpora import heart, write_arrays, write_table, write_wfdb

from pretraining.data.code15 import valid_extent
from pretraining.data.corpora import CORPORA, Corpus, open_corpus, parse_corpus
from pretraining.data.physionet import SUBSETS, subset_of
from skecg.datasets.packed import STANDARDIZED, TYPICAL_MV, millivolts_a_step
from skecg.errors import (
    BadSignalError,
    DamagedRecordError,
    MissingDependencyError,
    ParameterError,
    RecordNotFoundError,
    RecordReadError,
    SkecgError,
    UnitsError,
)
from skecg.leads import CANONICAL_LEADS
from skecg.records import ECGRecord


def read_all(corpus: Corpus) -> list[ECGRecord]:
    records = list(corpus.read())
    assert all(isinstance(record, ECGRecord) for record in records), records
    return [record for record in records if isinstance(record, ECGRecord)]


def make_ptbxl(folder: Path, rates: dict[str, int]) -> Path:
    rows = []
    for number in range(1, 11):
        row = {"ecg_id": number, "patient_id": f"{100 + number}.0", "strat_fold": number}
        for column, short, folder_name in (("filename_lr", "lr", "records100"), ("filename_hr", "hr", "records500")):
            row[column] = f"{folder_name}/00000/{number:05d}_{short}"
            if folder_name in rates:
                rate = rates[folder_name]
                write_wfdb(folder / str(row[column]), heart(number, 10, rate), rate)
        rows.append(row)
    write_table(folder / "ptbxl_database.csv", rows)
    return folder


def test_ptbxl_keeps_the_folds_that_encoders_are_evaluated_on_out_and_says_so(tmp_path: Path) -> None:
    corpus = open_corpus("ptbxl", make_ptbxl(tmp_path, {"records500": 500}))

    assert [item.fold for item in corpus.items] == list(range(1, 9))
    assert [row.reason for row in corpus.left_out] == ["fold 9", "fold 10"]
    assert [row.source for row in corpus.left_out] == ["records500/00000/00009_hr", "records500/00000/00010_hr"]
    assert corpus.items[2].patient == "103"
    np.testing.assert_allclose(read_all(corpus)[2].signal, heart(3), atol=1e-6)


def test_ptbxl_is_taken_at_the_rate_that_lies_there_or_is_named(tmp_path: Path) -> None:
    both = make_ptbxl(tmp_path / "both", {"records500": 500, "records100": 100})
    slow = make_ptbxl(tmp_path / "slow", {"records100": 100})

    found = [read_all(open_corpus("ptbxl", f))[0].sampling_rate for f in (both, both / "records100", slow)]

    assert found == [500, 100, 100]


def test_mimic_leads_are_known_by_name_though_avf_comes_before_avl(tmp_path: Path) -> None:
    order = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
    signal = heart(1)
    rows = [CANONICAL_LEADS.index(lead) for lead in order]
    write_wfdb(tmp_path / "files/p1000/p10000032/s40689238/40689238", signal[rows], 500, order)
    path = "files/p1000/p10000032/s40689238/40689238"
    write_table(tmp_path / "record_list.csv", [{"subject_id": 10000032, "study_id": 40689238, "path": path}])

    corpus = open_corpus("mimic-iv-ecg", tmp_path)
    record = read_all(corpus)[0]

    assert corpus.items[0].patient == "10000032"
    assert record.leads[4:6] == ("aVF", "aVL")
    np.testing.assert_allclose(record.signal[4], signal[5], atol=1e-6)


def test_a_record_that_is_listed_but_not_there_is_an_error_in_its_place(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "b", heart(1), 500)
    write_table(tmp_path / "record_list.csv", [{"subject_id": 1, "path": "a"}, {"subject_id": 2, "path": "b"}])

    first, second = open_corpus("mimic-iv-ecg", tmp_path).read()

    assert isinstance(first, RecordNotFoundError)
    assert isinstance(second, ECGRecord)


@pytest.mark.parametrize("name", ["ptbxl", "mimic-iv-ecg"])
def test_a_table_that_is_absent_or_lacks_columns_is_named(name: str, tmp_path: Path) -> None:
    table = {"ptbxl": "ptbxl_database.csv", "mimic-iv-ecg": "record_list.csv"}[name]
    with pytest.raises(RecordNotFoundError, match=table):
        open_corpus(name, tmp_path)

    write_table(tmp_path / table, [{"other": 1}])
    with pytest.raises(DamagedRecordError, match=r"without the column\(s\)"):
        open_corpus(name, tmp_path)


def make_code15(folder: Path) -> dict[str, np.ndarray]:
    """Two parts: one whole recording, one of 7 s between zeros, and the row of zeros that ends a file."""
    h5py = pytest.importorskip("h5py")
    whole, seven = heart(1, 10.24, 400).T, np.zeros((4096, 12), np.float32)
    seven[581:3515] = heart(2, 2934 / 400, 400).T
    for part, tracings, exams in ((10, [whole], [30]), (2, [seven, 0 * seven], [20, 0])):
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["tracings"], file["exam_id"] = np.stack(tracings), np.array(exams)
    write_table(folder / "exams.csv", [{"exam_id": 20, "patient_id": 7}, {"exam_id": 30, "patient_id": 8}])
    return {"whole": whole.T, "seven": seven[581:3515].T}


def test_code15_padding_is_taken_off_and_seven_seconds_stay_seven(tmp_path: Path) -> None:
    truth = make_code15(tmp_path)

    corpus = open_corpus("code15", tmp_path)
    seven, zeros, whole = corpus.read()

    sources = ["exams_part2.hdf5:0", "exams_part2.hdf5:1", "exams_part10.hdf5:0"]
    assert [item.source for item in corpus.items] == sources
    assert [item.patient for item in corpus.items] == ["7", "", "8"]
    assert isinstance(zeros, BadSignalError)
    assert isinstance(seven, ECGRecord)
    assert isinstance(whole, ECGRecord)
    assert (seven.sampling_rate, seven.leads) == (400, CANONICAL_LEADS)
    np.testing.assert_array_equal(seven.signal, truth["seven"])
    np.testing.assert_array_equal(whole.signal, truth["whole"])


def test_code15_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    truth = make_code15(tmp_path)
    corpus = open_corpus("code15", tmp_path)

    whole, seven = corpus.read([corpus.items[2], corpus.items[0]])

    assert isinstance(seven, ECGRecord)
    assert isinstance(whole, ECGRecord)
    np.testing.assert_array_equal(seven.signal, truth["seven"])
    np.testing.assert_array_equal(whole.signal, truth["whole"])


def test_code15_files_of_another_making_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "exams_part0.hdf5", "w") as file:
        file["tracings"] = np.zeros((2, 4096, 8))
    with pytest.raises(DamagedRecordError, match=r"\(2, 4096, 8\)"):
        open_corpus("code15", tmp_path)

    (tmp_path / "exams_part0.hdf5").write_bytes(b"no such thing")
    with pytest.raises(SkecgError, match="HDF5"):
        open_corpus("code15", tmp_path)


def test_code15_without_h5py_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exams_part0.hdf5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)

    with pytest.raises(MissingDependencyError, match="pip install h5py"):
        open_corpus("code15", tmp_path)


def test_valid_extent_is_that_of_any_lead() -> None:
    tracing = np.zeros((10, 3))
    tracing[3, 0] = tracing[7, 2] = 1

    assert valid_extent(tracing) == (3, 8)
    assert valid_extent(0 * tracing) == (0, 0)
    assert valid_extent(tracing + 1) == (0, 10)


def make_challenge(folder: Path) -> Path:
    names = ("georgia", "cpsc_2018", "cpsc_2018_extra", "ptb", "ptb-xl", "st_petersburg_incart")
    for number, name in enumerate((*names, "chapman_shaoxing", "ningbo")):
        write_wfdb(folder / "training" / name / "g1" / f"X{number}", heart(number), 500)
    return folder


def test_each_subset_of_the_challenge_is_a_corpus_and_ptbxl_is_left_out(tmp_path: Path) -> None:
    corpus = open_corpus("cinc2021", make_challenge(tmp_path))

    assert {item.corpus for item in corpus.items} == set(SUBSETS) - {"ptb-xl"}
    assert [(row.corpus, row.reason) for row in corpus.left_out] == [("ptb-xl", "folds unknown")]
    assert "cinc2021/ptb-xl" in corpus.left_out[0].message
    assert len(read_all(corpus)) == 7


@pytest.mark.parametrize("subset", ["georgia", "ptb-xl"])
def test_a_subset_that_is_named_is_taken_alone(subset: str, tmp_path: Path) -> None:
    corpus = open_corpus(f"cinc2021/{subset}", make_challenge(tmp_path))

    assert [item.corpus for item in corpus.items] == [subset]
    assert corpus.left_out == ()


def test_the_folder_of_one_subset_will_do(tmp_path: Path) -> None:
    corpus = open_corpus("cinc2020", make_challenge(tmp_path) / "training" / "ptb-xl")

    assert corpus.items == ()
    assert len(corpus.left_out) == 1


def test_folders_of_the_challenge_are_known_by_all_their_names() -> None:
    paths = ("WFDB_CPSC2018/A1.hea", "WFDB_CPSC2018_2/Q1.hea", "WFDB_Ga/E1.hea", "WFDB_PTBXL/HR1.hea", "x/I1.hea")

    assert [subset_of(path) for path in paths] == ["cpsc", "cpsc-extra", "georgia", "ptb-xl", None]


def test_recordings_of_no_subset_are_refused(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "elsewhere" / "A1", heart(1), 500)

    with pytest.raises(ParameterError, match="elsewhere"):
        open_corpus("cinc2020", tmp_path)
    with pytest.raises(ParameterError, match="georgia"):
        open_corpus("cinc2020/georgai", tmp_path)


def test_chapman_ningbo_lies_two_folders_deep_and_has_a_patient_a_record(tmp_path: Path) -> None:
    for place in ("01/010/JS00001", "46/460/JS45551", "01/019/JS00900"):
        write_wfdb(tmp_path / "WFDBRecords" / place, heart(1), 500)

    corpus = open_corpus("chapman-ningbo", tmp_path)

    assert [item.source for item in corpus.items] == ["01/010/JS00001.hea", "01/019/JS00900.hea", "46/460/JS45551.hea"]
    assert [item.patient for item in corpus.items] == ["JS00001", "JS00900", "JS45551"]
    assert len(read_all(corpus)) == 3


def test_any_folder_or_pattern_is_a_corpus_whose_sources_do_not_say_where_it_lies(tmp_path: Path) -> None:
    for name in ("one/b", "one/a", "two/c"):
        write_wfdb(tmp_path / name, heart(1), 500)

    whole = open_corpus("mine", tmp_path)
    some = parse_corpus(f"mine={tmp_path}/one/*.hea")
    one = open_corpus("mine", tmp_path / "two" / "c.hea")

    assert [item.source for item in whole.items] == ["one/a.hea", "one/b.hea", "two/c.hea"]
    assert [item.source for item in some.items] == ["a.hea", "b.hea"]
    assert [item.source for item in one.items] == ["c.hea"]
    assert len(read_all(whole)) + len(read_all(some)) + len(read_all(one)) == 6


@pytest.mark.parametrize("assignment", ["ptbxl", "=here", "name=", "a/b=here", "a,b=here"])
def test_assignments_that_name_no_corpus_are_refused(assignment: str) -> None:
    with pytest.raises(ParameterError, match="expected"):
        parse_corpus(assignment)


@pytest.mark.parametrize("name", [*CORPORA, "mine"])
def test_a_folder_that_is_not_there_is_said_to_be_absent(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match="nowhere"):
        open_corpus(name, tmp_path / "nowhere")


def test_packed_arrays_keep_folds_out_and_padding_off(tmp_path: Path) -> None:
    path = write_arrays(
        tmp_path / "a.npz", 4, strat_fold=np.array([1, 9, 8, 10]), valid_len=np.array([2500, 9, 1500, 9])
    )

    corpus = open_corpus("mine", path)
    first, second = read_all(corpus)

    assert [item.source for item in corpus.items] == ["r0#0", "r2#2"]
    assert [row.reason for row in corpus.left_out] == ["fold 9", "fold 10"]
    assert (first.n_samples, second.n_samples) == (2500, 1500)
    np.testing.assert_allclose(second.signal, heart(2, 10, 250)[:, :1500], atol=6e-4)


def test_packed_arrays_may_name_the_leads_of_each_record(tmp_path: Path) -> None:
    signals = np.ones((2, 2, 2500), np.int16)
    path = write_arrays(tmp_path / "a.npz", 2, signals=signals, leads=np.array([["MLII", "V5"], ["V5", "V2"]]))

    assert [record.leads for record in read_all(open_corpus("mine", path))] == [("MLII", "V5"), ("V5", "V2")]


def test_microvolts_become_millivolts(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.npz", 1, units="uV", lsb=2.0, signals=np.full((1, 12, 2500), 500, np.int16))

    assert read_all(open_corpus("mine", path))[0].signal[0, 0] == pytest.approx(1.0)


def test_standardized_leads_get_typical_amplitudes_and_limb_leads_their_ratios(tmp_path: Path) -> None:
    ratios = np.array([[0.9, 1.0, 0.3, 0.9, 0.5, 0.55]])
    unit = np.random.default_rng(0).normal(size=(1, 12, 2500))
    unit = (unit - unit.mean(-1, keepdims=True)) / unit.std(-1, keepdims=True)
    signals = np.rint(unit / 0.001).astype(np.int16)
    path = write_arrays(tmp_path / "a.npz", 1, units=STANDARDIZED, signals=signals, limb_sigma_rel=ratios)

    corpus = open_corpus("mine", path)
    spread = read_all(corpus)[0].signal.std(axis=1)

    np.testing.assert_allclose(spread[:6] / spread[1], ratios[0], rtol=1e-3)
    assert np.sqrt(np.square(spread[:6]).mean()) == pytest.approx(TYPICAL_MV["limb"], rel=1e-3)
    np.testing.assert_allclose(spread[6:], [TYPICAL_MV[lead] for lead in CANONICAL_LEADS[6:]], rtol=1e-3)
    assert "standard deviation" in corpus.notes[0]


def test_restored_limb_leads_obey_einthoven() -> None:
    limb = heart(5)[:6]
    spread = limb.std(axis=1, keepdims=True)
    scale = millivolts_a_step(STANDARDIZED, 1.0, CANONICAL_LEADS[:6], spread[:, 0] / spread[1, 0])

    restored = limb / spread * scale

    np.testing.assert_allclose(restored[1], restored[0] + restored[2], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"units": "furlongs"}, UnitsError),
        ({"units": np.array(["mV", "uV"])}, DamagedRecordError),
        ({"lsb": np.full(2, 0.001)}, DamagedRecordError),
        ({"lsb": 0.0}, DamagedRecordError),
        ({"fs": np.full(2, 250.0)}, DamagedRecordError),
        ({"fs": np.nan}, DamagedRecordError),
        ({"strat_fold": np.array([1])}, DamagedRecordError),
        ({"strat_fold": np.array([1, np.nan])}, DamagedRecordError),
        ({"strat_fold": np.array(["1", "train"])}, DamagedRecordError),
        ({"strat_fold": np.array([1, 100_000])}, DamagedRecordError),
        ({"valid_len": np.array([9])}, DamagedRecordError),
        ({"valid_len": np.array([9, np.nan])}, DamagedRecordError),
        ({"valid_len": np.array([9, -1])}, DamagedRecordError),
        ({"valid_len": np.array([9, 2501])}, DamagedRecordError),
        ({"signals": np.ones((2, 2500), np.int16)}, DamagedRecordError),
        ({"leads": np.array(CANONICAL_LEADS[:8])}, DamagedRecordError),
        ({"leads": np.array([CANONICAL_LEADS] * 3)}, DamagedRecordError),
        ({"limb_sigma_rel": np.ones((1, 6))}, DamagedRecordError),
    ],
)
def test_packed_arrays_that_make_no_sense_are_refused(
    change: dict[str, object], error: type[SkecgError], tmp_path: Path
) -> None:
    with pytest.raises(error, match="expected"):
        open_corpus("mine", write_arrays(tmp_path / "a.npz", 2, **change))


def test_packed_arrays_may_hold_bytes_for_text(tmp_path: Path) -> None:
    leads = np.array(CANONICAL_LEADS).astype(bytes)
    path = write_arrays(tmp_path / "a.npz", 1, leads=leads, units=b"mV", record_ids=[b"a"], patient_ids=[b"p"])

    corpus = open_corpus("mine", path)

    assert [(item.source, item.patient) for item in corpus.items] == [("a#0", "p")]
    assert read_all(corpus)[0].leads == CANONICAL_LEADS


@pytest.mark.parametrize("key", ["leads", "record_ids"])
def test_arrays_of_objects_are_refused_saying_how_to_write_them(key: str, tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.npz", 2)
    content = dict(np.load(path))
    np.savez(path, **content | {key: content[key].astype(object)})

    with pytest.raises(DamagedRecordError, match=f"of which {key} cannot be read .*dtype=str"):
        open_corpus("mine", path)


def test_an_array_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a.npz", 2)
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(RecordReadError, match=r"a\.npz cannot be opened"):
        open_corpus("mine", path)


def test_folds_may_be_whole_numbers_of_any_type_and_single_values_arrays_of_one(tmp_path: Path) -> None:
    for folds in (np.array([1.0, 9.0]), np.array(["1", "9"]), np.array([1, 9])):
        path = write_arrays(tmp_path / "a.npz", 2, strat_fold=folds, lsb=np.array([0.001]), units=np.array(["mV"]))
        assert [item.fold for item in open_corpus("mine", path).items] == [1]


@pytest.mark.parametrize("patients", [np.array([7, np.nan, np.nan]), np.array(["7.0", "nan", "None"])])
def test_recordings_of_nobody_known_are_not_all_of_one_patient(patients: np.ndarray, tmp_path: Path) -> None:
    corpus = open_corpus("mine", write_arrays(tmp_path / "a.npz", 3, patient_ids=patients))

    assert [item.patient for item in corpus.items] == ["7.0", "", ""]


def test_a_corpus_can_be_sent_to_another_process(tmp_path: Path) -> None:
    corpus = open_corpus("mine", write_arrays(tmp_path / "a.npz", 2))

    again = pickle.loads(pickle.dumps(corpus))

    assert again.items == corpus.items
    np.testing.assert_array_equal(read_all(again)[1].signal, read_all(corpus)[1].signal)


def test_the_shared_recordings_are_corpora(shared: Path) -> None:
    raw = shared / "data" / "raw"
    challenge = open_corpus("mine", raw / "cpsc2018_cinc2020")
    zscored = open_corpus("ptbxl", shared / "data" / "ptbxl_zscored_sample_250hz.npz")

    assert [item.source for item in challenge.items] == ["A0001.hea", "A0002.hea", "A0003.hea", "A0113.hea"]
    assert Counter(row.reason for row in zscored.left_out) == {"fold 9": 12}
    assert len(zscored.items) == 48
    record = next(iter(zscored.read(zscored.items[:1])))
    assert isinstance(record, ECGRecord)
    limb = record.signal[:6]
    assert np.abs(limb[1] - limb[0] - limb[2]).max() < 0.02
