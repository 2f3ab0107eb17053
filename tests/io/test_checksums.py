"""Checksums in WFDB headers are compared when asked, and fields that scale are read as wfdb reads them."""

from __future__ import annotations

import numpy as np
import pytest
from wfdb_writing import edit, random_steps, wfdb_millivolts, write_wfdb

from skecg import read_record, read_records
from skecg.errors import DamagedRecordError, HeaderRepairWarning, RecordNotFoundError
from skecg.inference.inputs import RecordSource
from skecg.io import find_records


def with_checksums(folder, storage="16"):
    steps = random_steps(100, 2)
    header = write_wfdb(folder, "r", steps, storage=storage)
    for column, lead in enumerate(("I", "II")):
        edit(header, f" {steps[0, column]} 0 0 {lead}\n", f" {steps[0, column]} {steps[:, column].sum()} 0 {lead}\n")
    return header


@pytest.mark.parametrize("storage", ["16", "16+24", "212"])
def test_sound_records_pass_and_altered_ones_are_refused_when_asked(tmp_path, storage):
    header = with_checksums(tmp_path, storage)
    expected = read_record(header).signal
    np.testing.assert_array_equal(read_record(header, verify_checksums=True).signal, expected)
    signals = next(path for path in tmp_path.iterdir() if path != header)
    content = bytearray(signals.read_bytes())
    content[60] ^= 1
    signals.write_bytes(content)
    assert read_record(header).n_samples == 100
    with pytest.raises(DamagedRecordError, match="without verify_checksums"):
        read_record(header, verify_checksums=True)
    assert isinstance(read_records([header], errors="return", verify_checksums=True)[0], DamagedRecordError)
    source = RecordSource([str(header)], sampling_rate=None, leads=None, units="mV", verify_checksums=True)
    assert isinstance(source.read([0])[0], DamagedRecordError)


def test_checksums_of_every_storage_format_agree(shared):
    for path in find_records(shared / "data" / "raw" / "wfdb_formats"):
        if path.suffix == ".hea":
            read_record(path, verify_checksums=True)


@pytest.mark.parametrize("numbers", ["-12 0 0 0 0", "-12 5 3 0 0", "12 5 0 0 0", "12 -5 0 0 0"])
@pytest.mark.parametrize("scale", ["200/mV", "200(7)/mV"])
def test_the_baseline_is_that_of_wfdb(tmp_path, numbers, scale):
    header = write_wfdb(tmp_path, "r", np.arange(100)[:, None], leads=["I"])
    header.write_text(f"r 1 500 100\nr.dat 16 {scale} {numbers} I\n")
    np.testing.assert_array_equal(read_record(header).signal, wfdb_millivolts(header))


def test_a_plus_that_wfdb_reads_otherwise_is_refused(tmp_path):
    header = write_wfdb(tmp_path, "r")
    header.write_text("r 1 500 100\nr.dat 16 200/mV 12 +5 0 0 0 I\n")
    with pytest.raises(DamagedRecordError, match="no WFDB signal line"):
        read_record(header)


@pytest.mark.parametrize("name", ["x/r", "x/y/r", "mitdb/100"])
def test_folders_in_a_header_are_left_out_where_the_files_lie_beside_it(tmp_path, name):
    bare = name.rpartition("/")[2]
    header = write_wfdb(tmp_path, bare)
    expected = read_record(header).signal
    header.write_text(header.read_text().replace(f"{bare} 2", f"{name} 2").replace(f"{bare}.dat", f"{name}.dat"))
    with pytest.warns(HeaderRepairWarning, match="named with a folder"):
        np.testing.assert_array_equal(read_record(header).signal, expected)


@pytest.mark.parametrize("folder", ["..", "/tmp", "~"])
def test_a_header_that_points_out_of_its_folder_is_refused(tmp_path, folder):
    header = write_wfdb(tmp_path, "r")
    header.write_text(header.read_text().replace("r.dat", f"{folder}/r.dat"))
    with pytest.raises(DamagedRecordError, match="no file beside it"):
        read_record(header)


@pytest.mark.parametrize("read", [read_record, find_records])
def test_an_address_is_no_file_and_is_quoted_as_it_is(read):
    address = "https://physionet.org/files/mitdb/1.0.0/100"
    with pytest.raises(RecordNotFoundError, match=f"Got '{address}', an address"):
        read(address)


def test_segments_are_compared_with_the_checksums_of_their_own_headers(tmp_path):
    part = with_checksums(tmp_path)
    (tmp_path / "long.hea").write_text(f"long/2 2 {read_record(part).sampling_rate:g} 200\nr 100\nr 100\n")
    assert read_record(tmp_path / "long.hea", verify_checksums=True).n_samples == 200
    signals = next(path for path in tmp_path.iterdir() if path.suffix != ".hea")
    content = bytearray(signals.read_bytes())
    content[60] ^= 1
    signals.write_bytes(content)
    assert read_record(tmp_path / "long.hea").n_samples == 200
    with pytest.raises(DamagedRecordError, match="without verify_checksums"):
        read_record(tmp_path / "long.hea", verify_checksums=True)
