from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from skecg.compute import devices as blas
from skecg.compute.devices import OpenBLAS, find_openblas

NUMPYS = "/lib/numpy.libs/libopenblas.so"
SCIPYS = "/lib/scipy.libs/libopenblas.so"


@pytest.fixture
def found(monkeypatch):
    """Whatever libraries a process has loaded, by their paths."""

    def pretend(*paths: str) -> OpenBLAS | None:
        libraries = [SimpleNamespace(filepath=path) for path in paths]
        controller = SimpleNamespace(select=lambda **_: SimpleNamespace(lib_controllers=libraries))
        monkeypatch.setattr(blas, "ThreadpoolController", lambda: controller)
        return find_openblas.__wrapped__()

    return pretend


@pytest.mark.parametrize("paths", [(NUMPYS,), (SCIPYS, NUMPYS), (NUMPYS, SCIPYS)])
def test_numpys_library_is_told_from_other_packages(found, paths):
    assert found(*paths)._library.filepath == NUMPYS


def test_a_library_for_everybody_is_numpys_too(found):
    assert found("/usr/lib/libopenblas.so.0")._library.filepath == "/usr/lib/libopenblas.so.0"


def test_without_a_library_that_may_be_numpys_there_is_none(found):
    assert found() is None
    assert found(SCIPYS, "/lib/faiss.libs/libopenblas.so") is None


def test_threads_are_given_back_after_an_error():
    openblas = find_openblas()
    if openblas is None:
        pytest.skip("NumPy multiplies with another library")
    before = openblas.n_threads
    with pytest.raises(ZeroDivisionError), openblas.threads(1):
        raise ZeroDivisionError
    assert openblas.n_threads == before


def test_any_thread_may_begin_and_any_other_end():
    openblas = find_openblas()
    if openblas is None:
        pytest.skip("NumPy multiplies with another library")
    with openblas.threads(2), ThreadPoolExecutor(1) as other:
        first = openblas.threads(1)
        other.submit(first.__enter__).result()
        assert openblas.n_threads == 1
        first.__exit__(None, None, None)
        assert openblas.n_threads == 2
        openblas._library.set_num_threads(2)  # as scikit-learn does, and with that claims it for this thread
        third = openblas.threads(1)
        other.submit(third.__enter__).result()
        assert openblas.n_threads == 1
        other.submit(third.__exit__, None, None, None).result()
        with openblas.threads(1):
            second = openblas.threads(3)
            other.submit(second.__enter__).result()
            assert openblas.n_threads == 3
            other.submit(second.__exit__, None, None, None).result()
