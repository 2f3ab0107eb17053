"""A run that is killed, wherever it is, continues and gives the same file."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

TINY = str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny-temporal")

# The real command, in chunks of three records, that stops for ever after the second.
# What started the tests may have had it ignore Ctrl-C.
_STALLING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import skecg.inference.pipeline
from skecg.cli import main
from skecg.archives.run_folders import UnfinishedRun

skecg.inference.pipeline.CHUNK_RECORDS = 3
add = UnfinishedRun.add

def add_and_stall(run, *chunk):
    add(run, *chunk)
    if run.n_done >= 6:
        open("stalled", "w").close()
        time.sleep(600)

UnfinishedRun.add = add_and_stall
sys.exit(main(sys.argv[1:]))
"""


class PowerLoss(BaseException):
    """Nobody catches this."""


def journal_of(partial: Path) -> list[dict[str, object]]:
    journal = partial / "journal.jsonl"
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def start_and_wait_for_two_chunks(*arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _STALLING, "embed", "--quiet", "--model", TINY, *map(os.fspath, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    # Not when the journal has two lines: the process may not have counted the second yet.
    while not Path("stalled").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_killed_process_is_continued_to_the_same_bytes(
    embed: Run, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(archive, "--out", "whole.npz") == 1
    process = start_and_wait_for_two_chunks(archive, "--out", "killed.npz")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("killed.npz").exists()
    assert sorted(path.name for path in Path("killed.npz.partial").iterdir()) == [
        "features.npy",
        "journal.jsonl",
        "manifest.json",
    ]
    process.communicate()

    assert embed(archive, "--out", "killed.npz") == 1

    assert "6 of 12 records are done" in capsys.readouterr().err
    assert Path("killed.npz").read_bytes() == Path("whole.npz").read_bytes()
    assert Path("killed.npz.failures.csv").read_bytes() == Path("whole.npz.failures.csv").read_bytes()
    assert not Path("killed.npz.partial").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process, and ends it at SIGTERM")
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")])
def test_ctrl_c_and_sigterm_say_how_to_continue(number: signal.Signals, word: str, run: Run, sound: str) -> None:
    process = start_and_wait_for_two_chunks(sound, "--out", "killed.npz")
    process.send_signal(number)
    message = process.communicate(timeout=60)[1]

    assert process.returncode == 128 + number
    assert message.splitlines()[-1].startswith(f"skecg: {word} after 6 of 8 records. Give the same command again to")
    assert "Traceback" not in message


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupt_that_comes_when_the_file_is_written_leaves_nothing_to_do(
    before: bool, embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from skecg.archives.run_folders import UnfinishedRun

    remove = UnfinishedRun.remove

    def interrupt(run: UnfinishedRun) -> None:
        monkeypatch.setattr(UnfinishedRun, "remove", remove)
        raise KeyboardInterrupt

    if before:
        Path("f.npz").write_bytes(b"of another run")
    monkeypatch.setattr(UnfinishedRun, "remove", interrupt)

    assert embed(sound, "--out", "f.npz", *["--force"] * before) == 130

    assert capsys.readouterr().err == "skecg: interrupted when all was done: 'f.npz' is whole\n"
    assert len(np.load("f.npz")["features"]) == 8
    assert [path.name for path in Path().glob("f.npz*")] == ["f.npz"]


def test_an_interrupt_while_the_file_is_written_leaves_a_run_to_continue(
    embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(path: Path, to: Path) -> Path:
        if to.name == "f.npz":
            raise KeyboardInterrupt
        return replace(path, to)

    replace = Path.replace
    Path("f.npz").write_bytes(b"of another run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        assert embed(sound, "--out", "f.npz", "--force") == 130

    assert "after 8 of 8 records. Give the same command again" in capsys.readouterr().err
    assert Path("f.npz").read_bytes() == b"of another run"
    assert embed(sound, "--out", "f.npz", "--force") == 0
    assert len(np.load("f.npz")["features"]) == 8


def cut_power(survives: int, monkeypatch: pytest.MonkeyPatch, embed: Run, *arguments: str | os.PathLike[str]) -> bool:
    """Run a command that ends when it writes to the disk for the n-th time; say whether it came to its end before."""
    fsync, calls = os.fsync, itertools.count()

    def fail(descriptor: int) -> None:
        if next(calls) >= survives:
            raise PowerLoss
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        try:
            embed(*arguments)
        except PowerLoss:
            return False
    return True


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_power_may_fail_at_any_time(suffix: str, embed: Run, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = Path(f"whole{suffix}"), Path(f"cut{suffix}")
    embed(archive, "--out", whole)

    survives = 0
    while not cut_power(survives, monkeypatch, embed, archive, "--out", cut):
        assert not cut.exists()
        assert embed(archive, "--out", cut) == 1
        assert cut.read_bytes() == whole.read_bytes()
        cut.unlink()
        survives += 1

    # The manifest, features and journal of four chunks, the list of failures, the file.
    assert survives == 1 + 2 * 4 + 1 + 1


@pytest.mark.parametrize("survives", range(4))
@pytest.mark.parametrize("continued", ["mean", "max"])
def test_power_may_fail_while_another_run_is_thrown_away(
    continued: str, survives: int, embed: Run, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(6, monkeypatch, embed, archive, "--pooling", "mean", "--out", "f.npz")
    assert not cut_power(survives, monkeypatch, embed, archive, "--pooling", "max", "--force", "--out", "f.npz")

    embed(archive, "--pooling", continued, "--force", "--out", "f.npz")
    embed(archive, "--pooling", continued, "--out", "whole.npz")

    assert Path("f.npz").read_bytes() == Path("whole.npz").read_bytes()


def stop_after(n_records: int, monkeypatch: pytest.MonkeyPatch, embed: Run, *arguments: str | Path) -> Path:
    """Leave a run unfinished."""
    from skecg.archives.run_folders import UnfinishedRun

    add = UnfinishedRun.add

    def stop(run: UnfinishedRun, *chunk: object) -> None:
        add(run, *chunk)  # type: ignore[arg-type]
        if run.n_done >= n_records:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedRun, "add", stop)
        assert embed(*arguments) == 130
    return Path(str(arguments[arguments.index("--out") + 1]) + ".partial")


def test_only_what_is_not_done_is_done(embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(6, monkeypatch, embed, sound, "--out", "f.npz")
    rows: list[int] = []
    from skecg.inference.inputs import RecordSource

    read = RecordSource._read_file
    monkeypatch.setattr(
        RecordSource, "_read_file", lambda s, p, row, *how: (rows.append(row), read(s, p, row, *how))[1]
    )

    assert embed(sound, "--out", "f.npz") == 0
    assert rows == [6, 7]


def test_features_of_patients_are_private_while_they_are_made(
    embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = stop_after(3, monkeypatch, embed, sound, "--out", "f.npz")

    assert partial.stat().st_mode & 0o077 == 0 or sys.platform == "win32"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--pooling", "max"], "weights or options"),
        (["--short-records", "pad"], "weights or options"),
        (["--sampling-rate", "500"], "sampling rate, leads or units"),
        (["--units", "uV"], "sampling rate, leads or units"),
        (["RECORD"], "records"),
    ],
)
def test_a_run_of_another_kind_is_not_continued(
    change: list[str],
    named: str,
    embed: Run,
    archive: Path,
    sound: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    partial = stop_after(3, monkeypatch, embed, sound, "--out", "f.npz")
    before = {path.name: path.read_bytes() for path in partial.iterdir()}
    change = [str(archive / "more" / "r08") if word == "RECORD" else word for word in change]
    capsys.readouterr()

    assert embed(sound, *change, "--out", "f.npz") == 2
    assert f"an unfinished run with other {named}." in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in partial.iterdir()} == before

    assert embed(sound, *change, "--out", "f.npz", "--force") == 0
    assert embed(sound, *change, "--out", "g.npz") == 0
    assert Path("f.npz").read_bytes() == Path("g.npz").read_bytes()


def test_another_version_does_not_continue(embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(3, monkeypatch, embed, sound, "--out", "f.npz")
    monkeypatch.setattr("skecg.cli.embed.__version__", "99.0")

    assert embed(sound, "--out", "f.npz") == 2


def test_force_does_not_throw_away_what_can_be_continued(
    embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f.npz").touch()
    stop_after(6, monkeypatch, embed, sound, "--out", "f.npz", "--force")

    assert embed(sound, "--out", "f.npz", "--force") == 0
    assert "6 of 8 records are done" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tail",
    [
        b'{"start": 6, "st',
        b'{"start": 6, "stop": 9}\n',
        b'{"start": 9, "stop": 12, "failures": []}\n',
        b'{"start": 6, "stop": 15, "failures": []}\n',
        b"\x00" * 40,
        b"[]\n",
        b"{}",
    ],
)
def test_a_torn_end_of_the_journal_is_cut_off(
    tail: bytes, embed: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = stop_after(6, monkeypatch, embed, archive, "--out", "f.npz")
    with (partial / "journal.jsonl").open("ab") as journal:
        journal.write(tail)
    stop_after(9, monkeypatch, embed, archive, "--out", "f.npz")
    capsys.readouterr()

    assert embed(archive, "--out", "f.npz") == 1
    assert "9 of 12 records are done" in capsys.readouterr().err
    assert embed(archive, "--out", "g.npz") == 1
    assert Path("f.npz").read_bytes() == Path("g.npz").read_bytes()


@pytest.mark.parametrize("name", ["features.npy", "manifest.json"])
def test_a_damaged_folder_is_not_continued(name: str, embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = stop_after(6, monkeypatch, embed, sound, "--out", "f.npz")
    (partial / name).write_bytes(b"damaged")

    assert embed(sound, "--out", "f.npz") == 2
    assert embed(sound, "--out", "f.npz", "--force") == 0
    assert np.isfinite(np.load("f.npz")["features"]).all()


def test_files_of_others_in_the_folder_survive(embed: Run, sound: str) -> None:
    Path("f.npz.partial").mkdir()
    Path("f.npz.partial/thesis.txt").write_text("years of work")

    assert embed(sound, "--out", "f.npz") == 0
    assert [path.name for path in Path("f.npz.partial").iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_runs_do_not_write_one_file(
    embed: Run, sound: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from skecg.archives.run_folders import UnfinishedRun

    codes: list[int] = []
    add = UnfinishedRun.add

    def add_and_run_another(run: UnfinishedRun, *chunk: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(UnfinishedRun, "add", add)
            codes.append(embed(sound, "--out", "f.npz", "--force"))
        add(run, *chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(UnfinishedRun, "add", add_and_run_another)

    assert embed(sound, "--out", "f.npz") == 0
    assert set(codes) == {2}
    assert "Another run is under way" in capsys.readouterr().err


def test_embedding_goes_on_when_who_watched_it_has_left(run: Run, sound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``2>&1 | head -1``: the bar, messages and warnings go to a pipe that ends."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as pipe, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", pipe)
        patch.setattr("sys.stderr", pipe)
        assert run("embed", sound, "--out", "f.npz", "--model", TINY) == 0
        assert run("embed", sound, "--out", "f.npz", "--model", TINY) == 2  # it exists, and nobody hears of it
    assert len(np.load("f.npz")["features"]) == 8
