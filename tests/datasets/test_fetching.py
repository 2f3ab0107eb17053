from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_server import Site, serve
from small_sets import ptbxl_files, steps, write

from skecg import JEPAEmbedder, read_record
from skecg.datasets import default_data_home, fetch_ptbxl, read_scp_statements
from skecg.datasets.checksums import Verified
from skecg.datasets.physionet import Fetching
from skecg.datasets.ptbxl import PTBXL
from skecg.errors import (
    DamagedRecordError,
    DatasetNotFoundError,
    DownloadError,
    ParameterError,
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site(ptbxl_files()).add_sums()) as site:
        yield site


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write(ptbxl_files(), tmp_path / "copy")


def fetch(site: Site, folder: Path, **how: object):
    return fetch_ptbxl(folder, base_url=site.url, delay=0.0, **{"verbose": 0, **how})


def test_what_the_table_says_of_each_recording_comes_along(copy: Path) -> None:
    data = fetch_ptbxl(copy)

    assert data.name == "ptbxl"
    assert data.record_ids.tolist() == ["00001", "00002", "01001", "21837"]
    assert data.patients.tolist() == ["15709", "13243", "13243", "9"]
    assert data.folds.tolist() == [3, 2, 2, 10]
    assert data.sexes.tolist() == ["F", "M", "M", ""]
    np.testing.assert_equal(data.ages, [56, 19, 90, np.nan])  # 300 stands for everybody older than 89
    assert data.codes[0] == {"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0}
    assert data.codes[3] == {}
    assert (data.licence, data.folder) == ("CC BY 4.0", copy)
    assert "Wagner" in data.citation


def test_records_are_files_that_nobody_has_read_yet(copy: Path) -> None:
    for path in copy.rglob("*.dat"):
        path.write_bytes(b"")  # a glance would notice

    assert all(isinstance(record, str) for record in fetch_ptbxl(copy).records)


@pytest.mark.parametrize("sampling_rate", [100, 500])
def test_records_have_the_rate_asked_for(copy: Path, sampling_rate: int) -> None:
    record = read_record(fetch_ptbxl(copy, sampling_rate=sampling_rate).records[2])

    assert record.sampling_rate == sampling_rate
    np.testing.assert_array_equal(record.signal, np.float32(steps(1001, 10 * sampling_rate).T / 1000))


def test_records_go_into_the_embedder(copy: Path) -> None:
    data = fetch_ptbxl(copy).select([0, 2])

    assert JEPAEmbedder(cache=None).fit_transform(data.records).shape[0] == 2


def test_only_the_recordings_asked_for_are_downloaded(site: Site, tmp_path: Path) -> None:
    data = fetch(site, tmp_path)

    assert data.folder == tmp_path / "ptbxl"
    asked = {request.path for request in site.requests}
    wanted = {name for name in site.files if name.startswith("records100")}
    assert asked == wanted | {"SHA256SUMS.txt", "ptbxl_database.csv", "scp_statements.csv"}
    assert all(Path(path + ".dat").is_file() for path in data.records)


def test_what_was_downloaded_is_as_good_as_a_copy(site: Site, copy: Path, tmp_path: Path) -> None:
    one, other = fetch(site, tmp_path / "new"), fetch_ptbxl(copy)

    assert one.codes == other.codes
    np.testing.assert_array_equal(read_record(one.records[1]).signal, read_record(other.records[1]).signal)


def test_nothing_is_asked_for_twice(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    site.requests.clear()

    fetch(site, tmp_path)
    fetch(site, tmp_path / "ptbxl", download_if_missing=False)

    assert site.requests == []


def test_the_other_rate_is_added(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    site.requests.clear()

    fetch(site, tmp_path, sampling_rate=500)

    assert {request.path.split("/")[0] for request in site.requests} == {"records500"}


def test_a_download_that_ended_goes_on(site: Site, tmp_path: Path) -> None:
    name = "records100/21000/21837_lr.dat"
    site.always[name] = ("drop", 0)
    with pytest.raises(DownloadError, match=r"21837_lr\.dat in 2 attempt"):
        fetch(site, tmp_path, n_retries=1, n_connections=1)
    there = {request.path for request in site.requests} - {name}
    site.always.clear()
    site.requests.clear()

    data = fetch(site, tmp_path)

    assert name in {request.path for request in site.requests}
    assert not there & {request.path for request in site.requests}
    assert len(data) == 4


def test_a_downloaded_file_that_has_changed_is_fetched_again(site: Site, tmp_path: Path) -> None:
    data = fetch(site, tmp_path)
    site.requests.clear()
    damaged = Path(data.records[0] + ".dat")
    damaged.write_bytes(damaged.read_bytes()[:-7])

    fetch(site, tmp_path)

    assert [request.path for request in site.requests] == ["records100/00000/00001_lr.dat"]
    assert damaged.read_bytes() == site.files["records100/00000/00001_lr.dat"]


def test_files_that_nobody_remembers_are_checked_and_not_fetched(site: Site, tmp_path: Path) -> None:
    folder = fetch(site, tmp_path).folder
    (folder / Verified.FILE).write_text("{}")
    site.requests.clear()

    fetch(site, tmp_path, download_if_missing=False)

    assert site.requests == []
    assert "ptbxl_database.csv" in Verified(folder)


@pytest.mark.parametrize("place", ["ptbxl", "ptb-xl-1.0.3", "physionet.org/files/ptb-xl/1.0.3", "."])
def test_a_copy_is_found_under_any_name_and_needs_no_network(tmp_path: Path, place: str) -> None:
    folder = write(ptbxl_files(), tmp_path / place)

    data = fetch_ptbxl(tmp_path, base_url="http://127.0.0.1:9/", n_retries=0)

    assert data.folder.resolve() == folder.resolve()
    assert not (folder / Verified.FILE).exists()


def test_a_copy_is_read_as_it_is(copy: Path) -> None:
    (copy / "SHA256SUMS.txt").write_text(f"{'0' * 64} ptbxl_database.csv\n")
    shutil.rmtree(copy / "records500")

    assert len(fetch_ptbxl(copy, download_if_missing=False)) == 4


def test_what_a_copy_lacks_is_added_and_nothing_else_is_touched(site: Site, copy: Path) -> None:
    shutil.rmtree(copy / "records500")
    (copy / "scp_statements.csv").write_text("edited by its owner")

    fetch(site, copy, sampling_rate=500)

    assert {request.path.split("/")[0] for request in site.requests} == {"SHA256SUMS.txt", "records500"}
    assert (copy / "scp_statements.csv").read_text() == "edited by its owner"


def test_without_download_what_is_not_there_is_an_error_that_names_folder_and_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        fetch_ptbxl(tmp_path / "home", download_if_missing=False)

    assert isinstance(caught.value, FileNotFoundError)
    assert f"in {str(tmp_path / 'home' / 'ptbxl')!r} ('ptbxl_database.csv' is not there)" in str(caught.value)
    assert f"skecg.datasets.fetch_ptbxl({str(tmp_path / 'home' / 'ptbxl')!r})" in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_without_download_a_part_of_a_data_set_is_an_error(copy: Path) -> None:
    (copy / "records100/00000/00002_lr.dat").unlink()

    with pytest.raises(DatasetNotFoundError, match=r"Got 7 of 8 files of PTB-XL 1.0.3 .*00002_lr.dat' is not there"):
        fetch_ptbxl(copy, download_if_missing=False)


def test_the_licence_is_said_once_when_something_is_downloaded(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="skecg.datasets"):
        fetch(site, tmp_path, verbose=1)
        said = capsys.readouterr().err
        fetch(site, tmp_path, verbose=1)

    assert said.count("Licence: CC BY 4.0. Please cite: Wagner P. et al. (2020)") == 1
    assert f"into {tmp_path / 'ptbxl'}" in said
    assert "ptbxl: 8 of 8 files" in said
    assert capsys.readouterr().err == ""
    assert len(caplog.records) == 1


def test_silence_can_be_asked_for(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(site, tmp_path, verbose=0)

    assert capsys.readouterr() == ("", "")


def test_a_login_page_instead_of_the_checksums_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.files["SHA256SUMS.txt"] = b"<html><body>Welcome to the hotel's network</body></html>"

    with pytest.raises(DownloadError, match="login page or proxy"):
        fetch(site, tmp_path)

    assert not (tmp_path / "ptbxl/SHA256SUMS.txt").exists()


def test_a_file_without_a_checksum_is_not_taken(site: Site, tmp_path: Path) -> None:
    lines = site.files["SHA256SUMS.txt"].decode().splitlines()
    site.files["SHA256SUMS.txt"] = "\n".join(line for line in lines if "00002_lr.dat" not in line).encode()

    with pytest.raises(DownloadError, match=r"Got no checksum for records100/00000/00002_lr\.dat"):
        fetch(site, tmp_path)


def test_a_wrong_file_is_never_read(site: Site, tmp_path: Path) -> None:
    site.always["ptbxl_database.csv"] = ("wrong",)

    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(site, tmp_path)

    assert not (tmp_path / "ptbxl/ptbxl_database.csv").exists()


def test_a_server_without_the_data_set_is_said(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"answer 404 Not Found for .*mirror/SHA256SUMS.txt"):
        fetch_ptbxl(tmp_path, base_url=site.url + "mirror", verbose=0)


def test_a_folder_that_cannot_be_written_to_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DownloadError, match=r"while writing into .*or pass another data_home="):
        fetch(site, tmp_path / "file")


def test_data_lie_where_the_environment_says(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    monkeypatch.setenv("SKECG_DATA", str(copy.parent))
    assert default_data_home() == copy.parent
    assert fetch_ptbxl().folder == copy

    monkeypatch.delenv("SKECG_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_home() == tmp_path / "skecg_data"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sampling_rate": 250}, "expected 100 or 500"),
        ({"n_connections": 50}, "expected 1 to 8"),
        ({"n_retries": -1}, "expected a whole number from 0"),
        ({"n_retries": 1.5}, "expected a whole number from 0"),
        ({"delay": float("nan")}, "expected seconds from 0"),
        ({"delay": "1"}, "expected seconds from 0"),
        ({"base_url": "physionet.org"}, "begins with https://"),
    ],
)
def test_arguments_are_looked_at_before_anything_is_done(copy: Path, how: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        fetch_ptbxl(copy, **how)


def test_a_data_home_that_is_no_path_is_refused() -> None:
    with pytest.raises(ParameterError, match="expected a folder"):
        fetch_ptbxl(3)


@pytest.mark.parametrize("text", ["['NORM']", "__import__('os').system('true')", "{'NORM':", "{'NORM': 'x'}"])
def test_codes_that_are_none_are_an_error_and_never_run(copy: Path, text: str) -> None:
    path = copy / "ptbxl_database.csv"
    path.write_text(path.read_text().replace("{}", text))

    with pytest.raises(DamagedRecordError, match=r"for ecg_id 21837 in ptbxl_database\.csv"):
        fetch_ptbxl(copy)


def test_a_table_without_a_column_is_an_error(copy: Path) -> None:
    path = copy / "ptbxl_database.csv"
    path.write_text(path.read_text().replace("strat_fold", "fold"))

    with pytest.raises(DamagedRecordError, match=r"without the column\(s\) strat_fold"):
        fetch_ptbxl(copy)


def test_what_is_known_of_the_statements_can_be_read(copy: Path) -> None:
    statements = read_scp_statements(copy)

    assert list(statements) == ["NORM", "SR"]
    assert statements["NORM"]["diagnostic_class"] == "NORM"
    assert statements["SR"]["rhythm"] == "1.0"
    assert statements["SR"]["diagnostic"] == ""


def test_the_address_and_version_are_those_of_physionet() -> None:
    assert PTBXL.url == "https://physionet.org/files/ptb-xl/1.0.3/"
    assert Fetching().downloader(PTBXL, Path()).base_url == PTBXL.url


def test_recordings_of_ptbxl_read_as_labelled(shared: Path, tmp_path: Path) -> None:
    """The first recordings of the real data set, under a table made of its real labels."""
    raw = shared / "data/raw/ptbxl"
    with (shared / "data/ptbxl_labels.csv").open(newline="") as file:
        known = {int(row["ecg_id"]): row for row in csv.DictReader(file)}
    lines = ["ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"]
    for ecg_id in range(1, 6):
        row, stem = known[ecg_id], f"records{{}}/00000/{ecg_id:05d}_"
        for rate, short in ((100, "lr"), (500, "hr")):
            for suffix in (".hea", ".dat"):
                target = tmp_path / f"{stem.format(rate)}{short}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(raw / f"{ecg_id:05d}_{short}{suffix}", target)
        names = f"{stem.format(100)}lr,{stem.format(500)}hr"
        lines.append(f"{ecg_id},{row['patient_id']}.0,50,0,\"{{'NORM': 100.0}}\",{row['strat_fold']},{names}")
    (tmp_path / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "scp_statements.csv").write_text(ptbxl_files()["scp_statements.csv"].decode())

    slow, fast = (fetch_ptbxl(tmp_path, sampling_rate=rate, download_if_missing=False) for rate in (100, 500))

    assert slow.patients.tolist() == ["15709", "13243", "20372", "17014", "17448"]
    assert slow.folds.tolist() == [3, 2, 5, 3, 4]
    for one, other in zip(slow.records, fast.records, strict=True):
        a, b = read_record(one), read_record(other)
        assert (a.n_samples, b.n_samples) == (1000, 5000)
        averaged = b.signal.reshape(12, 1000, 5).mean(axis=-1)
        assert np.corrcoef(a.signal[1], averaged[1])[0, 1] > 0.9
