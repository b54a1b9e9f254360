"""How workers share connections."""

import os
from collections.abc import Iterator

import pytest

from service.workers.listener import ConnectionCounts, shared_counts


@pytest.fixture
def shared() -> Iterator[int]:
    descriptor = shared_counts(3)
    yield descriptor
    os.close(descriptor)


def fewest(shared: int) -> list[bool]:
    """Of each worker, as another process would see it."""
    return [ConnectionCounts(shared, 3).has_fewest(worker) for worker in range(3)]


def test_those_with_the_fewest_connections_have_the_fewest(shared: int) -> None:
    workers = [ConnectionCounts(shared, 3) for _ in range(3)]
    for worker, count in enumerate([2, 1, 1]):
        workers[worker].report(worker, count)
    assert fewest(shared) == [False, True, True]
    workers[1].report(1, 70_000)
    workers[2].report(2, 3)
    assert fewest(shared) == [True, False, False]


def test_a_worker_that_has_not_reported_or_has_died_does_not_count(shared: int) -> None:
    counts = ConnectionCounts(shared, 3)
    counts.report(1, 5)
    assert fewest(shared) == [False, True, False]
    counts.report(0, 4)
    assert fewest(shared) == [True, False, False]
    counts.remove(0)
    assert fewest(shared) == [False, True, False]
    counts.report(0, 0)
    assert fewest(shared) == [True, False, False]
