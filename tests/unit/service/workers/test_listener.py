"""How workers share connections."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.workers.listener import ConnectionCount, bound_socket, shared_counts


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


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this kernel has no IPv6")
@pytest.mark.parametrize(
    ("host", "takes"), [("::", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("0.0.0.0", ["127.0.0.1"])]
)
def test_an_address_of_all_takes_both_kinds_of_clients_and_any_other_its_own(host: str, takes: list[str]) -> None:
    with bound_socket(host, 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        for client in ("127.0.0.1", "::1"):
            with socket.socket(socket.AF_INET6 if ":" in client else socket.AF_INET) as connection:
                assert (connection.connect_ex((client, port)) == 0) == (client in takes)
