"""Progress of long work: a bar when asked for, and the batches in scikit-learn's own callbacks where it has them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin, which older versions do not have."""

    def with_callbacks(method: Any) -> Any:
        """Return a method back as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Progress", "TransferProgress", "count_progress", "with_callbacks"]


@contextlib.contextmanager
def count_progress(total: int, title: str, unit: str, *, verbose: int = 0) -> Iterator[Any]:
    """Enclose work of `total` equal parts; call ``update(n)`` on what is given after n of them."""
    from tqdm.auto import tqdm  # a widget in a notebook, a line in a terminal

    with tqdm(total=total, desc=title, unit=unit, disable=not verbose) as shown:
        yield shown


class Progress:
    """Reports on records as they are embedded.

    Parameters
    ----------
    n_records, n_chunks : int
        How many there are to come.
    verbose : int
        Whether to show a bar (on standard error).
    estimator : object, optional
        Whose scikit-learn callbacks to call: with the whole as a task, and each chunk as a part of it.
    """

    def __init__(self, n_records: int, n_chunks: int, *, verbose: int = 0, estimator: Any = None) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=n_records, unit="record", desc="embedding", disable=not verbose)
        self._estimator = estimator
        self._task = None
        if estimator is not None and hasattr(estimator, "_init_callback_context"):
            self._task = estimator._init_callback_context(task_name="embed", max_subtasks=n_chunks)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Enclose all the work."""
        with contextlib.closing(self._bar):
            if self._task is not None:
                self._task.call_on_fit_task_begin(estimator=self._estimator)
            yield
            if self._task is not None:
                self._task.call_on_fit_task_end(estimator=self._estimator)

    @contextlib.contextmanager
    def chunk(self, n_records: int) -> Iterator[None]:
        """Enclose one chunk."""
        part = None if self._task is None else self._task.subcontext(task_name="batch")
        if part is not None:
            part.call_on_fit_task_begin(estimator=self._estimator)
        yield
        if part is not None:
            part.call_on_fit_task_end(estimator=self._estimator)
        self._bar.update(n_records)


class TransferProgress:
    """Reports on files as they arrive, from any thread: how many, how many bytes, how many a second.

    Parameters
    ----------
    n_files : int
        How many there are to come.
    title : str
        What they make up.
    verbose : int
        Whether to show a bar (on standard error).
    """

    def __init__(self, n_files: int, *, title: str, verbose: int = 0) -> None:
        from tqdm.auto import tqdm

        self._lock = threading.Lock()
        self._title = title
        self._n_files = n_files
        self._n_done = 0
        how = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
        self._bar = tqdm(desc=self._description(), disable=not verbose, **how)

    def add_bytes(self, n_bytes: int) -> None:
        """Count bytes that came in."""
        # tqdm locks its drawing, not its count.
        with self._lock:
            self._bar.update(n_bytes)

    def add_file(self) -> None:
        """Count a file that is there."""
        with self._lock:
            self._n_done += 1
            self._bar.set_description_str(self._description(), refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _description(self) -> str:
        return f"{self._title}: {self._n_done} of {self._n_files} files"
