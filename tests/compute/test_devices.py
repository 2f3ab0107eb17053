from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from skecg.compute import devices
from skecg.compute.devices import (
    PRECISIONS,
    OpenBLAS,
    autocast,
    find_openblas,
    keep_to_one_thread,
    one_thread_per_worker,
    resolve_device,
    resolve_devices,
    resolve_precision,
)
from skecg.errors import ParameterError


@pytest.fixture(autouse=True)
def two_threads():
    """Torch allowed two threads, as on any machine, and set back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_auto_is_a_device_that_works_here():
    assert torch.zeros(1, device=resolve_device("auto")).item() == 0


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_name_is_itself(device):
    assert resolve_device(device) == torch.device("cpu")


def test_a_device_has_its_number_before_other_threads_could_have_another_opinion_of_it(monkeypatch):
    class Empty:
        device = torch.device("cuda:1")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *_, device: Empty if device.type == "cuda" else pytest.fail("another"))
        for name in ("cuda", torch.device("cuda")):
            assert resolve_device(name) == torch.device("cuda:1")
        patch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
        assert resolve_device("auto") == torch.device("cuda:1")
        with pytest.raises(ParameterError, match="twice"):
            resolve_devices(["cuda", "cuda:1"])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", 3.5, None, "cpu:x"])
def test_a_device_that_is_not_here_is_refused_with_one_that_is(device):
    with pytest.raises(ParameterError, match=r"cannot be used here .*Use 'auto' or 'cpu'"):
        resolve_device(device)


def test_the_precision_is_full_unless_asked_otherwise():
    assert [resolve_precision(precision) for precision in PRECISIONS] == ["fp32", "fp32", "bf16"]
    with pytest.raises(ParameterError, match="'auto', 'fp32', 'bf16'"):
        resolve_precision("fp16")


def test_only_products_are_reduced_and_only_when_asked():
    linear = torch.nn.Linear(4, 4)
    with torch.inference_mode(), autocast(torch.device("cpu"), "bf16"):
        assert linear(torch.ones(1, 4)).dtype == torch.bfloat16
    with torch.inference_mode(), autocast(torch.device("cpu"), "fp32"):
        assert linear(torch.ones(1, 4)).dtype == torch.float32


def test_torch_uses_one_thread_inside_and_as_many_as_before_outside():
    with one_thread_per_worker() as workers:
        assert workers == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_numpys_products_use_one_thread_inside_and_as_many_as_before_outside():
    openblas = find_openblas()
    if openblas is None:
        pytest.skip("NumPy multiplies with another library")
    with openblas.threads(2):
        with one_thread_per_worker():
            assert openblas.n_threads == 1
            with one_thread_per_worker():
                assert openblas.n_threads == 1
            assert openblas.n_threads == 1
        assert openblas.n_threads == 2


def test_a_worker_keeps_to_one_thread_though_another_encoding_gave_torch_its_threads_back():
    with one_thread_per_worker(), ThreadPoolExecutor(1) as pool:
        torch.set_num_threads(2)  # for all threads to come, as whoever leaves does
        pool.submit(keep_to_one_thread).result()
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 2


def test_a_new_thread_computes_the_same_bits_as_any_other():
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))

    def product() -> torch.Tensor:
        keep_to_one_thread()
        return torch.nn.functional.linear(x, weight)

    with one_thread_per_worker():
        expected = product()
        for _ in range(8):
            with ThreadPoolExecutor(1) as pool:
                assert torch.equal(pool.submit(product).result(), expected)


def test_threads_come_back_after_an_error():
    with pytest.raises(RuntimeError, match="boom"), one_thread_per_worker():
        raise RuntimeError("boom")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("place", ["find_openblas", "set_num_threads", "OpenBLAS._set_threads"])
def test_threads_come_back_after_an_interrupt_on_the_way_in(place, monkeypatch):
    openblas = find_openblas()
    if openblas is None:
        pytest.skip("NumPy multiplies with another library")
    owner = {"find_openblas": devices, "set_num_threads": torch}.get(place, OpenBLAS)
    name = place.rpartition(".")[2]
    function = getattr(owner, name)

    def interrupted(*arguments):
        monkeypatch.undo()
        function(*arguments)
        raise KeyboardInterrupt

    with openblas.threads(2):
        monkeypatch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt), one_thread_per_worker():
            pytest.fail("it was interrupted before")
        assert (torch.get_num_threads(), openblas.n_threads) == (2, 2)
    with one_thread_per_worker() as workers:
        assert workers == 2


def test_those_inside_another_share_the_cores_and_only_the_last_to_leave_gives_them_back():
    with one_thread_per_worker() as first:
        with one_thread_per_worker() as second:
            assert (first, second) == (2, 1)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_many_threads_in_and_out_leave_the_setting_as_it_was():
    start = threading.Barrier(6)

    def visit(_: int) -> None:
        start.wait()
        for _ in range(50):
            with one_thread_per_worker() as workers:
                assert 1 <= workers <= 2

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(visit, range(6)))
    assert torch.get_num_threads() == 2


# --- several devices ----------------------------------------------------------------------------------------------


def test_one_name_is_one_device_and_a_list_as_many_as_it_names():
    cpu = torch.device("cpu")
    assert resolve_devices("cpu") == resolve_devices(["cpu"]) == resolve_devices((cpu,)) == (cpu,)
    assert resolve_devices("auto") == (resolve_device("auto"),)
    assert resolve_devices(["cpu", "meta"]) == (cpu, torch.device("meta"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], r"device=\[\], expected 'auto', one device, or several"),
        (["auto"], "expected 'auto', one device, or several"),
        (["cpu", "auto"], "expected 'auto', one device, or several"),
        (["cpu", "cpu:0"], "names a device twice"),
        (["cpu", "abacus"], "device='abacus', which cannot be used here"),
        (["cpu", 1.5], "device=1.5, which cannot be used here"),
    ],
)
def test_a_wrong_list_of_devices_is_refused(wrong, words):
    with pytest.raises(ParameterError, match=words):
        resolve_devices(wrong)


def test_where_one_device_is_wanted_a_list_is_refused():
    with pytest.raises(ParameterError, match="expected one device: several are for embedding only"):
        resolve_device(["cpu"])
