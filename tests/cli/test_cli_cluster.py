"""An archive on a Dask cluster of several processes: nothing is lost and nothing comes twice, whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

pytest.importorskip("distributed")
pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

from dask_cluster import DaskProcesses  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """Two workers, of which the first test leaves one, and the last no scheduler."""
    processes = DaskProcesses(tmp_path_factory.mktemp("cluster"))
    try:
        processes.wait_until(lambda: processes.scheduler_file.exists() and processes.scheduler_file.read_bytes())
        yield processes
    finally:
        processes.close()


@pytest.fixture
def to_archive(embed: Run, cluster: DaskProcesses) -> Run:
    """Run ``skecg embed`` on the cluster, in part files of two records."""
    address = json.loads(cluster.scheduler_file.read_text())["address"]
    cluster.forget()

    def call(*arguments: str | Path) -> int:
        return embed("--scheduler", address, "--chunk-records", "2", *arguments)

    return call


@contextlib.contextmanager
def killing_in_the_middle(record: str, cluster: DaskProcesses, *, scheduler: bool = False) -> Iterator[None]:
    """Let a worker stall in the middle of a chunk, and kill it (or the scheduler) there."""
    cluster.order("stall", record)
    over = threading.Event()

    def kill() -> None:
        while not (readers := [pid for pid, name in cluster.reads if name == record]):
            if over.wait(0.02):
                return
        os.kill(cluster.scheduler.pid if scheduler else readers[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def parts_of(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("part-*.parquet"))


def test_a_worker_killed_in_the_middle_of_a_chunk_loses_nothing_and_doubles_nothing(
    to_archive: Run, embed: Run, cluster: DaskProcesses, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that more chunks are under way when a worker dies than the other one is then given.
    monkeypatch.setattr("skecg.archives.cluster._FEWEST_AT_ONCE", 1)
    with killing_in_the_middle("r03", cluster):
        assert to_archive(archive, "--out", "parts") == 1

    assert [worker.poll() for worker in cluster.workers].count(-signal.SIGKILL) == 1
    readers = [pid for pid, name in cluster.reads if name == "r03"]
    assert len(readers) == len(set(readers)) == 2, "another worker has done its chunk again"
    assert embed("--part", "1/1", "--chunk-records", "2", archive, "--out", "here") == 1
    theirs, ours = pandas.read_parquet("parts"), pandas.read_parquet("here")
    assert parts_of("parts") == parts_of("here")
    assert theirs["row"].tolist() == list(range(12))
    assert theirs.iloc[:, :4].equals(ours.iloc[:, :4])
    np.testing.assert_allclose(theirs.iloc[:, 4:], ours.iloc[:, 4:], rtol=1e-5, atol=1e-6)


def test_a_chunk_that_fails_is_tried_again(to_archive: Run, cluster: DaskProcesses, sound: str) -> None:
    cluster.order("refuse", "r04")

    assert to_archive(sound, "--out", "parts") == 0
    assert [name for _, name in cluster.reads].count("r04") == 2


def test_a_chunk_that_always_fails_does_not_keep_the_others_from_being_done(
    to_archive: Run, cluster: DaskProcesses, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.order("refuse always", "r04")

    assert to_archive(sound, "--out", "parts", "--retries", "1") == 2
    said = capsys.readouterr().err
    assert [name for _, name in cluster.reads].count("r04") == 2
    assert "chunk 2 is lost: OSError: [Errno 5] Input/output error" in said
    assert "part-000002.parquet are missing in 'parts'" in said
    assert parts_of("parts") == ["part-000000.parquet", "part-000001.parquet", "part-000003.parquet"]

    (cluster.folder / "orders" / "r04").unlink()
    cluster.forget()
    assert to_archive(sound, "--out", "parts") == 0
    assert [name for _, name in cluster.reads] == ["r04", "r05"]


def test_workers_of_another_version_are_refused(
    to_archive: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("skecg.archives.cluster._versions", lambda: ("99.0", "99.1"))

    assert to_archive(sound, "--out", "parts", "--retries", "0") == 2
    assert "expected skecg 99.0 and torch 99.1 as where the command was given" in capsys.readouterr().err
    assert parts_of("parts") == []


def test_weights_and_records_named_from_here_are_found_by_workers_that_stand_elsewhere(
    run: Run, cluster: DaskProcesses, archive: Path
) -> None:
    Path("near").symlink_to(archive)
    Path("weights").symlink_to(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")

    options = ("--scheduler", str(cluster.scheduler_file), "--model", "weights", "--cache", "store", "--quiet")
    assert run("embed", "near/more", "--out", "parts", *options) == 0

    assert pandas.read_parquet("parts")["path"].tolist() == [f"near/more/r{number:02d}.hea" for number in (8, 9, 10)]
    assert Path("store").is_dir()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:PORT", "where no Dask scheduler answers"),
        ("nowhere", "where no Dask scheduler answers (missing port number"),
        ("none.json", "which is no file. Start the scheduler first"),
    ],
)
def test_a_scheduler_that_cannot_be_reached_is_said_before_any_work(
    address: str, message: str, embed: Run, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # and closed again: nobody listens there
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])

    assert embed(sound, "--scheduler", address.replace("PORT", port), "--out", "parts") == 2

    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert message in captured
    assert not Path("parts").exists()


@pytest.mark.slow
def test_what_a_cluster_began_is_continued_without_it_when_its_scheduler_dies(
    to_archive: Run, embed: Run, cluster: DaskProcesses, sound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with killing_in_the_middle("r04", cluster, scheduler=True):
        assert to_archive(sound, "--out", "parts") == 2

    assert "The scheduler at" in capsys.readouterr().err
    assert len(parts_of("parts")) < 4
    assert embed("--part", "1/1", "--chunk-records", "2", sound, "--out", "parts") == 0
    assert pandas.read_parquet("parts")["row"].tolist() == list(range(8))
