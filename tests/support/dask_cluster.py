"""A Dask cluster of real processes: a scheduler and workers that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]

# A worker that writes down which files it reads, and that obeys an order about a file: to stall when it comes to it, or
# to refuse it, as when a disk comes and goes. All but "refuse always" are obeyed once.
_WORKER = """
import os, sys, time
from pathlib import Path
from dask.__main__ import main
from skecg.inference.inputs import RecordSource

here, read = Path(sys.argv.pop(1)), RecordSource._read_file

def read_as_ordered(source, path, *how):
    order = here / "orders" / Path(path).stem
    text = order.read_text() if order.exists() else ""
    if text and text != "refuse always":
        order.unlink()
    with open(here / "read.txt", "a") as log:
        log.write(f"{os.getpid()} {Path(path).stem}\\n")
    if text == "stall":
        time.sleep(600)
    if text:
        raise OSError(5, "Input/output error")
    return read(source, path, *how)

RecordSource._read_file = read_as_ordered
if __name__ == "__main__":
    main()
"""


class DaskProcesses:
    """A scheduler and two workers of one thread each, without nannies: what is killed stays dead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "orders").mkdir()
        self.scheduler_file = folder / "scheduler.json"
        self._log = (folder / "log.txt").open("w")
        self.scheduler = self._start("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0")
        self.workers = [self._start_worker() for _ in range(2)]

    def _start_worker(self) -> subprocess.Popen[bytes]:
        script = self.folder / "worker.py"
        script.write_text(_WORKER)
        options = ["worker", "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]
        return self._start(str(script), str(self.folder), *options, "--local-directory", str(self.folder))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        log: IO[str] = self._log
        return subprocess.Popen(
            [sys.executable, *command, "--scheduler-file", str(self.scheduler_file), "--no-dashboard"],
            cwd=self.folder,
            env=environment,
            stdout=log,
            stderr=log,
        )

    def order(self, what: str, record: str) -> None:
        """Say what the worker that comes to a record shall do."""
        (self.folder / "orders" / record).write_text(what)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for something, for as long as the scheduler lives."""
        deadline = time.monotonic() + 120
        while not condition():
            assert self.scheduler.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def forget(self) -> None:
        """Forget what has been read."""
        (self.folder / "read.txt").unlink(missing_ok=True)

    @property
    def log(self) -> str:
        """What all of them have said."""
        return (self.folder / "log.txt").read_text()

    @property
    def reads(self) -> list[tuple[int, str]]:
        """Which process has read which record."""
        path = self.folder / "read.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def close(self) -> None:
        """Kill what still lives."""
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._log.close()
