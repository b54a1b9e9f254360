"""What the line of a request says."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.workers.connections.tasks import _IdentifiedTask


def line_of(client: str = "127.0.0.1", path: str = "/index", status: str = "200 OK", **request: Any) -> dict[str, Any]:
    """The level and the entry that a request is logged with."""
    entries: list[dict[str, Any]] = []
    request_log = SimpleNamespace(add=lambda level, **entry: entries.append({"level": level, **entry}))
    channel = SimpleNamespace(addr=(client, 4711, 0, 0), server=SimpleNamespace(request_log=request_log))
    known = {"headers": {}, "version": "1.1", "path": path, "command": "GET", "arrived": 0.0, "body_bytes": 7}
    task = _IdentifiedTask(cast(Any, channel), cast(Any, SimpleNamespace(**{**known, **request})))
    task.status, task.content_length = status, 30
    task._observe()
    [entry] = entries
    return entry


@pytest.mark.parametrize(
    ("client", "shown"), [("::ffff:10.0.0.7", "10.0.0.7"), ("10.0.0.7", "10.0.0.7"), ("fe80::1", "fe80::1")]
)
def test_an_ipv4_client_of_a_socket_for_both_is_named_by_its_own_address(client: str, shown: str) -> None:
    assert line_of(client)["client"] == shown


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [
        ("/health/live", "200 OK", logging.DEBUG),
        ("/v2/models/reco/ready", "200 OK", logging.DEBUG),
        ("/health/ready", "503 Service Unavailable", logging.INFO),
        ("/metrics", "200 OK", logging.INFO),
        ("/infer", "200 OK", logging.INFO),
    ],
)
def test_only_a_probe_that_succeeds_is_left_to_debug(path: str, status: str, level: int) -> None:
    assert line_of(path=path, status=status)["level"] == level


@pytest.mark.parametrize(
    ("method", "status", "sent_bytes"),
    [("GET", "200 OK", 30), ("HEAD", "200 OK", 0), ("GET", "304 Not Modified", 0), ("POST", "422 Unprocessable", 30)],
)
def test_bytes_are_those_of_the_bodies(method: str, status: str, sent_bytes: int) -> None:
    entry = line_of(command=method, status=status)
    assert (entry["method"], entry["request_bytes"], entry["answer_bytes"]) == (method, 7, sent_bytes)


@pytest.mark.parametrize("method", ["BREW", "\x1b[31mGET", ""])
def test_a_method_that_is_none_is_another(method: str) -> None:
    assert line_of(command=method)["method"] == "other"
