from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest
from local_server import Site, serve

import skecg
from skecg.datasets.checksums import Verified, read_sums
from skecg.datasets.download import MOST_CONNECTIONS, Downloader, Patience
from skecg.datasets.session import check_redirect, retry_after_seconds
from skecg.errors import DownloadError, ParameterError

QUICK = Patience(n_retries=3, first_wait_seconds=0.01, longest_wait_seconds=0.02, timeout_seconds=0.3)
CONTENT = np.random.default_rng(0).bytes(200_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site({"a/one.dat": CONTENT, "two.dat": CONTENT[::-1], "empty.dat": b""})) as site:
        yield site


def fetch(site: Site, folder: Path, *names: str, patience: Patience = QUICK, n_connections: int = 1) -> None:
    files = {name: site.sha256(name) for name in names}
    Downloader(site.url, folder, n_connections=n_connections, patience=patience).fetch(files)


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


def test_files_come_in_whole_under_their_own_names(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path / "new", "a/one.dat", "two.dat", "empty.dat")

    assert (tmp_path / "new/a/one.dat").read_bytes() == CONTENT
    assert (tmp_path / "new/two.dat").read_bytes() == CONTENT[::-1]
    assert (tmp_path / "new/empty.dat").read_bytes() == b""
    assert parts(tmp_path) == []


MISHAPS = {
    "dropped once": [("drop", 1000)],
    "dropped at once, and again, and again": [("drop", 0), ("drop", 150_000), ("drop", 7), ("drop", 0)],
    "dropped, and then the range is ignored": [("drop", 70_000), ("ignore range",)],
    "dropped, and then other bytes than asked for": [("drop", 70_000), ("elsewhere",)],
    "other bytes than asked for, twice": [("drop", 70_000), ("elsewhere",), ("drop", 70_000), ("elsewhere",)],
    "truncated": [("short", 5000)],
    "wrong bytes once": [("wrong",)],
    "busy": [("status", 503, {"Retry-After": "0"}), ("status", 429), ("status", 500)],
    "silent": [("stall", 1.0)],
    "silent, dropped, busy": [("stall", 1.0), ("drop", 9), ("status", 502)],
}


@pytest.mark.parametrize("mishaps", MISHAPS.values(), ids=MISHAPS)
def test_a_mishap_comes_right_in_the_end(site: Site, tmp_path: Path, mishaps: list[tuple]) -> None:
    site.mishaps["a/one.dat"] = list(mishaps)

    fetch(site, tmp_path, "a/one.dat")

    assert site.mishaps["a/one.dat"] == []
    assert (tmp_path / "a/one.dat").read_bytes() == CONTENT
    assert parts(tmp_path) == []


def test_a_broken_transfer_goes_on_where_it_broke_off(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("drop", 130_000), ("drop", 40_000)]

    fetch(site, tmp_path, "a/one.dat")

    assert [r.range for r in site.asked_for("a/one.dat")] == [None, "bytes=130000-", "bytes=170000-"]


def test_a_server_that_ignores_the_range_is_taken_at_its_word(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("drop", 130_000), ("ignore range",)]

    fetch(site, tmp_path, "a/one.dat")

    assert [r.range for r in site.asked_for("a/one.dat")] == [None, "bytes=130000-"]  # and not once more
    assert (tmp_path / "a/one.dat").read_bytes() == CONTENT


def test_a_part_of_an_earlier_run_is_continued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "two.dat.part").write_bytes(CONTENT[::-1][:60_000])

    fetch(site, tmp_path, "two.dat")

    assert [r.range for r in site.asked_for("two.dat")] == ["bytes=60000-"]
    assert (tmp_path / "two.dat").read_bytes() == CONTENT[::-1]


def test_a_part_that_lacks_only_its_name_is_given_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "two.dat.part").write_bytes(CONTENT[::-1])

    fetch(site, tmp_path, "two.dat")

    assert len(site.asked_for("two.dat")) == 1  # answered by 416
    assert (tmp_path / "two.dat").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("old", [b"x" * 60_000, b"x" * 300_000], ids=["shorter", "longer"])
def test_a_part_of_another_version_is_begun_anew(site: Site, tmp_path: Path, old: bytes) -> None:
    (tmp_path / "two.dat.part").write_bytes(old)

    fetch(site, tmp_path, "two.dat")

    assert (tmp_path / "two.dat").read_bytes() == CONTENT[::-1]


def test_an_old_part_is_not_held_against_the_server(site: Site, tmp_path: Path) -> None:
    (tmp_path / "two.dat.part").write_bytes(b"x" * 60_000)
    site.mishaps["two.dat"] = [("",), ("wrong",)]

    fetch(site, tmp_path, "two.dat")

    assert (tmp_path / "two.dat").read_bytes() == CONTENT[::-1]


def test_bytes_that_stay_wrong_are_never_given_the_name_of_the_file(site: Site, tmp_path: Path) -> None:
    site.always["a/one.dat"] = ("wrong",)

    with pytest.raises(DownloadError, match=r"one.dat with SHA-256 [0-9a-f]{12}\.\.\. 2 times, expected [0-9a-f]{12}"):
        fetch(site, tmp_path, "a/one.dat", "two.dat")

    assert not (tmp_path / "a/one.dat").exists()


def test_retries_end_and_keep_what_came_in(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("drop", 50_000)]
    site.always["a/one.dat"] = ("drop", 0)

    with pytest.raises(DownloadError, match=r"in 4 attempt\(s\).*run the same again"):
        fetch(site, tmp_path, "a/one.dat")

    assert len(site.asked_for("a/one.dat")) == 1 + 3  # the first brought something, then n_retries without a byte
    assert (tmp_path / "a/one.dat.part").stat().st_size == 50_000


@pytest.mark.parametrize("status", [404, 403, 401, 410])
def test_an_answer_that_will_not_change_is_not_asked_for_again(site: Site, tmp_path: Path, status: int) -> None:
    site.always["a/one.dat"] = ("status", status)

    with pytest.raises(DownloadError, match=f"Got the answer {status} .* Check base_url="):
        fetch(site, tmp_path, "a/one.dat")

    assert len(site.asked_for("a/one.dat")) == 1


def test_pauses_double_and_are_as_long_as_the_server_asks(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("status", 503), ("status", 503), ("status", 503, {"Retry-After": "1"})]
    patience = Patience(n_retries=3, first_wait_seconds=0.1, longest_wait_seconds=0.2)

    fetch(site, tmp_path, "a/one.dat", patience=patience)

    pauses = np.diff([request.time for request in site.asked_for("a/one.dat")])
    assert np.all(pauses >= [0.1, 0.2, 1.0])
    assert np.all(pauses < [0.2, 0.5, 1.5])
    assert [Patience().wait_seconds(n) for n in (1, 2, 3, 7, 5000)] == [1, 2, 4, 60, 60]


def test_when_the_server_asks_for_a_pause_nobody_asks_it_anything(tmp_path: Path) -> None:
    files = {f"{i}.dat": b"x" * i for i in range(40)}
    with serve(Site(files, mishaps={"5.dat": [("status", 429, {"Retry-After": "1"})]})) as site:
        fetch(site, tmp_path, *files, n_connections=4)

    times = np.sort([request.time for request in site.requests])
    after_refusal = times[times > site.asked_for("5.dat")[0].time + 0.1]
    assert len(after_refusal) > 10
    assert after_refusal[0] - site.asked_for("5.dat")[0].time >= 0.99


def test_a_server_that_asks_for_hours_is_given_up(site: Site, tmp_path: Path) -> None:
    site.always["a/one.dat"] = ("status", 503, {"Retry-After": "7200"})

    with pytest.raises(DownloadError, match="asks to come again in 7200 s"):
        fetch(site, tmp_path, "a/one.dat")


def test_a_pause_may_be_asked_for_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < retry_after_seconds(soon) <= 100
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_seconds("30") == 30
    assert retry_after_seconds("whenever") == retry_after_seconds(None) == 0


def test_redirects_are_followed_but_not_for_ever(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("redirect", "/two.dat")]
    Downloader(site.url, tmp_path, patience=QUICK).fetch({"a/one.dat": site.sha256("two.dat")})
    assert (tmp_path / "a/one.dat").read_bytes() == CONTENT[::-1]

    site.always["two.dat"] = ("redirect", site.url + "two.dat")
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        fetch(site, tmp_path, "two.dat")


@pytest.mark.parametrize(
    ("origin", "target", "why"),
    [
        ("https://8.8.8.8/a", "http://8.8.8.8/a", "gives up encryption"),
        ("https://8.8.8.8/a", "https://127.0.0.1/a", "local network"),
        ("https://8.8.8.8/a", "https://localhost/a", "local network"),
        ("http://8.8.8.8/a", "http://[::1]:80/a", "local network"),
        ("http://8.8.8.8/a", "http://10.1.2.3/a", "local network"),
        ("http://8.8.8.8/a", "http://169.254.169.254/latest", "local network"),
        ("http://8.8.8.8/a", "http://[::ffff:10.0.0.1]/a", "local network"),
        ("http://8.8.8.8/a", "ftp://8.8.4.4/a", "no web address"),
        ("http://8.8.8.8/a", "file:///etc/passwd", "no web address"),
        ("http://8.8.8.8/a", "http://[::1/x", "no web address"),
        ("http://8.8.8.8/a", "//[", "no web address"),
    ],
)
def test_redirects_that_leave_the_open_or_encrypted_web_are_refused(origin: str, target: str, why: str) -> None:
    with pytest.raises(DownloadError, match=why):
        check_redirect(origin, target)


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("http://8.8.8.8/a", "https://8.8.8.8/a"),
        ("https://8.8.8.8/a", "https://8.8.4.4/b"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1:81/a"),  # a mirror at home, as the user said
        ("https://8.8.8.8/a", "https://nowhere.invalid/a"),  # connecting will tell
    ],
)
def test_other_redirects_are_followed(origin: str, target: str) -> None:
    check_redirect(origin, target)


def test_a_server_cannot_redirect_a_download_off_the_web(site: Site, tmp_path: Path) -> None:
    site.mishaps["a/one.dat"] = [("redirect", "file:///etc/passwd")]

    with pytest.raises(DownloadError, match=r"Got a redirect from .* no web address"):
        fetch(site, tmp_path, "a/one.dat")


def test_no_network_is_said_with_what_to_do(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:9/", "http://nowhere.invalid/"):
        downloader = Downloader(url, tmp_path, patience=Patience(n_retries=1, first_wait_seconds=0.0))
        with pytest.raises(DownloadError, match=r"Got nothing from .* in 2 attempt\(s\).*Check the connection"):
            downloader.fetch({"a.dat": None})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_said_with_what_to_do(site: Site, tmp_path: Path) -> None:
    (tmp_path / "two.dat.part").symlink_to("/dev/full")

    with pytest.raises(DownloadError, match=r"the disk is full. Make room, or pass another data_home="):
        fetch(site, tmp_path, "two.dat")


def test_a_folder_that_cannot_be_made_is_said_with_what_to_do(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where the folder should be")

    with pytest.raises(DownloadError, match="Check that you may write there"):
        fetch(site, tmp_path, "a/one.dat")


def test_connections_are_few_and_used_again(tmp_path: Path) -> None:
    files = {f"{i}.dat": b"x" * i for i in range(60)}
    with serve(Site(files)) as site:
        fetch(site, tmp_path, *files, n_connections=3)

    assert len(site.requests) == 60
    assert len({request.connection for request in site.requests}) <= 3
    assert site.most_open <= 3


def test_files_come_at_the_same_time(tmp_path: Path) -> None:
    files = {f"{i}.dat": b"x" * 20 for i in range(4)}
    barrier = threading.Barrier(4, timeout=5)  # broken unless four requests are open at once

    with serve(Site(files)) as site:
        site.requests = _MeetingList(barrier)
        fetch(site, tmp_path, *files, n_connections=4, patience=Patience(n_retries=0, timeout_seconds=10))

    assert len(site.requests) == 4


class _MeetingList(list):
    """A log in which every entry waits for the others."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier = barrier

    def append(self, item: object) -> None:
        super().append(item)
        self.barrier.wait()


@pytest.mark.parametrize("n_connections", [0, MOST_CONNECTIONS + 1, 1000, 2.5, True, "4"])
def test_impolite_numbers_of_connections_are_refused(tmp_path: Path, n_connections: object) -> None:
    with pytest.raises(ParameterError, match="expected 1 to 8: the servers of public data are everybody's"):
        Downloader("https://example.org/", tmp_path, n_connections=n_connections)


@pytest.mark.parametrize("url", ["physionet.org", "ftp://physionet.org/", "file:///etc/", "https://[bad/", ""])
def test_what_is_no_web_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ParameterError, match="Got base_url="):
        Downloader(url, tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "C:evil"])
def test_lists_cannot_name_files_outside_of_the_folder(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadError, match="expected one within its folder"):
        Downloader(site.url, tmp_path / "in", patience=QUICK).fetch({name: None})


def test_the_server_is_told_who_asks(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path, "two.dat")

    assert site.requests[0].user_agent is not None
    assert site.requests[0].user_agent.startswith(f"skecg/{skecg.__version__} ")


def test_an_error_ends_the_other_transfers_at_once(tmp_path: Path) -> None:
    files = {"slow.dat": bytes(50), "bad.dat": b"x"}
    with serve(Site(files, always={"slow.dat": ("stall", 20.0), "bad.dat": ("status", 404)})) as site:
        start = time.monotonic()
        with pytest.raises(DownloadError, match="404"):
            fetch(site, tmp_path, *files, n_connections=2, patience=Patience(timeout_seconds=20))

    assert time.monotonic() - start < 10


def test_an_interrupted_download_ends_at_once_and_keeps_its_parts(tmp_path: Path) -> None:
    code = f"""
        import signal
        from pathlib import Path
        from skecg.datasets.download import Downloader
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Downloader("URL", Path({str(tmp_path)!r})).fetch({{"slow.dat": "0" * 64}})
    """
    with serve(Site({"slow.dat": bytes(100)}, always={"slow.dat": ("stall", 60.0)})) as site:
        text = textwrap.dedent(code).replace("URL", site.url)
        process = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 20
        while parts(tmp_path) == [] or (tmp_path / "slow.dat.part").stat().st_size < 10:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, said = process.communicate(timeout=30)

    assert time.monotonic() - start < 30
    assert "KeyboardInterrupt" in said
    assert (tmp_path / "slow.dat.part").stat().st_size == 10


def test_progress_counts_files_and_bytes(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: site.sha256(name) for name in ("a/one.dat", "two.dat")}

    Downloader(site.url, tmp_path, patience=QUICK, verbose=1).fetch(files, title="ptbxl")
    assert "ptbxl: 2 of 2 files: 391kB" in capsys.readouterr().err

    Downloader(site.url, tmp_path, patience=QUICK).fetch(files)
    assert capsys.readouterr().err == ""


def test_proxies_of_the_environment_are_used(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    site.files["http://data.example/set/x.dat"] = b"by way of the proxy"

    Downloader("http://data.example/set", tmp_path, patience=QUICK).fetch({"x.dat": None})

    assert (tmp_path / "x.dat").read_bytes() == b"by way of the proxy"


def test_checksums_are_read_as_the_tools_write_them(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS.txt"
    path.write_text(f"{'a' * 64} one.dat\n{'B' * 64}  b/two with blanks.dat\n{'c' * 64} *./three\n\n")

    assert read_sums(path) == {"one.dat": "a" * 64, "b/two with blanks.dat": "b" * 64, "three": "c" * 64}


@pytest.mark.parametrize("text", ["<html>Please log in</html>", "", f"{'a' * 63} short"])
def test_what_is_no_list_of_checksums_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "SHA256SUMS.txt").write_text(text)

    with pytest.raises(DownloadError, match=r"SHA256SUMS.txt"):
        read_sums(tmp_path / "SHA256SUMS.txt")


def test_files_found_right_are_remembered_until_they_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    verified = Verified(tmp_path)
    verified.add("a")
    verified.save()
    assert "a" in Verified(tmp_path)
    assert "b" not in Verified(tmp_path)

    (tmp_path / "a").write_bytes(b"two")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert "a" not in Verified(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"files": 3}', "{}"])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / Verified.FILE).write_text(text)

    assert "a" not in Verified(tmp_path)


def test_nothing_is_logged_that_was_not_asked_for(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="skecg"):
        fetch(site, tmp_path, "two.dat")
    assert caplog.records == []
