"""What a request is called in logs, and what its line looks like."""

import json

import pytest

from service.settings import Settings
from service.workers.logs import RequestLog, request_id

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X_REQUEST_ID": "order-17"}, "order-17"),
        ({"X_REQUEST_ID": "a b\n\x00<script>é"}, "abscript"),
        ({"X_REQUEST_ID": "x" * 500}, "x" * 128),
        ({"TRACEPARENT": TRACE}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"X_REQUEST_ID": "mine", "TRACEPARENT": TRACE}, "mine"),
        ({"X_REQUEST_ID": "\n", "TRACEPARENT": TRACE}, "4bf92f3577b34da6a3ce929d0e0e4736"),
    ],
    ids=["id", "unsafe", "long", "trace", "both", "empty id"],
)
def test_a_clients_id_is_taken_cut_and_cleaned(headers: dict[str, str], expected: str) -> None:
    assert request_id(headers) == expected


@pytest.mark.parametrize("headers", [{}, {"X_REQUEST_ID": "\n"}, {"TRACEPARENT": TRACE.upper()}, {"TRACEPARENT": "x"}])
def test_without_an_id_each_request_gets_a_new_one(headers: dict[str, str]) -> None:
    ids = {request_id(headers) for _ in range(100)}
    assert len(ids) == 100
    assert all(8 < len(each) < 40 for each in ids)


@pytest.mark.parametrize(
    ("log_format", "lines"),
    [
        ("console", ["{time} INFO request route=/infer status=200", "{time} INFO request route=/batch status=422"]),
        ("json", None),
    ],
)
def test_lines_are_written_together(
    capfd: pytest.CaptureFixture[str], log_format: str, lines: list[str] | None
) -> None:
    log = RequestLog(Settings(log_format=log_format))
    log.add(route="/infer", status=200)
    log.add(route="/batch", status=422)
    assert capfd.readouterr().err == ""
    log.flush()
    written = capfd.readouterr().err.splitlines()
    if lines:
        assert [line[19:] for line in written] == [line.removeprefix("{time}") for line in lines]
    else:
        entries = [json.loads(line) for line in written]
        assert all(entry.pop("time").endswith("+00:00") for entry in entries)
        common = {"level": "INFO", "message": "request"}
        assert entries == [
            {**common, "route": "/infer", "status": 200},
            {**common, "route": "/batch", "status": 422},
        ]
    log.flush()
    assert capfd.readouterr().err == ""


def test_a_higher_level_leaves_requests_out(capfd: pytest.CaptureFixture[str]) -> None:
    log = RequestLog(Settings(log_level="WARNING"))
    log.add(route="/infer", status=200)
    log.flush()
    assert capfd.readouterr().err == ""
