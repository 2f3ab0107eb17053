from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numbered_rows import ROW_BYTES, database_of, held, key, rows

from skecg.embedding_cache import DiskCache
from skecg.embedding_cache.sqlite import DATABASE_NAME
from skecg.errors import CacheError, ParameterError


def test_nothing_is_made_before_the_first_use(disk):
    assert not disk.folder.exists()


def test_another_object_and_the_same_after_closing_find_what_was_put(disk):
    disk.put(rows(1, 2))
    assert held(DiskCache(disk.folder)) == [1, 2]
    disk.close()
    assert held(disk) == [1, 2]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_folder_and_files_are_for_their_owner_only(disk):
    before = os.umask(0)
    try:
        disk.put(rows(1))
    finally:
        os.umask(before)
    files = list(disk.folder.iterdir())
    assert len(files) == 3  # with the log still open
    assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_log_is_written_ahead_and_gone_after_closing(disk):
    disk.put(rows(1))
    with sqlite3.connect(database_of(disk)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    disk.close()
    assert [file.name for file in disk.folder.iterdir()] == [DATABASE_NAME]


def test_a_pickled_disk_cache_is_its_folder(disk):
    disk.put(rows(*range(50)))
    pickled = pickle.dumps(disk)
    again = pickle.loads(pickled)
    assert len(pickled) < 400
    assert (again.folder, again.max_bytes) == (disk.folder, disk.max_bytes)
    assert pickle.loads(pickled) is again
    assert held(again) == list(range(50))


def test_uses_are_remembered_after_closing(disk):
    for number in (1, 2, 3):
        disk.put(rows(number))
    disk.get([key(1)])
    disk.close()
    bounded = DiskCache(disk.folder, max_bytes=2 * ROW_BYTES)
    bounded.put(rows(4))
    assert held(bounded) == [1, 4]


def test_cleared_embeddings_are_wiped_from_the_disk(disk):
    secret = np.frombuffer(b"PATIENT-" * 4, np.float32)
    disk.put({key(1): secret, **rows(2)})
    (disk.folder / f"{DATABASE_NAME}.damaged-1").write_bytes(b"PATIENT-")
    (disk.folder / "not ours.txt").write_bytes(b"kept")
    disk.clear()
    assert all(b"PATIENT-" not in file.read_bytes() for file in disk.folder.iterdir())
    assert (disk.folder / "not ours.txt").exists()


def test_pruning_gives_space_back_to_the_disk(disk):
    disk.put({key(number): np.zeros(5000, np.float32) for number in range(50)})
    disk.prune(max_bytes=40_000)
    disk.close()
    assert database_of(disk).stat().st_size < 200_000


@pytest.mark.parametrize("inside", ["", "folder", "a/b"])
def test_a_file_where_the_folder_should_be_is_an_error_that_says_so(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    cache = DiskCache(tmp_path / "file" / inside)
    with pytest.raises(CacheError, match="file where the folder should be"):
        cache.get([key(1)])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error_that_says_so(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CacheError, match="may write there"):
            DiskCache(tmp_path).put(rows(1))
        with pytest.raises(CacheError, match="may write there"):
            DiskCache(tmp_path / "sub").put(rows(1))
    finally:
        tmp_path.chmod(0o700)


def test_a_refusal_by_the_system_is_an_error_that_says_what_to_do(disk, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("skecg.embedding_cache.sqlite.os.open", refuse)
    with pytest.raises(CacheError, match=r"may write there.*cache='memory'"):
        disk.put(rows(1))


@pytest.mark.parametrize("function", ["open", "stat"])
def test_a_folder_that_may_not_even_be_entered_is_such_an_error_too(disk, monkeypatch, function):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refuse)
    monkeypatch.setattr(f"skecg.embedding_cache.sqlite.os.{function}", refuse)
    with pytest.raises(CacheError, match=r"may write there.*cache='memory'"):
        disk.put(rows(1))


def test_a_full_disk_is_an_error_that_says_so_and_keeps_what_was_there(disk):
    disk.put(rows(1))
    disk._store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(CacheError, match="disk is full"):
        disk.put({key(number): np.zeros(50_000, np.float32) for number in range(10, 13)})
    assert held(disk) == [1]
    disk.put(rows(2))
    assert held(disk) == [1, 2]


@pytest.mark.parametrize("wrong", ["", 3, None, b""])
def test_a_folder_is_a_path(wrong):
    with pytest.raises(ParameterError, match="folder"):
        DiskCache(wrong)


FULL = """
import sys
from pathlib import Path
import numpy as np
from skecg.embedding_cache import DiskCache
from skecg.errors import CacheError

folder = Path(sys.argv[1])
cache, other = DiskCache(folder / "cache"), DiskCache(folder / "cache")
for first in range(0, 200, 5):
    try:
        cache.put({bytes([number]) * 32: np.full(1188, number, np.float32) for number in range(first, first + 5)})
    except CacheError as error:
        assert "The disk is full" in str(error), error
        break
else:
    raise AssertionError("never full")
try:
    (folder / "others").write_bytes(bytes(10**6))
except OSError:
    pass
assert other.info().entries > 0
cache.clear()
# Who has the file open lets go of it, and so of its room, at the next use.
assert (other.info().entries, cache.info().entries) == (0, 0)
other.put({b"a" * 32: np.ones(8, np.float32)})
assert cache.info().entries == 1
"""


def test_a_full_disk_can_be_cleared(tmp_path):
    # A file system of its own, which nobody else sees and which goes with the process.
    mounted = f'mount -t tmpfs -o size=400k tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*apart, f"mount -t tmpfs -o size=400k tmpfs {tmp_path}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a file system of its own: {error}")
    done = subprocess.run([*apart, mounted, FULL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_while_another_process_writes_leaves_no_transaction_open(disk):
    disk.put(rows(1))
    connection = disk._store._connected()
    others = sqlite3.connect(disk.folder / DATABASE_NAME, isolation_level=None, check_same_thread=False)
    others.execute("BEGIN IMMEDIATE")

    def interrupt_and_leave():
        time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        others.execute("COMMIT")

    thread = threading.Thread(target=interrupt_and_leave)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            disk.put(rows(2))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("ROLLBACK")
    others.execute("BEGIN IMMEDIATE")
    others.execute("COMMIT")
    others.close()
    disk.put(rows(3))  # without a warning of damage
    assert {1, 3} <= set(held(disk))
