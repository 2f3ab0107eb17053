from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, Run

from skecg.cli import main
from skecg.datasets import make_ecg
from skecg.records import ECGRecord


def write_wfdb(folder: Path, record: ECGRecord, name: str) -> None:
    """Write a record as WFDB's format 16, in microvolts."""
    microvolts = np.round(record.signal.T * 1000).astype("<i2")
    (folder / f"{name}.dat").write_bytes(microvolts.tobytes())
    lines = [f"{name} {record.n_leads} {record.sampling_rate:g} {record.n_samples}"]
    lines += [f"{name}.dat 16 1000/mV 16 0 {microvolts[0, i]} 0 0 {lead}" for i, lead in enumerate(record.leads)]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def as_wfdb() -> Callable[[Path, ECGRecord, str], None]:
    """Write a record into a folder as WFDB."""
    return write_wfdb


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven recordings in two folders, a twelfth without its signal file."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "more").mkdir()
    records = make_ecg(11, duration_seconds=4.0, sampling_rate=250, random_state=0).records
    for number, record in enumerate(records):
        write_wfdb(folder if number < 8 else folder / "more", record, f"r{number:02d}")
    write_wfdb(folder, records[0], "r05b")
    (folder / "r05b.dat").unlink()
    return folder


@pytest.fixture(scope="session")
def sound(archive: Path) -> str:
    """A pattern for those of the archive that can be embedded."""
    return str(archive / "r0?.hea")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, in chunks of three records."""
    monkeypatch.setattr("skecg.inference.pipeline.CHUNK_RECORDS", 3)
    monkeypatch.setattr("skecg.embedder.CHUNK_RECORDS", 3)
    monkeypatch.setenv("SKECG_CACHE", str(tmp_path / "default-cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | os.PathLike[str]) -> int:
        return main([os.fspath(argument) for argument in arguments])

    return call


@pytest.fixture
def embed(run: Run) -> Run:
    """Run ``skecg embed`` with the tiny weights."""

    def call(*arguments: str | os.PathLike[str]) -> int:
        return run("embed", "--quiet", "--model", TINY, *arguments)

    return call
