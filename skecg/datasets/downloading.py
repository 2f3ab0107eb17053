"""The files of a data set over HTTP, several at a time and politely."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from skecg.datasets.connections import Connections, check_url
from skecg.datasets.pace import Pace, Patience, StoppedError
from skecg.datasets.transfers import Transfer
from skecg.errors import ParameterError
from skecg.progress import TransferProgress

__all__ = ["MOST_CONNECTIONS", "Downloader"]

#: Connections at a time that one user may open: the servers of public data are everybody's.
MOST_CONNECTIONS = 8


class Downloader:
    """Fetches files of one address into one folder.

    Parameters
    ----------
    base_url : str
        Address of the folder that the files lie under.
    folder : Path
    n_connections : int, default=4
        1 to :data:`MOST_CONNECTIONS` files at a time.
    patience : Patience, optional
    verbose : int, default=0
        Whether to show a bar.

    Raises
    ------
    ParameterError
        When the address is none, or the number of connections is too large to be polite.
    """

    def __init__(
        self,
        base_url: str,
        folder: Path,
        *,
        n_connections: int = 4,
        patience: Patience | None = None,
        verbose: int = 0,
    ) -> None:
        if isinstance(n_connections, bool) or n_connections not in range(1, MOST_CONNECTIONS + 1):
            raise ParameterError(
                f"Got n_connections={n_connections!r}, expected 1 to {MOST_CONNECTIONS}: the servers of public data "
                "are everybody's."
            )
        self.base_url = check_url(base_url)
        self.folder = folder
        self.n_connections = int(n_connections)
        self.patience = patience or Patience()
        self.verbose = verbose

    def fetch(
        self,
        files: Mapping[str, str | None],
        *,
        title: str = "download",
        when_there: Callable[[str], None] | None = None,
    ) -> None:
        """Fetch files that are not there.

        Parameters
        ----------
        files : mapping of str to str or None
            Names below the address, and below the folder, with the SHA-256 that each must have (None for any).
        title : str, default="download"
            What the bar calls it.
        when_there : callable, optional
            Called with the name of each file that has come in whole, from any thread.

        Raises
        ------
        DownloadError
            When a file cannot be had. What came in stays.
        """
        names, pace = deque(files), Pace(self.patience)
        progress = TransferProgress(len(files), title=title, verbose=self.verbose)
        connections = Connections(self.patience.timeout_seconds, {"User-Agent": _user_agent()})

        def work() -> None:
            while names and not pace.is_stopped:
                try:
                    name = names.popleft()
                except IndexError:  # another thread took the last one
                    return
                fetch_one(name)

        def fetch_one(name: str) -> None:
            Transfer(
                self.base_url,
                name,
                files[name],
                self.folder,
                connections=connections,
                pace=pace,
                progress=progress,
            ).fetch()
            if when_there is not None:
                when_there(name)
            progress.add_file()

        with contextlib.closing(progress), contextlib.closing(connections):
            _run(work, min(self.n_connections, max(len(files), 1)), connections, pace)


def _run(work: Callable[[], None], n_threads: int, connections: Connections, pace: Pace) -> None:
    """Work in threads; when one fails or the user interrupts, end the others at once."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="skecg-download") as pool:
        futures = [pool.submit(work) for _ in range(n_threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and future.exception() is None for future in futures):
                pace.stop()
                connections.abort()
    _raise_first(futures)


def _user_agent() -> str:
    """Say who asks."""
    import skecg

    return f"skecg/{skecg.__version__} (Python package for self-supervised ECG encoders; skecg.datasets)"


def _raise_first(futures: Iterable[Future[None]]) -> None:
    """Raise what went wrong, rather than that others were stopped for it."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
