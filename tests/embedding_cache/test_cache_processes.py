from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numbered_rows import database_of, held, rows, set_aside_files

import skecg

# Where skecg is imported from, installed or not.
ROOT = Path(skecg.__file__).parents[1]

WRITER = """
import sys
import numpy as np
from skecg.embedding_cache import DiskCache
cache, first = DiskCache(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
numbers = list(range(first, first + 300)) + list(range(1000, 1050))
for start in range(0, len(numbers), 7):
    batch = numbers[start : start + 7]
    cache.put({n.to_bytes(32, "big"): np.full(8, n, np.float32) for n in batch})
    found = cache.get([n.to_bytes(32, "big") for n in range(1050)])
    assert all((array == int.from_bytes(key, "big")).all() for key, array in found.items())
    assert {n.to_bytes(32, "big") for n in numbers[: start + 7]} <= found.keys()
"""


def start_writers(folder: Path, n_writers: int) -> list[subprocess.Popen]:
    """Writers that wait for each other to have started."""
    command = [sys.executable, "-W", "error", "-c", WRITER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    writers = [subprocess.Popen([*command, str(300 * index)], **pipes) for index in range(n_writers)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    return writers


def test_processes_writing_at_once_corrupt_nothing(disk):
    writers = start_writers(disk.folder, 3)
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, complaints = writer.communicate(timeout=60)
        assert (writer.returncode, complaints) == (0, "")
    assert held(disk, 1050) == [*range(900), *range(1000, 1050)]
    disk.close()
    with sqlite3.connect(database_of(disk)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_killed_writer_leaves_a_sound_store(disk):
    disk.put(rows(1049))
    (writer,) = start_writers(disk.folder, 1)
    writer.stdin.write("go\n")
    writer.stdin.flush()
    deadline = time.monotonic() + 30
    while disk.info().entries < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    writer.kill()
    writer.communicate()
    found = held(disk, 1050)
    assert found[:30] == list(range(30))
    disk.put(rows(1048))
    assert held(disk, 1050) == sorted({*found, 1048})


FORKER = """
import os, sys, threading
import numpy as np
from skecg.embedding_cache import DiskCache, MemoryCache
key = lambda n: n.to_bytes(32, "big")
row = lambda n: np.full(8, n, np.float32)
caches = [DiskCache(sys.argv[1]), MemoryCache()]
for cache in caches:
    cache.put({key(0): row(0)})
stop = threading.Event()
def read():
    while not stop.is_set():
        for cache in caches:
            cache.get([key(0)] * 50)
threads = [threading.Thread(target=read) for _ in range(3)]
for thread in threads:
    thread.start()
children = []
for n in range(1, 13):
    child = os.fork()
    if child == 0:
        for cache in caches:
            cache.put({key(n): row(n)})
            assert {key(0), key(n)} <= cache.get([key(0), key(n)]).keys()
        os._exit(0)
    children.append(child)
    caches[0].put({key(100 + n): row(100 + n)})
statuses = [os.waitpid(child, 0)[1] for child in children]
stop.set()
assert statuses == [0] * 12, statuses
assert len(caches[0].get([key(n) for n in [*range(13), *range(101, 113)]])) == 25
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_caches_survive_a_fork_among_threads(disk):
    done = subprocess.run(
        [sys.executable, "-c", FORKER, str(disk.folder)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert set_aside_files(disk) == []
