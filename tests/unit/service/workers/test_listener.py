"""How workers share connections."""

import os
from collections.abc import Iterator

import pytest

from service.workers.listener import ConnectionCount, shared_counts


@pytest.fixture
def shared() -> Iterator[int]:
    descriptor = shared_counts(3)
    yield descriptor
    os.close(descriptor)


def fewest(shared: int) -> list[bool]:
    """Of each worker, as another process would see it."""
    return [ConnectionCount(shared, 3, worker).is_lowest for worker in range(3)]


def test_those_with_the_fewest_connections_have_the_fewest(shared: int) -> None:
    workers = [ConnectionCount(shared, 3, worker) for worker in range(3)]
    for worker, count in zip(workers, [2, 1, 1], strict=True):
        worker.report(count)
    assert fewest(shared) == [False, True, True]
    workers[1].report(70_000)
    workers[2].report(3)
    assert fewest(shared) == [True, False, False]


def test_a_worker_that_has_not_reported_or_has_died_does_not_count(shared: int) -> None:
    first, second, _ = (ConnectionCount(shared, 3, worker) for worker in range(3))
    second.report(5)
    assert fewest(shared) == [False, True, False]
    first.report(4)
    assert fewest(shared) == [True, False, False]
    first.remove()
    assert fewest(shared) == [False, True, False]
    first.report(0)
    assert fewest(shared) == [True, False, False]
