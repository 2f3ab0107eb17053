from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skecg import JEPAEmbedder
from skecg.datasets import read_packed
from skecg.datasets.packed import TYPICAL_MV, join_datasets
from skecg.errors import DamagedRecordError, ParameterError, RecordNotFoundError, UnitsError
from skecg.leads import CANONICAL_LEADS

N_RECORDS, N_SAMPLES = 4, 600


def arrays(**more: object) -> dict[str, object]:
    """What a packed file needs, and more."""
    signals = np.random.default_rng(0).integers(-400, 400, (N_RECORDS, 12, N_SAMPLES)).astype(np.int16)
    needed = {"signals": signals, "lsb": 0.005, "units": "mV", "fs": 250, "leads": np.array(CANONICAL_LEADS)}
    return {**needed, **more}


def pack(folder: Path, **more: object) -> Path:
    np.savez(folder / "small.npz", **arrays(**more))
    return folder / "small.npz"


def test_steps_become_millivolts(tmp_path: Path) -> None:
    data = read_packed(pack(tmp_path))
    assert data.records.dtype == np.float32
    np.testing.assert_array_equal(data.records, np.float32(arrays()["signals"] * 0.005))
    assert (data.sampling_rate, data.leads, data.name) == (250.0, CANONICAL_LEADS, "small")

    in_microvolts = read_packed(pack(tmp_path, units="uV", lsb=5.0))
    np.testing.assert_allclose(in_microvolts.records, data.records, rtol=1e-6)


def test_records_go_into_the_embedder(tmp_path: Path) -> None:
    data = read_packed(pack(tmp_path))
    embedder = JEPAEmbedder(sampling_rate=data.sampling_rate, leads=data.leads, cache=None, short_records="pad")

    assert embedder.fit_transform(data.records).shape[0] == N_RECORDS


def test_standardized_leads_are_given_a_size_and_limb_leads_their_ratios(tmp_path: Path) -> None:
    ratios = np.random.default_rng(1).uniform(0.3, 1, (N_RECORDS, 6)).astype(np.float32)

    data = read_packed(pack(tmp_path, units="per-lead standard deviation", limb_sigma_rel=ratios))

    steps = arrays()["signals"] * 0.005
    sizes = np.linalg.norm(data.records, axis=-1, keepdims=True) / np.linalg.norm(steps, axis=-1, keepdims=True)
    chest = [TYPICAL_MV[lead] for lead in data.leads[6:]]
    np.testing.assert_allclose(np.nanmedian(sizes[:, 6:], axis=-1), [chest] * N_RECORDS, rtol=1e-5)
    limb = np.nanmedian(sizes[:, :6], axis=-1)
    np.testing.assert_allclose(limb / limb[:, :1], ratios / ratios[:, :1], rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.square(limb).mean(axis=1)), TYPICAL_MV["limb"], rtol=1e-5)


def test_what_a_file_does_not_say_is_not_known(tmp_path: Path) -> None:
    data = read_packed(pack(tmp_path))

    assert data.codes == ({},) * N_RECORDS
    assert data.record_ids.tolist() == data.patients.tolist() == ["0", "1", "2", "3"]
    assert data.folds.tolist() == [0] * N_RECORDS
    assert set(data.sexes) == {""}
    assert np.isnan(data.ages).all()
    assert data.waves is None
    assert (data.licence, data.citation, data.folder) == ("", "", tmp_path)


def test_what_a_file_says_comes_along(tmp_path: Path) -> None:
    data = read_packed(
        pack(
            tmp_path,
            record_ids=np.array(["a", "b", "b", "c"]),
            patient_ids=np.array(["p", "", "", "p"]),
            strat_fold=np.array([1, -1, 10, 0]),
            age=np.array(["40", "", ">89", "x"]),
            sex=np.array(["Male", "f", "", "?"]),
            labels=np.array(["59118001,164889003", "", "<age>: 4 | Rhythm: Sinus, slow. | Scar: apical. ", "N"]),
            licence="CC BY 4.0",
            citation="Somebody",
        )
    )

    assert data.patients.tolist() == ["p", "b", "b", "p"]  # pieces of a recording stay together
    assert data.folds.tolist() == [1, 0, 10, 0]
    np.testing.assert_equal(data.ages, [40, np.nan, 90, np.nan])
    assert data.sexes.tolist() == ["M", "F", "", ""]
    assert [list(codes) for codes in data.codes] == [
        ["59118001", "164889003"],
        [],
        ["Rhythm: Sinus, slow", "Scar: apical"],
        ["N"],
    ]
    assert (data.licence, data.citation) == ("CC BY 4.0", "Somebody")


def test_columns_of_ptbxl_become_codes_with_their_columns_name_in_ptbxls_spelling(tmp_path: Path) -> None:
    data = read_packed(
        pack(
            tmp_path,
            labels=np.array(["NORM,SR"] * 4),
            super_class=np.array(["NORM", "CD,STTC", "", "MI;CD"]),
            sub_class=np.array(["NORM", "AVB,NST", "", "IMI;LAFB/LPFB"]),
            form=np.array(["", "NST,STE", "PRC(S)", ""]),
            rhythm=np.array(["SR", "", "", "AFIB"]),
        )
    )

    assert [list(codes) for codes in data.codes] == [
        ["super:NORM", "sub:NORM", "rhythm:SR"],
        ["super:CD", "super:STTC", "sub:_AVB", "sub:NST_", "form:NST_", "form:STE_"],
        ["form:PRC(S)"],
        ["super:MI", "super:CD", "sub:IMI", "sub:LAFB/LPFB", "rhythm:AFIB"],
    ]
    assert set(data.codes[0].values()) == {100.0}


def test_padding_is_cut_off(tmp_path: Path) -> None:
    data = read_packed(pack(tmp_path, valid_len=np.array([600, 500, 300, 600]), record_ids=np.array(list("abcd"))))

    assert [record.n_samples for record in data.records] == [600, 500, 300, 600]
    assert (data.records[1].sampling_rate, data.records[1].leads, data.records[1].name) == (250, CANONICAL_LEADS, "b")
    assert (data.sampling_rate, data.leads) == (None, None)
    np.testing.assert_array_equal(data.records[2].signal, np.float32(arrays()["signals"][2, :, :300] * 0.005))


def test_recordings_may_have_leads_of_their_own(tmp_path: Path) -> None:
    signals = arrays()["signals"][:, :2]
    leads = np.array([["MLII", "V5"], ["V5", "V2"], ["I", "II"], ["I (hand-held)", "II"]])

    data = read_packed(pack(tmp_path, signals=signals, leads=leads))

    assert [record.leads for record in data.records][1:] == [("V5", "V2"), ("I", "II"), ("I", "II")]


WAVES = [[7, 1, 0, 10, 20, 30], [7, 0, 2, 50, 55, 60], [7, 0, 1, -1, 5, 9], [5, 3, 1, 1, 2, 3]]


def test_waves_go_to_their_recording_and_lead_in_the_order_of_time(tmp_path: Path) -> None:
    columns = np.array(["record", "lead_index", "type(0=P,1=QRS,2=T)", "onset", "peak", "offset"])
    ids = np.array(["5", "6", "7", "8"])

    data = read_packed(pack(tmp_path, waves=np.array(WAVES), waves_columns=columns, waves_fs=500, record_ids=ids))

    assert data.waves(2).sampling_rate == 500
    assert data.waves(2).leads == CANONICAL_LEADS
    assert data.waves(2).tables[0].tolist() == [[-1, 5, 9, 1], [50, 55, 60, 2]]
    assert data.waves(2).tables[1].tolist() == [[10, 20, 30, 0]]
    assert data.waves(0).tables[3].tolist() == [[1, 2, 3, 1]]
    assert data.waves(1).tables[0].shape == (0, 4)
    assert data.select([2]).waves(0).tables[1].tolist() == [[10, 20, 30, 0]]


def test_waves_marked_in_all_leads_at_once_are_in_each_and_the_first_annotator_is_believed(tmp_path: Path) -> None:
    columns = np.array(["record_index", "annotator(0=q1c,1=q2c)", "type(0=P,1=QRS,2=T)", "onset", "peak", "offset"])
    waves = np.array([[1, 0, 1, 4, 5, 6], [1, 1, 1, 3, 5, 7]])

    data = read_packed(pack(tmp_path, waves=waves, waves_columns=columns, record_ids=np.array(list("abcd"))))

    assert [table.tolist() for table in data.waves(1).tables] == [[[4, 5, 6, 1]]] * 12


@pytest.mark.parametrize("lacking", ["signals", "lsb", "units", "fs", "leads"])
def test_a_file_without_what_is_needed_is_refused(tmp_path: Path, lacking: str) -> None:
    kept = {key: value for key, value in arrays().items() if key != lacking}
    np.savez(tmp_path / "x.npz", **kept)

    with pytest.raises(DamagedRecordError, match=f"without {lacking}, expected signals, lsb"):
        read_packed(tmp_path / "x.npz")


@pytest.mark.parametrize("key", ["record_ids", "patient_ids", "strat_fold", "valid_len", "labels", "super_class"])
def test_a_column_of_another_length_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DamagedRecordError, match=rf"Got {key} of shape \(3,\) .* one for each of 4 records"):
        read_packed(pack(tmp_path, **{key: np.array([1, 2, 3])}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lsb": 0.0}, "lsb=0.0, expected a number above 0"),
        ({"lsb": -5.0}, "lsb=-5.0"),
        ({"lsb": np.nan}, "lsb=nan"),
        ({"lsb": "5,0"}, "lsb='5,0'"),
        ({"lsb": np.full(12, 0.005)}, r"lsb of shape \(12,\).*one value for all"),
        ({"units": ["mV", "uV"]}, r"units of shape \(2,\)"),
        ({"fs": 0}, "fs=0"),
        ({"fs": np.nan}, "fs=nan"),
        ({"waves_fs": np.nan}, "waves_fs=nan"),
        ({"waves_fs": [500, 500]}, "waves_fs of shape"),
        ({"valid_len": [600, -5, 9, 9]}, "valid_len -5 .*whole numbers from 0 to 600"),
        ({"valid_len": [600, 601, 9, 9]}, "valid_len 601"),
        ({"valid_len": [600, 9.5, 9, 9]}, "valid_len 9.5"),
        ({"strat_fold": [1, np.nan, 2, 3]}, "strat_fold nan .*-1 for a recording that is in no fold"),
        ({"strat_fold": ["1", "x", "2", "3"]}, "strat_fold 'x'"),
        ({"leads": CANONICAL_LEADS[:11]}, "leads of shape .*a name for every row"),
        ({"leads": [CANONICAL_LEADS] * 3}, "leads of shape"),
        ({"limb_sigma_rel": np.ones((4, 5))}, r"limb_sigma_rel of shape .*expected \(4, 6\)"),
        ({"labels": np.ones((4, 3))}, "labels of shape"),
        ({"signals": np.zeros((0, 12, 600), np.int16)}, "no recordings"),
        ({"signals": np.full((4, 12, 600), "1")}, "type <U1 .*expected numbers"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(DamagedRecordError, match=words):
        read_packed(pack(tmp_path, **{key: np.asarray(value) for key, value in change.items()}))


def test_single_values_may_be_arrays_of_one_and_whole_numbers_of_any_type(tmp_path: Path) -> None:
    one = {"lsb": [0.005], "units": ["mV"], "fs": [[250]], "leads": [CANONICAL_LEADS]}
    data = read_packed(pack(tmp_path, **one, strat_fold=["1", "2.0", "-1", "0"], valid_len=[600.0] * N_RECORDS))

    np.testing.assert_array_equal(data.records, read_packed(pack(tmp_path)).records)
    assert (data.sampling_rate, data.leads, data.folds.tolist()) == (250, CANONICAL_LEADS, [1, 2, 0, 0])
    lone = read_packed(pack(tmp_path, signals=arrays()["signals"][:, :1], leads="ii"))
    assert (lone.leads, lone.records.shape) == (("II",), (N_RECORDS, 1, N_SAMPLES))


def test_bytes_are_text(tmp_path: Path) -> None:
    ids, labels = np.array(["a", "b", "c", "d"]), np.array(["AF,SR", "SR", "", "\xc5"])
    text = {"leads": np.array(CANONICAL_LEADS), "units": "uV", "record_ids": ids, "patient_ids": ids, "labels": labels}

    data = read_packed(pack(tmp_path, **{key: np.char.encode(value, "utf-8") for key, value in text.items()}))

    assert (data.leads, data.patients.tolist()) == (CANONICAL_LEADS, ids.tolist())
    assert [list(codes) for codes in data.codes] == [["AF", "SR"], ["SR"], [], ["\xc5"]]


@pytest.mark.parametrize("patients", [[7, np.nan, np.nan, 7], ["7.0", "nan", " None", "7.0"]])
def test_recordings_of_nobody_known_are_of_a_patient_each(tmp_path: Path, patients: list[object]) -> None:
    assert read_packed(pack(tmp_path, patient_ids=patients)).patients.tolist() == ["7.0", "1", "2", "7.0"]


def test_signals_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="Got signals of shape"):
        read_packed(pack(tmp_path, signals=np.zeros((4, 600), np.int16)))


def test_waves_with_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="Got waves with columns"):
        read_packed(pack(tmp_path, waves=np.zeros((1, 2), int), waves_columns=np.array(["record", "peak"])))


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnitsError, match="Got units='furlong'"):
        read_packed(pack(tmp_path, units="furlong"))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match=r"absent\.npz"):
        read_packed(tmp_path / "absent.npz")


@pytest.mark.parametrize("n_bytes", [0, 100, -1000])
def test_a_damaged_file_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = pack(tmp_path)
    path.write_bytes(path.read_bytes()[:n_bytes])

    with pytest.raises(DamagedRecordError, match="could not be read as a packed file"):
        read_packed(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecordError, match="never unpickled"):
        read_packed(pack(tmp_path, labels=np.array([{}, {}, {}, {}], dtype=object)))


def part(folder: Path, name: str, fold: int, **more: object) -> object:
    ids = np.array([f"{name}{row}" for row in range(N_RECORDS)])
    path = pack(folder, **({"record_ids": ids, "strat_fold": np.full(N_RECORDS, fold)} | more))
    return read_packed(path.rename(folder / f"{name}.npz"))


def test_files_of_one_archive_are_joined_in_their_order(tmp_path: Path) -> None:
    a, b = part(tmp_path, "a", 1, licence="CC0"), part(tmp_path, "b", 9, patient_ids=np.array(["a0", "p", "q", "r"]))

    joined = join_datasets([a, b])

    assert (joined.name, joined.licence, len(joined)) == ("a + b", "CC0", 2 * N_RECORDS)
    np.testing.assert_array_equal(joined.records[N_RECORDS:], b.records)
    assert joined.folds.tolist() == [1] * 4 + [9] * 4
    assert joined.patients[4] == joined.patients[0] == "a0"  # the same person, who must not be on both sides
    assert (joined.leads, joined.sampling_rate) == (a.leads, a.sampling_rate)
    assert join_datasets([a]) is a


def test_a_recording_in_two_files_and_files_of_different_rates_are_refused(tmp_path: Path) -> None:
    a, slow = part(tmp_path, "a", 1), part(tmp_path, "slow", 2, fs=100)

    with pytest.raises(ParameterError, match=r"recording 'a0' in more than one of a, a"):
        join_datasets([a, a])
    with pytest.raises(ParameterError, match="different leads, rate or length"):
        join_datasets([a, slow])
    with pytest.raises(ParameterError, match="expected at least one"):
        join_datasets([])


def test_the_whole_of_ptbxls_ninth_fold_is_read_with_eight_leads(shared: Path) -> None:
    data = read_packed(shared / "data/ptbxl_full_fold9_100hz.npz")

    assert (len(data), data.sampling_rate) == (2183, 100.0)
    assert data.leads == ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    assert set(data.folds) == {9}


def test_the_sample_of_ptbxl_keeps_its_labels_folds_and_einthovens_law(shared: Path) -> None:
    with np.load(shared / "data/ptbxl_zscored_sample_250hz.npz") as file:
        classes = [set(str(names).split(",")) for names in file["super_class"]]

    data = read_packed(shared / "data/ptbxl_zscored_sample_250hz.npz")

    one, two, three = data.records[:, :3].transpose(1, 0, 2)
    assert np.median(np.abs(one + three - two)) < 0.005 < np.median(np.abs(two))
    assert [{code[6:] for code in codes if code.startswith("super:")} for codes in data.codes] == classes
    assert set(data.folds) == set(range(1, 10))
    assert len(data) == 60


@pytest.mark.parametrize(
    "name", ["cinc2017_single_lead_250hz", "code15_samitrop_250hz", "mitbih_4rec_250hz", "qtdb_250hz"]
)
def test_other_samples_are_read(shared: Path, name: str) -> None:
    data = read_packed(shared / f"data/{name}.npz")

    assert data.name == name
    assert len(data.records) == len(data.patients) > 0
    assert (data.waves is not None) == (name == "qtdb_250hz")
