from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numbered_rows import database_of, held, rows, set_aside_files

import skecg
from skecg import embedding_cache
from skecg.errors import CacheWarning

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


SEARCH = """
import sys, warnings
import numpy as np
from pathlib import Path
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skecg import JEPAEmbedder
from skecg.datasets import make_ecg
from skecg.embedding_cache import open_cache

class Counted:
    "A cache that writes down how many embeddings were put into it, whichever process did."
    def __init__(self, cache, log):
        self.cache, self.log = cache, log
    def get(self, keys):
        return open_cache(self.cache).get(keys)
    def put(self, rows):
        with open(self.log, "a") as log:
            log.write("x" * len(rows))
        open_cache(self.cache).put(rows)

def embeddings(cache, folder):
    log = Path(folder, "log")
    log.write_text("")
    embedder = JEPAEmbedder(sys.argv[1], cache=Counted(cache, log))
    embedder.fit_transform(X)
    grid = {"logisticregression__C": [0.1, 1.0]}
    GridSearchCV(make_pipeline(embedder, LogisticRegression()), grid, cv=2, n_jobs=2).fit(X, y)
    return len(log.read_text())

if __name__ == "__main__":
    X, y = make_ecg(8, duration_seconds=2.5, sampling_rate=100, random_state=0).records, [0, 1] * 4
    print(embeddings(sys.argv[2] + "/cache", sys.argv[2]), embeddings("memory", sys.argv[2]))
"""


@pytest.mark.slow
def test_a_search_in_processes_shares_a_folder_but_no_memory(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(SEARCH, encoding="utf-8")
    command = [sys.executable, script, ROOT / "tests" / "fixtures" / "tiny-temporal", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    in_folder, in_memory = map(int, done.stdout.split())
    assert in_folder == 8
    assert in_memory >= 8 + 8
    assert done.stderr.count("CacheWarning: Embeddings are kept in the memory of each worker of joblib") <= 1


def test_the_first_worker_of_joblib_warns_once_of_its_own_memory(monkeypatch):
    monkeypatch.setattr(embedding_cache, "_memory", {})
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-2")
    embedding_cache.open_cache("memory")
    embedding_cache._memory.clear()
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-1")
    with pytest.warns(CacheWarning, match="embeds each record up to N times"):
        cache = embedding_cache.open_cache("memory")
    assert embedding_cache.open_cache("memory") is cache
