"""LUDB: 200 recordings of ten seconds in which cardiologists marked every P wave, QRS complex and T wave, lead by lead.

References
----------
.. [1] Kalyakulina A. I. et al. (2020). LUDB: a new open-source validation tool for electrocardiogram delineation
       algorithms. IEEE Access 8, 186181-186190.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from skecg.annotations import Waves, read_wave_marks
from skecg.datasets.base import LabelledECGs, comments_of, number, sex_of
from skecg.datasets.physionet import Copy, Fetching, Source, find_copy
from skecg.errors import DamagedRecordError
from skecg.io.wfdb import read_wfdb_header
from skecg.io.wfdb_header import check_sizes, locate_signals
from skecg.io.wfdb_signals import can_read_fast, read_fast
from skecg.leads import canonical_lead, canonical_leads
from skecg.records import ECGRecord

__all__ = ["LUDB", "LUDBRecords", "LUDBWaves", "fetch_ludb", "read_ludb_record", "read_ludb_waves"]

LUDB = Source(
    name="ludb",
    title="LUDB 1.0.1",
    url="https://physionet.org/files/ludb/1.0.1/",
    licence="ODC-BY 1.0",
    citation=(
        "Kalyakulina A. I. et al. (2020). LUDB: a new open-source validation tool for electrocardiogram delineation "
        "algorithms. IEEE Access 8, 186181-186190. https://doi.org/10.1109/ACCESS.2020.3029211; Goldberger A. et al. "
        "(2000). PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23), e215-e220."
    ),
    signs=("data/*.avf", "*.avf"),
)
_WANTED = re.compile(r"data/\d+\.(hea|dat|i|ii|iii|avr|avl|avf|v[1-6])")
_STEPS_PER_MILLIVOLT = 1000.0  # a step is a microvolt, whatever the headers say: see the notes of fetch_ludb


def fetch_ludb(
    data_home: str | os.PathLike[str] | None = None,
    *,
    download_if_missing: bool = True,
    n_connections: int = 4,
    base_url: str | None = None,
    n_retries: int = 5,
    delay: float = 1.0,
    verbose: int = 1,
) -> LabelledECGs:
    """Return LUDB [1]_, downloading what of it is not there.

    Parameters
    ----------
    data_home : path, optional
        A copy, which is read as it is whatever of it is there, or a folder that holds one or is to. By default the
        environment variable ``SKECG_DATA``, else ``~/skecg_data``.
    download_if_missing : bool, default=True
        Whether to download (about 25 MB). Otherwise files that are not there are an error.
    n_connections : int, default=4
        Files at a time, 1 to 8.
    base_url : str, optional
        Address of a mirror, of the folder with ``SHA256SUMS.txt`` in it.
    n_retries : int, default=5
        How often a file is asked for again after it failed without a byte of progress.
    delay : float, default=1.0
        Seconds before the first of these attempts; doubled for each, and at least what the server asks for.
    verbose : int, default=1
        0 is silent; else licence and progress go to standard error.

    Returns
    -------
    LabelledECGs
        Sorted by number, each recording of a patient of its own; `folds` are 0, the data set has none. `records` is a
        sequence that reads a recording when it is asked for one (:func:`read_ludb_record`), and `waves` reads the
        annotations of one (:func:`read_ludb_waves`). `codes` are the statements of the headers ("Rhythm: Sinus
        rhythm"), with likelihood 100.

    Raises
    ------
    DatasetNotFoundError
        When it is not there and not to be downloaded.
    DownloadError
        When it cannot be downloaded.
    ParameterError
        When an argument is not what it has to be.

    Notes
    -----
    The gains in LUDB's headers scale each lead to a range of its own, so that lead II is no longer the sum of I and
    III, as Einthoven's law has it for any voltages. The digital values keep the law. They are therefore taken as
    microvolts, and the headers' gains and baselines are passed over; reading the files as WFDB records would not do so.

    References
    ----------
    .. [1] Kalyakulina A. I. et al. (2020). LUDB: a new open-source validation tool for electrocardiogram delineation
           algorithms. IEEE Access 8, 186181-186190.
    """
    fetching = Fetching(download_if_missing, n_connections, base_url, n_retries, delay, verbose)
    copy = find_copy(LUDB, data_home, fetching)
    return _labelled(copy.folder, _header_paths(copy))


def read_ludb_record(path: str | os.PathLike[str]) -> ECGRecord:
    """Read one recording of LUDB, its digital values as microvolts (see the notes of :func:`fetch_ludb`).

    Parameters
    ----------
    path : path
        Of its header, with or without the suffix.

    Returns
    -------
    ECGRecord
        Twelve leads, 500 Hz, in mV.

    Raises
    ------
    RecordNotFoundError
        When a file is not there.
    DamagedRecordError
        When a file is cut short, or is no recording of LUDB.
    """
    header_path = _header_of(path)
    header = read_wfdb_header(header_path)
    if header.segments or not can_read_fast(header):
        raise DamagedRecordError(f"Got {header_path} in another WFDB format than LUDB's, expected 16.")
    in_microvolts = tuple(s._replace(gain=_STEPS_PER_MILLIVOLT, baseline=0, units="mV") for s in header.signals)
    # Before anything is decoded: with the headers' own gains Einthoven's law fails.
    header = header._replace(signals=in_microvolts)
    paths = locate_signals(header, header_path, [])
    check_sizes(header, paths)
    signal = read_fast(header, [paths[s.file_name] for s in header.signals], range(len(header.signals)))
    return ECGRecord(signal, header.sampling_rate, tuple(s.name for s in header.signals), header_path.stem)


def read_ludb_waves(path: str | os.PathLike[str], lead: str | None = None) -> Waves:
    """Read the waves that cardiologists marked in one recording of LUDB.

    Parameters
    ----------
    path : path
        Of its header, with or without the suffix.
    lead : str, optional
        One lead; by default all twelve, in the recording's order.

    Returns
    -------
    Waves
        Onset, peak and offset are -1 where the annotators marked none, which happens at the ends of a recording.

    Raises
    ------
    RecordNotFoundError
        When a file is not there.
    DamagedRecordError
        When a file of annotations is cut short.
    """
    header_path = _header_of(path)
    header = read_wfdb_header(header_path)
    leads = canonical_leads([s.name for s in header.signals]) if lead is None else (canonical_lead(lead),)
    tables = tuple(read_wave_marks(header_path.with_suffix(f".{name.lower()}")) for name in leads)
    return Waves(header.sampling_rate, leads, tables)


class LUDBRecords(Sequence[ECGRecord]):
    """Recordings of LUDB, each read when it is asked for.

    Parameters
    ----------
    paths : sequence of Path
        Of their headers.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[ECGRecord]:
        return map(read_ludb_record, self.paths)

    @overload
    def __getitem__(self, index: int) -> ECGRecord: ...
    @overload
    def __getitem__(self, index: slice) -> LUDBRecords: ...
    def __getitem__(self, index: int | slice) -> ECGRecord | LUDBRecords:
        """Read one recording, or choose several without reading them."""
        if isinstance(index, slice):
            return LUDBRecords(self.paths[index])
        return read_ludb_record(self.paths[index])

    def take(self, rows: NDArray[np.integer[Any]]) -> LUDBRecords:
        """Choose recordings by their positions, without reading them."""
        return LUDBRecords([self.paths[row] for row in rows])


@dataclass(frozen=True)
class LUDBWaves:
    """The annotated waves of recordings of LUDB, read when they are asked for by position."""

    paths: tuple[Path, ...]

    def __call__(self, row: int) -> Waves:
        """Read the waves of one recording."""
        return read_ludb_waves(self.paths[row])


def _header_of(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".hea" else path.with_name(f"{path.name}.hea")


def _header_paths(copy: Copy) -> list[Path]:
    """List the recordings: all where they were downloaded, those that are there in somebody's copy."""
    if copy.is_downloaded:
        names = copy.listed(_WANTED.fullmatch)
        copy.require(names)
        paths = [copy.folder / name for name in names if name.endswith(".hea")]
    else:
        places = (copy.folder / "data", copy.folder)
        # In somebody's own copy the files may lie without the folder data/.
        paths = next(found for place in places if (found := [p.with_suffix(".hea") for p in place.glob("*.avf")]))
    # By number, not by letters: 2 before 10.
    return sorted(paths, key=lambda path: (len(path.stem), path.stem))


def _labelled(folder: Path, paths: list[Path]) -> LabelledECGs:
    """Turn headers into columns."""
    comments = [comments_of(path) for path in paths]
    ids = np.array([path.stem for path in paths], dtype=str)
    return LabelledECGs(
        name=LUDB.name,
        records=LUDBRecords(paths),
        sampling_rate=None,
        leads=None,
        codes=tuple({line.rstrip(". "): 100.0 for line in lines if line[:1] not in ("<", "")} for lines in comments),
        patients=ids,
        folds=np.zeros(len(paths), dtype=np.int64),  # LUDB has none
        sexes=np.array([sex_of(_field(lines, "<sex>:")) for lines in comments], dtype=str),
        ages=np.array([number(_field(lines, "<age>:")) for lines in comments], dtype=np.float64),
        licence=LUDB.licence,
        citation=LUDB.citation,
        folder=folder,
        waves=LUDBWaves(tuple(paths)),
        record_ids=ids,
    )


def _field(comments: list[str], name: str) -> str:
    """Return what stands behind a name in the comments of a header."""
    return next((line.removeprefix(name).strip() for line in comments if line.startswith(name)), "")
