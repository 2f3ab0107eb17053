from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from local_server import Site, serve
from small_sets import LUDB_MARKS, ludb_files, marks, steps, write

from skecg import JEPAEmbedder, read_record
from skecg.annotations import pair_marks, read_wave_marks
from skecg.datasets import WAVE_KINDS, fetch_ludb, read_ludb_record, read_ludb_waves, read_packed
from skecg.errors import DamagedRecordError, DatasetNotFoundError, RecordNotFoundError
from skecg.io.wfdb import import_wfdb
from skecg.leads import CANONICAL_LEADS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write(ludb_files(), tmp_path / "copy")


def test_what_the_headers_say_comes_along(copy: Path) -> None:
    data = fetch_ludb(copy)

    assert data.record_ids.tolist() == data.patients.tolist() == ["1", "2", "10"]
    assert data.folds.tolist() == [0, 0, 0]
    assert data.ages.tolist() == [51, 90, 64]
    assert data.sexes.tolist() == ["F", "F", "F"]
    assert data.codes[0] == {"Rhythm: Sinus bradycardia": 100.0, "Scar formation: apical": 100.0}
    assert data.licence == "ODC-BY 1.0"


def test_digital_values_are_microvolts_whatever_the_header_says(copy: Path) -> None:
    record = fetch_ludb(copy).records[2]

    assert record.leads == CANONICAL_LEADS
    assert record.sampling_rate == 500
    np.testing.assert_array_equal(record.signal, np.float32(steps(10, 5000).T / 1000))


def test_the_limb_leads_keep_einthovens_law_which_the_gains_of_the_headers_break(copy: Path) -> None:
    one, two, three = fetch_ludb(copy).records[0].signal[:3]
    np.testing.assert_allclose(one + three, two, atol=1e-6)

    one, two, three = read_record(copy / "data/1").signal[:3]
    assert np.abs(one + three - two).max() > 0.01


def test_records_are_read_when_they_are_asked_for(copy: Path) -> None:
    data = fetch_ludb(copy)
    (copy / "data/2.dat").unlink()

    assert len(data.select([1]).records) == 1
    assert len(data.records[1:]) == 2
    assert data.records[0].name == "1"
    with pytest.raises(RecordNotFoundError):
        data.records[1]


def test_records_go_into_the_embedder(copy: Path) -> None:
    data = fetch_ludb(copy)
    embedder = JEPAEmbedder(cache=None)

    np.testing.assert_array_equal(embedder.fit_transform(data.records), embedder.fit_transform(list(data.records)))


def test_waves_are_onset_peak_offset_and_kind(copy: Path) -> None:
    waves = fetch_ludb(copy).waves(0)

    assert (waves.leads, waves.sampling_rate, len(waves.tables)) == (CANONICAL_LEADS, 500, 12)
    assert WAVE_KINDS == ("P", "QRS", "T")
    assert waves.tables[0].tolist() == [[-1, 10, 12, 0], [30, 40, 55, 1], [1500, 1540, -1, 2], [-1, 1600, 1610, 1]]
    np.testing.assert_array_equal(waves.tables[7][:, 1], waves.tables[0][:, 1] + 7)  # each lead has its own file


def test_waves_of_one_lead_go_by_its_name(copy: Path) -> None:
    waves = read_ludb_waves(copy / "data/1.hea", "AVL")

    assert waves.leads == ("aVL",)
    assert len(waves.tables) == 1
    np.testing.assert_array_equal(waves.tables[0], read_ludb_waves(copy / "data/1").tables[4])


def test_annotations_are_those_that_wfdb_reads(tmp_path: Path) -> None:
    (tmp_path / "x.hea").write_text("x 1 500 5000\nx.dat 16 1000/mV 16 0 0 0 0 I\n")
    (tmp_path / "x.i").write_bytes(marks([*LUDB_MARKS, (400_000, "("), (400_001, "N")]))
    # Words that mark no sample stand between: a subtype, a channel, a number, a text of three letters.
    extra = b"".join((code << 10 | value).to_bytes(2, "little") for code, value in ((61, 2), (62, 0), (60, 4), (63, 3)))
    (tmp_path / "y.i").write_bytes((tmp_path / "x.i").read_bytes()[:-2] + extra + b"abc\0" + marks([(7, "t")]))
    (tmp_path / "y.hea").write_text("y 1 500 5000\ny.dat 16 1000/mV 16 0 0 0 0 I\n")

    for name in ("x", "y"):
        theirs = import_wfdb().rdann(str(tmp_path / name), "i")
        codes = {"(": 39, ")": 40, "p": 24, "N": 1, "t": 27}
        expected = pair_marks([(int(at), codes[s]) for at, s in zip(theirs.sample, theirs.symbol, strict=True)])
        np.testing.assert_array_equal(read_wave_marks(tmp_path / f"{name}.i"), expected)
        assert len(expected) == (5 if name == "x" else 6)


def test_annotations_may_step_back_in_time(tmp_path: Path) -> None:
    (tmp_path / "x.i").write_bytes(marks([(3000, "p"), (2990, "N")]))

    assert read_wave_marks(tmp_path / "x.i")[:, 1].tolist() == [3000, 2990]


def test_annotations_cut_short_are_an_error(copy: Path) -> None:
    path = copy / "data/1.avr"
    path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(DamagedRecordError, match=r"without the end of its annotations"):
        read_ludb_waves(copy / "data/1")


def test_annotations_that_are_not_there_are_an_error(copy: Path) -> None:
    (copy / "data/1.v4").unlink()

    with pytest.raises(RecordNotFoundError, match=r"1.v4"):
        fetch_ludb(copy).waves(0)


def test_a_file_without_waves_gives_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "x.i").write_bytes(b"\0\0")
    assert read_wave_marks(tmp_path / "x.i").shape == (0, 4)


def test_a_copy_may_be_the_folder_of_the_files(copy: Path) -> None:
    assert fetch_ludb(copy / "data").record_ids.tolist() == ["1", "2", "10"]


def test_a_record_cut_short_is_an_error(copy: Path) -> None:
    path = copy / "data/1.dat"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DamagedRecordError, match="truncated"):
        read_ludb_record(copy / "data/1")


def test_signals_and_annotations_are_downloaded_and_nothing_else(tmp_path: Path) -> None:
    with serve(Site(ludb_files()).add_sums()) as site:
        data = fetch_ludb(tmp_path, base_url=site.url, verbose=0)
        asked = {request.path for request in site.requests}
        again = fetch_ludb(tmp_path, base_url=site.url, verbose=0, download_if_missing=False)

    assert asked == {"SHA256SUMS.txt"} | {name for name in site.files if name.startswith("data/")}
    assert len(data.waves(2).tables) == 12
    assert again.record_ids.tolist() == ["1", "2", "10"]


def test_without_download_it_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"skecg.datasets.fetch_ludb\("):
        fetch_ludb(tmp_path, download_if_missing=False)


def test_the_packed_sample_and_the_original_files_are_the_same(shared: Path) -> None:
    original, packed = fetch_ludb(shared / "data/raw/ludb"), read_packed(shared / "data/ludb_500hz.npz")
    found = [(i, packed.record_ids.tolist().index(name)) for i, name in enumerate(original.record_ids) if name in "1 8"]

    assert original.record_ids.tolist() == ["1", "8", "50", "100", "200"]
    assert len(found) == 2
    for i, j in found:
        np.testing.assert_array_equal(original.records[i].signal, packed.records[j])
        assert original.waves(i).leads == packed.waves(j).leads
        for one, other in zip(original.waves(i).tables, packed.waves(j).tables, strict=True):
            np.testing.assert_array_equal(one, other)
        assert original.codes[i] == packed.codes[j]
        assert (original.ages[i], original.sexes[i]) == (packed.ages[j], packed.sexes[j])
