from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from local_server import Site, serve
from small_sets import cpsc_files, steps, write

from skecg import read_record
from skecg.datasets import CPSC2018_CLASSES, fetch_cpsc2018
from skecg.errors import DatasetNotFoundError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write(cpsc_files(), tmp_path / "copy")


def test_what_the_headers_say_comes_along(copy: Path) -> None:
    data = fetch_cpsc2018(copy)

    assert data.record_ids.tolist() == ["g1/A0001", "g1/A0002", "g7/A6374"]
    assert data.patients.tolist() == ["A0001", "A0002", "A6374"]
    assert data.folds.tolist() == [0, 0, 0]
    assert data.sexes.tolist() == ["M", "F", ""]
    np.testing.assert_equal(data.ages, [74, np.nan, np.nan])
    assert data.codes[0] == {"59118001": 100.0}
    assert data.codes[2] == {"164889003": 100.0, "429622005": 100.0}


def test_names_of_early_releases_become_codes(copy: Path) -> None:
    assert fetch_cpsc2018(copy).codes[1] == {"164889003": 100.0, "59118001": 100.0}


def test_there_are_nine_classes() -> None:
    assert len(CPSC2018_CLASSES) == len(set(CPSC2018_CLASSES.values())) == 9


def test_records_are_paths_that_read(copy: Path) -> None:
    record = read_record(fetch_cpsc2018(copy).records[2])

    assert record.sampling_rate == 500
    np.testing.assert_array_equal(record.signal, np.float32(steps(2, 5000).T / 1000))


def test_short_recordings_can_be_left_out(copy: Path) -> None:
    assert fetch_cpsc2018(copy, min_seconds=10).record_ids.tolist() == ["g1/A0001", "g7/A6374"]


@pytest.mark.parametrize("inner", ["", "training", "training/cpsc_2018", "training/cpsc_2018/g1"])
def test_a_copy_is_found_in_any_of_its_folders(copy: Path, inner: str) -> None:
    data = fetch_cpsc2018(copy / inner, download_if_missing=False)

    assert len(data) == (2 if inner.endswith("g1") else 3)
    assert data.patients[0] == "A0001"


def test_only_this_data_set_of_the_challenge_is_downloaded(tmp_path: Path) -> None:
    with serve(Site(cpsc_files()).add_sums()) as site:
        data = fetch_cpsc2018(tmp_path, base_url=site.url, verbose=0)
        asked = {request.path for request in site.requests}
        fetch_cpsc2018(tmp_path, base_url=site.url, verbose=0)

    assert asked == {"SHA256SUMS.txt"} | {name for name in site.files if "cpsc_2018" in name}
    assert len(site.requests) == len(asked)
    assert data.folder == tmp_path / "cpsc2018"
    assert data.record_ids.tolist() == ["g1/A0001", "g1/A0002", "g7/A6374"]


def test_without_download_it_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"skecg.datasets.fetch_cpsc2018\("):
        fetch_cpsc2018(tmp_path, download_if_missing=False)


def test_original_recordings_are_read(shared: Path) -> None:
    data = fetch_cpsc2018(shared / "data/raw/cpsc2018_cinc2020")

    assert data.record_ids.tolist() == ["A0001", "A0002", "A0003", "A0113"]
    assert data.codes[0] == {"59118001": 100.0}
    assert set().union(*data.codes) <= set(CPSC2018_CLASSES)
    assert data.ages[0] == 74
    assert read_record(data.records[3]).duration_seconds == 60
