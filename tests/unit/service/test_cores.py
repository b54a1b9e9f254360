"""Cores are held by one search at a time, in this process and in others, and never outlive who holds them."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.cores import Cores, shared_cores

ROOT = Path(__file__).parents[3]
SECONDS = 20
HOLD = """
import sys
from service.cores import Cores
with Cores(int(sys.argv[1]), 2, int(sys.argv[2]), 2).one():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_a_process(shared: int, worker: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the core of one of two workers until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(shared), str(worker)],
        cwd=ROOT,
        pass_fds=[shared],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


@pytest.mark.parametrize(("workers", "own"), [(1, [[0, 1, 2]]), (2, [[0, 2], [1]]), (3, [[0], [1], [2]])])
def test_every_core_is_some_workers_own(workers: int, own: list[list[int]]) -> None:
    shared = shared_cores()
    assert [Cores(shared, 3, worker, workers)._own for worker in range(workers)] == own


def test_workers_beyond_the_cores_share_them() -> None:
    shared = shared_cores()
    assert [Cores(shared, 2, worker, 5)._own for worker in range(5)] == [[0], [1], [0], [1], [0]]


def waits(cores: Cores) -> bool:
    """Whether a search has to wait for a core."""
    took = threading.Event()

    def take() -> None:
        with cores.one():
            took.set()

    threading.Thread(target=take, daemon=True).start()
    return not took.wait(0.2)


def test_a_process_may_hold_all_cores_while_they_are_idle() -> None:
    shared = shared_cores()
    first, second = (Cores(shared, 3, worker, 2) for worker in range(2))
    with first.one(), first.one(), first.one():
        assert waits(first)
        assert waits(second)
    with second.one(), first.one(), second.one():
        assert waits(first)
        assert waits(second)


def test_a_core_that_is_given_back_is_idle_again() -> None:
    shared = shared_cores()
    first, second = (Cores(shared, 2, worker, 2) for worker in range(2))
    for ours in (first, second, first):
        with ours.one(), ours.one():
            pass
        with pytest.raises(ZeroDivisionError), ours.one():
            raise ZeroDivisionError


def test_a_core_in_use_is_waited_for() -> None:
    alone = Cores(shared_cores(), 1)
    order: list[str] = []

    def take() -> None:
        with alone.one():
            order.append("second")

    with alone.one():
        waiting = threading.Thread(target=take)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(SECONDS)
    assert order == ["first", "second"]


def test_a_core_that_another_process_holds_is_not_taken() -> None:
    shared = shared_cores()
    ours = Cores(shared, 2, 0, 2)
    with held_by_a_process(shared, 1) as other:
        with ours.one():
            assert waits(ours)
        other.communicate("", SECONDS)
        with ours.one(), ours.one():
            pass


def test_a_process_that_is_killed_gives_its_core_back() -> None:
    shared = shared_cores()
    ours = Cores(shared, 2, 0, 2)
    with held_by_a_process(shared, 0) as other:
        with ours.one():
            assert waits(ours)
        other.send_signal(signal.SIGKILL)
        other.wait(SECONDS)
    with ours.one(), ours.one():
        pass


def test_a_core_is_taken_only_while_one_is_idle_by_who_does_not_wait() -> None:
    shared = shared_cores()
    first, second = (Cores(shared, 2, worker, 2) for worker in range(2))
    with first.idle() as has_first, second.idle() as has_second, first.idle() as has_third:
        assert (has_first, has_second, has_third) == (True, True, False)
        assert waits(first)
    with first.one(), first.one(), second.idle() as has_any:
        assert not has_any
    with first.one(), first.one():
        pass


def test_work_within_work_goes_on_with_the_core_that_its_thread_holds() -> None:
    alone = Cores(shared_cores(), 1)
    for _ in range(2):
        with alone.work():
            with alone.work():
                assert waits(alone)
            assert waits(alone)
        with alone.one():
            pass
    with pytest.raises(RuntimeError), alone.work(), alone.work():
        raise RuntimeError
    with alone.one():
        assert waits(alone)


def test_work_of_another_thread_waits_for_a_core() -> None:
    alone, done = Cores(shared_cores(), 1), threading.Event()

    def work() -> None:
        with alone.work():
            done.set()

    with alone.work():
        threading.Thread(target=work, daemon=True).start()
        assert not done.wait(0.2)
    assert done.wait(SECONDS)
