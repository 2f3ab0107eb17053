"""Data sets of PhysioNet on this machine: copies that are there, and downloads of what is not.

References
----------
.. [1] Goldberger A. et al. (2000). PhysioBank, PhysioToolkit, and PhysioNet: components of a new research resource for
       complex physiologic signals. Circulation 101(23), e215-e220.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skecg.datasets.checksums import SUMS_FILE, Verified, read_sums
from skecg.datasets.download import Downloader, Patience, disk_errors
from skecg.errors import DatasetNotFoundError, DownloadError, ParameterError
from skecg.io.files import sha256_of
from skecg.validation import is_integer

__all__ = ["Copy", "Fetching", "Source", "default_data_home", "find_copy"]

_log = logging.getLogger("skecg.datasets")


@dataclass(frozen=True)
class Source:
    """A data set and where it is published.

    Parameters
    ----------
    name : str
        Of its folder, and of the function that fetches it.
    title, licence, citation : str
    url : str
        Of the folder of its files.
    signs : tuple of str
        Patterns of files, any of which tells that a folder holds a copy.
    """

    name: str
    title: str
    url: str
    licence: str
    citation: str
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Fetching:
    """Whether and how to download; see the functions that take these as arguments."""

    download_if_missing: bool = True
    n_connections: int = 4
    base_url: str | None = None
    n_retries: int = 5
    delay: float = 1.0
    verbose: int = 1

    def __post_init__(self) -> None:
        if not is_integer(self.n_retries, 0):
            raise ParameterError(f"Got n_retries={self.n_retries!r}, expected a whole number from 0.")
        if not isinstance(self.delay, int | float) or not 0 <= self.delay < float("inf"):
            raise ParameterError(f"Got delay={self.delay!r}, expected seconds from 0.")

    def downloader(self, source: Source, folder: Path) -> Downloader:
        """Make what downloads a data set, and refuse what it cannot do."""
        patience = Patience(n_retries=self.n_retries, first_wait_seconds=self.delay)
        return Downloader(
            self.base_url or source.url,
            folder,
            n_connections=self.n_connections,
            patience=patience,
            verbose=self.verbose,
        )


def default_data_home() -> Path:
    """Return the folder that data sets are kept in unless told otherwise.

    Returns
    -------
    Path
        The environment variable ``SKECG_DATA`` when set; else ``skecg_data`` in the home folder.
    """
    named = os.environ.get("SKECG_DATA")
    return Path(named).expanduser() if named else Path.home() / "skecg_data"


def find_copy(source: Source, data_home: str | os.PathLike[str] | None, fetching: Fetching) -> Copy:
    """Find a copy of a data set, or the place for one.

    Parameters
    ----------
    source : Source
    data_home : path or None
        The folder of the copy itself, or one that holds it under any name, or as ``wget -r`` leaves it; None is
        :func:`default_data_home`. Where there is none, the place is the folder of the data set's name in it.
    fetching : Fetching

    Returns
    -------
    Copy
    """
    if data_home is not None and not isinstance(data_home, str | os.PathLike):
        raise ParameterError(f"Got data_home={data_home!r}, expected a folder.")
    home = default_data_home() if data_home is None else Path(data_home).expanduser()
    published = Path(*source.url.removeprefix("https://").strip("/").split("/"))
    # Where people put it: the folder itself, one of its name, or the server's own path, as wget -r leaves it.
    likely = [home, home / source.name, home / published]
    # One level only: a home folder may hold millions of files.
    below = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    for folder in (*likely, *below):
        if any(next(folder.glob(sign), None) is not None for sign in source.signs):
            return Copy(source, folder, fetching)
    return Copy(source, home / source.name, fetching)


class Copy:
    """A data set in a folder: as somebody put it there, or as it was downloaded here.

    Files that somebody put there are taken as they are. Files that were downloaded here are compared with the data
    set's checksums once, and again when their size or time of change is another.

    Parameters
    ----------
    source : Source
    folder : Path
    fetching : Fetching
    """

    def __init__(self, source: Source, folder: Path, fetching: Fetching) -> None:
        self.source, self.folder, self.fetching = source, folder, fetching
        self._downloader = fetching.downloader(source, folder)
        self._verified = Verified(folder)
        self._has_announced = False
        is_copy = any(next(folder.glob(sign), None) is not None for sign in source.signs)
        # What is there of somebody's own copy is taken as it is.
        self.is_downloaded = (folder / Verified.FILE).is_file() or not is_copy

    def require(self, names: Iterable[str]) -> None:
        """See to it that files are there.

        Parameters
        ----------
        names : iterable of str
            Relative to the folder.

        Raises
        ------
        DatasetNotFoundError
            When some are not, and are not to be downloaded.
        DownloadError
            When they cannot be downloaded.
        """
        names = list(names)
        if self.is_downloaded:
            lacking = [name for name in names if name not in self._verified]
        else:
            lacking = [name for name in names if not (self.folder / name).is_file()]
        if not lacking:
            return
        # Without a checksum remembered a file may be there all the same: such files are checked below.
        if not self.fetching.download_if_missing:
            absent = [name for name in lacking if not (self.folder / name).is_file()]
            if absent:
                raise self._not_found(len(absent), len(names), absent[0])
        self._complete(lacking)

    def listed(self, is_wanted: Callable[[str], Any]) -> list[str]:
        """Return the names in the data set's list of checksums that are wanted, sorted."""
        return sorted(name for name in self._sums() if is_wanted(name))

    def _sums(self) -> dict[str, str]:
        """Read the list of checksums, downloading it when it is not there."""
        path = self.folder / SUMS_FILE
        if not path.is_file():
            if not self.fetching.download_if_missing:
                raise self._not_found(1, 1, SUMS_FILE)
            self._announce()
            self._start()
            self._downloader.fetch({SUMS_FILE: None}, title=self.source.name)
            try:
                return read_sums(path)
            except DownloadError:
                # A page that is no list must not be found, and believed, the next time.
                path.unlink()
                raise
        return read_sums(path)

    def _complete(self, lacking: list[str]) -> None:
        """Check what is there against its checksums, download what is not or is wrong, and remember."""
        sums = self._sums()
        unknown = [name for name in lacking if name not in sums]
        if unknown:
            raise DownloadError(
                f"Got no checksum for {unknown[0]} in {self.folder / SUMS_FILE}, expected one for every file. The list "
                "may be of another version: delete it and try again."
            )
        try:
            wanted = {name: sums[name] for name in lacking if not self._is_right(name, sums[name])}
            if wanted and not self.fetching.download_if_missing:
                raise self._not_found(len(wanted), len(lacking), next(iter(wanted)))
            if wanted:
                self._announce()
                self._start()
                self._downloader.fetch(wanted, title=self.source.name, when_there=self._verified.add)
        # Also after a failure: what was checked by then need not be checked again.
        finally:
            if self.is_downloaded:
                self._verified.save()

    def _is_right(self, name: str, sha256: str) -> bool:
        """Whether a file is there and has its checksum."""
        path = self.folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            return False
        self._verified.add(name)
        return True

    def _start(self) -> None:
        """Mark a folder as downloaded, before anything is in it."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_downloaded:
            self._verified.save()

    def _announce(self) -> None:
        """Print once what is downloaded, where to, and on which terms."""
        if self._has_announced:
            return
        self._has_announced = True
        text = (
            f"Downloading {self.source.title} from {self._downloader.base_url} into {self.folder}\n"
            f"Licence: {self.source.licence}. Please cite: {self.source.citation}"
        )
        _log.info(text)
        if self.fetching.verbose:
            print(text, file=sys.stderr)

    def _not_found(self, n_absent: int, n_files: int, first: str) -> DatasetNotFoundError:
        return DatasetNotFoundError(
            f"Got {n_files - n_absent} of {n_files} files of {self.source.title} in {str(self.folder)!r} ({first!r} is "
            f"not there), expected all. Download them with skecg.datasets.fetch_{self.source.name}("
            f"{str(self.folder)!r}), or pass data_home= (or set SKECG_DATA to) the folder of a copy that you have."
        )
