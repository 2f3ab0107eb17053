"""NumPy's library for products of matrices: whether it is a fast OpenBLAS, and how many threads it takes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["OpenBLAS", "find_openblas"]

# What OpenBLAS calls its kernels for processors with AVX-512, of which Zen 4 and 5 take one, and with AVX2.
_FAST_KERNELS = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids", "Haswell", "Zen"})


class OpenBLAS:
    """An OpenBLAS in this process.

    Parameters
    ----------
    library : threadpoolctl.LibController
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.is_fast = getattr(library, "architecture", None) in _FAST_KERNELS

    @property
    def n_threads(self) -> int:
        """Threads that a product may take."""
        return int(self._library.num_threads)

    @contextlib.contextmanager
    def threads(self, n_threads: int) -> Iterator[None]:
        """Let products take so many threads, in the whole process, until the block ends, by whichever thread."""
        before = self.n_threads
        self._set_threads(n_threads)
        try:
            yield
        finally:
            self._set_threads(before)

    def _set_threads(self, n_threads: int) -> None:
        """Set the number of threads, whichever thread has set it before.

        Newer releases of threadpoolctl let one thread decide and ignore all others for as long as it lives.
        """
        release = getattr(self._library, "clear_controlling_thread", lambda *, force: None)
        release(force=True)
        self._library.set_num_threads(n_threads)
        release(force=True)


@functools.cache
def find_openblas() -> OpenBLAS | None:
    """Find the OpenBLAS that NumPy multiplies with; None where it has another library.

    Packages may bring an OpenBLAS each. NumPy's is the one that lies with NumPy, or the only one there is.
    """
    import numpy  # noqa: F401  (loads it)

    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    with_numpy = [library for library in found if "numpy" in str(library.filepath)]
    chosen = with_numpy or (found if len(found) == 1 else [])
    return OpenBLAS(chosen[0]) if chosen else None
