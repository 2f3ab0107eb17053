from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skecg.errors import ParameterError
from skecg.io.files import (
    alone_in,
    beginning_of,
    keep_others_out,
    make_folder,
    replacing,
    resolved,
    sha256_of,
    takes_files,
)

# A child that was forked while its parent was alone there: it ends, or lives on, or its parent is killed.
_FORKING = """
import os, pathlib, signal, sys
from skecg.errors import ParameterError
from skecg.io.files import alone_in

folder = pathlib.Path(sys.argv[1])

def is_free():
    child = os.fork()
    if child == 0:
        try:
            with alone_in(folder):
                os._exit(0)
        except ParameterError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0

with alone_in(folder):
    ending = os.fork()
    if ending:
        os.waitpid(ending, 0)
        print("though a child left the block:", is_free())
        living = os.fork()
        if living == 0:
            signal.pause()
if ending == 0:
    os._exit(0)
print("though a child lives on:", is_free())
os.kill(living, signal.SIGKILL)
"""


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_on_the_way_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a.txt")

    with replacing(tmp_path / "link") as file:
        file.write(b"new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file_or_of_the_user_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        for private, mode in ((False, 0o644), (True, 0o600)):
            with replacing(tmp_path / f"{private}", private=private):
                pass
            assert stat.S_IMODE((tmp_path / f"{private}").stat().st_mode) == mode
    finally:
        os.umask(old)


@pytest.mark.parametrize("size", [0, 1, 2**20 + 1])
def test_digests_are_those_of_hashlib(tmp_path: Path, size: int) -> None:
    content = bytes(size)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_of_a_file_that_cannot_be_read_nothing_is_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    assert beginning_of(tmp_path / "a", 4) == b"abcd"
    assert beginning_of(tmp_path / "gone", 4) == b""


def test_a_name_may_be_as_long_as_the_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("心" * 85)
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_links_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    (tmp_path / "to").symlink_to("there")
    assert resolved(tmp_path / "to") == (tmp_path / "there").resolve()
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).symlink_to(other)
    with pytest.raises(ParameterError, match="leads back to itself"), replacing(tmp_path / "a"):
        pass


def test_whether_a_folder_takes_files_is_tried(tmp_path: Path) -> None:
    assert takes_files(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert not takes_files(tmp_path / "file" / "below")
    if sys.platform == "linux":
        assert not takes_files(Path("/proc/self/fd"))  # for nobody, whoever runs this


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is a file"),
        ("file/in", r"cannot be made \(Not a directory\)"),
        ("a\0b", r"cannot be made \(ValueError\)"),
    ],
)
def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path, name, why):
    (tmp_path / "file").write_text("mine")
    assert make_folder(str(tmp_path / "new" / "folder")).is_dir()
    with pytest.raises(ParameterError, match=f"which {why}"):
        make_folder(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_one_at_a_time_is_alone_in_a_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with alone_in(tmp_path):
            raise ZeroDivisionError

    for _ in range(2):
        with alone_in(tmp_path), pytest.raises(ParameterError, match=r"Another run is under way in .*Wait"):
            fail()
        with pytest.raises(ZeroDivisionError):
            fail()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
def test_a_lock_is_of_the_process_that_took_it_and_not_of_those_it_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = subprocess.run([sys.executable, "-c", _FORKING, str(tmp_path)], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["though a child left the block: False", "though a child lives on: True"]
    with monkeypatch.context() as in_a_child, alone_in(tmp_path):  # where coverage is counted, too
        in_a_child.setattr(os, "getpid", lambda: -1)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="Linux opens files that cannot be locked")
@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_who_waits_comes_after_the_other(tmp_path: Path) -> None:
    order: list[str] = []

    def come_second() -> None:
        with alone_in(tmp_path, wait=True):
            order.append("second")

    with ThreadPoolExecutor(1) as other:
        with alone_in(tmp_path):
            waiting = other.submit(come_second)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            order.append("first")
        waiting.result(timeout=60)
    assert order == ["first", "second"]


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with alone_in(tmp_path), alone_in(tmp_path):
        pass


def test_a_file_that_takes_no_lock_is_written_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with os.fdopen(os.open(tmp_path / "lock", os.O_PATH), "rb", buffering=0) as file:
        keep_others_out(file, tmp_path)
