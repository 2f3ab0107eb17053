from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Generator

import pytest

from skecg.compute.devices import in_order, one_ahead
from skecg.errors import ParameterError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

# --- many things at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 5, 50])
def test_results_come_in_the_order_of_the_items(n_threads: int) -> None:
    def late(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number

    assert list(in_order(late, range(20), n_threads)) == list(range(20))


@pytest.mark.parametrize("n_threads", [1, 4])
def test_no_items_give_no_results(n_threads: int) -> None:
    assert list(in_order(str, [], n_threads)) == []


def test_so_many_threads_work_at_once() -> None:
    all_there = threading.Barrier(3)
    assert len(list(in_order(lambda _: all_there.wait(timeout=10), range(3), 3))) == 3


@pytest.mark.parametrize(("n_threads", "n_items"), [(1, 5), (4, 1)])
def test_one_thread_is_the_callers(n_threads: int, n_items: int) -> None:
    assert set(in_order(lambda _: threading.current_thread(), range(n_items), n_threads)) == {
        threading.current_thread()
    }


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_the_first_error_in_the_items_order_is_raised_in_its_place(n_threads: int) -> None:
    found: list[int] = []
    second_failed = threading.Event()

    def work(number: int) -> int:
        if number == 4:
            second_failed.set()
            raise ValueError("later")
        if number == 3:
            second_failed.wait(0.1)
            raise KeyError("first")
        return number

    with pytest.raises(KeyError, match="first"):
        found.extend(in_order(work, range(30), n_threads))
    assert found == [0, 1, 2]


def test_what_was_not_begun_when_the_caller_leaves_is_left() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    with contextlib.closing(in_order(work, range(1000), 2)) as results:
        next(results)
    assert len(begun) < 100


@pytest.fixture
def no_room() -> Generator[None, None, None]:
    """A stack so large that no thread has room for one."""
    before = threading.stack_size(1 << 47)
    yield
    threading.stack_size(before)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a stack at once")
def test_where_there_is_no_room_for_threads_the_error_says_which_number_to_lower(no_room: None) -> None:
    begun: list[int] = []
    with pytest.raises(ParameterError, match=r"as n_jobs asks for \(can't start new thread\). Set n_jobs lower"):
        list(in_order(begun.append, range(8), 4))
    assert begun == []
    with pytest.raises(ParameterError, match="n_jobs"):
        list(one_ahead(number for number in range(8)))
    assert list(in_order(str, range(2), 1)) == ["0", "1"]


def test_errors_of_the_work_stay_what_they_are_even_those_of_threads() -> None:
    def fail(_: int) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't"):
        list(in_order(fail, range(3), 2))


# --- the next thing while this one is in use ----------------------------------------------------------------------


def test_items_come_in_their_order_from_other_threads() -> None:
    def makers() -> Generator[tuple[int, threading.Thread], None, None]:
        for number in range(5):
            yield number, threading.current_thread()

    found = list(one_ahead(makers()))
    assert [number for number, _ in found] == list(range(5))
    assert threading.current_thread() not in {thread for _, thread in found}


def test_exactly_one_item_is_made_while_one_is_in_use() -> None:
    made = threading.Semaphore(0)
    count = 0

    def items() -> Generator[int, None, None]:
        nonlocal count
        for number in range(10):
            count += 1
            made.release()
            yield number

    with contextlib.closing(one_ahead(items())) as ahead:
        for number in ahead:
            for _ in range(2 if number == 0 else 1 if number < 9 else 0):  # this one and the next
                assert made.acquire(timeout=10)
            time.sleep(0.002)
            assert count == min(number + 2, 10)


def test_nothing_is_made_before_it_is_asked_for() -> None:
    ahead = one_ahead(item for item in [pytest.fail])
    ahead.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_comes_in_its_place(error: type[BaseException]) -> None:
    def items() -> Generator[int, None, None]:
        yield from range(3)
        raise error("the fourth")

    found: list[int] = []
    with pytest.raises(error, match="the fourth"):
        found.extend(one_ahead(items()))
    assert found == [0, 1, 2]


@pytest.mark.parametrize("leave", ["close", "forget", "error"])
def test_whoever_leaves_early_leaves_nothing_running(leave: str) -> None:
    closed, underway = threading.Event(), threading.Event()

    def items() -> Generator[int, None, None]:
        try:
            for number in range(10):
                if number:
                    underway.set()
                    time.sleep(0.05)
                yield number
        finally:
            closed.set()

    made = items()
    ahead = one_ahead(made)
    assert next(ahead) == 0
    assert underway.wait(10)
    if leave == "close":
        ahead.close()
        assert closed.is_set()
    elif leave == "error":
        with pytest.raises(KeyboardInterrupt):
            ahead.throw(KeyboardInterrupt)
        assert closed.is_set()
    else:
        del ahead
        assert closed.wait(10)


@pytest.fixture
def interruptible() -> Generator[None, None, None]:
    """Python's own answer to an interrupt; processes in which tests run beside each other ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_waiting_is_raised_once_the_item_is_made(interruptible: None) -> None:
    made = threading.Event()

    def items() -> Generator[int, None, None]:
        yield 0
        time.sleep(0.02)  # the caller waits by now
        _thread.interrupt_main()
        time.sleep(0.02)
        made.set()
        yield 1

    ahead = one_ahead(items())
    assert next(ahead) == 0
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    assert made.is_set()
