"""What a request is called in logs, and what its line looks like."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.settings import Settings
from service.workers import logs
from service.workers.logs import RequestLog, StderrHandler, request_id, set_up_logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
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


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:], root.level = handlers, level


def set_up(settings: Settings, count_dropped: Callable[[int], object] = lambda _lines: None) -> StderrHandler:
    set_up_logs(settings, count_dropped)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, StderrHandler)
    return handler


@pytest.fixture
def stderr_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that has log lines written to another descriptor."""
    return lambda descriptor: monkeypatch.setattr(logs, "_STDERR", descriptor)


def test_lines_for_a_console(capfd: pytest.CaptureFixture[str]) -> None:
    handler = set_up(Settings(log_format="console"))
    request_log = RequestLog(Settings())
    request_log.add(logging.INFO, route="/infer", status=200)
    request_log.add(logging.INFO, route="/batch", status=422)
    logging.getLogger("anyone").info("serving build %s", "caf\udce9")
    handler.flush()
    first, second, third = capfd.readouterr().err.splitlines()
    assert re.fullmatch(f"{TIME} INFO request route=/infer status=200", first)
    assert re.fullmatch(f"{TIME} INFO request route=/batch status=422", second)
    assert re.fullmatch(rf"{TIME} INFO serving build caf\\udce9", third)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_all_lines_have_one_format_of_times_whatever_the_time_zone(
    log_format: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        handler, started = set_up(Settings(log_format=log_format)), datetime.now(UTC)
        RequestLog(Settings()).add(logging.INFO, route="/infer")
        logging.getLogger("anyone").info("serving")
        handler.flush()
    finally:
        monkeypatch.undo()
        time.tzset()
    lines = capfd.readouterr().err.splitlines()
    times = [json.loads(line)["time"] if log_format == "json" else line.split()[0] for line in lines]
    assert len(times) == 2
    for each in times:
        assert re.fullmatch(TIME, each)
        assert abs((datetime.fromisoformat(each) - started).total_seconds()) < 60


def test_lines_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    handler = set_up(Settings(log_format="json"))
    RequestLog(Settings()).add(logging.INFO, route="/infer", status=200)
    logging.getLogger("anyone").error("build %s", "caf\udce9")
    handler.flush()
    entries = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert all(re.fullmatch(TIME, entry.pop("time")) for entry in entries)
    assert entries == [
        {"level": "INFO", "message": "request", "route": "/infer", "status": 200},
        {"level": "ERROR", "message": r"build caf\udce9"},
    ]


@pytest.mark.parametrize(
    ("level", "expected"), [("DEBUG", ["DEBUG", "INFO"]), ("INFO", ["INFO"]), ("WARNING", []), ("ERROR", [])]
)
def test_a_higher_level_leaves_requests_out(level: str, expected: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(log_level=level)
    handler = set_up(settings)
    for of_request in (logging.DEBUG, logging.INFO):
        RequestLog(settings).add(of_request, status=200)
    handler.flush()
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == expected


def test_lines_of_several_threads_are_all_written_and_whole(tmp_path: Path, stderr_to: Callable[[int], None]) -> None:
    handler = set_up(Settings())
    request_log = RequestLog(Settings())
    with (tmp_path / "log").open("wb") as file:
        stderr_to(file.fileno())
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: request_log.add(logging.INFO, number=number), range(2000)))
        handler.flush()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(int(line.rpartition("number=")[2]) for line in lines) == list(range(2000))


def test_lines_for_a_full_disk_or_a_closed_descriptor_are_dropped_and_counted(
    stderr_to: Callable[[int], None],
) -> None:
    dropped: list[int] = []
    handler = set_up(Settings(), dropped.append)
    for descriptor in (os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_RDONLY)):
        stderr_to(descriptor)
        for _ in range(5):
            logging.getLogger("anyone").info("a line")
        handler.flush()
        os.close(descriptor)
    assert sum(dropped) == 10


def test_a_record_that_cannot_be_formatted_is_dropped_and_counted() -> None:
    dropped: list[int] = []
    set_up(Settings(), dropped.append)
    logging.getLogger("anyone").info("%d", "no number")
    assert dropped == [1]


def test_nobody_waits_for_a_pipe_that_is_stuck(stderr_to: Callable[[int], None]) -> None:
    reads, writes = os.pipe()
    dropped: list[int] = []
    handler = set_up(Settings(), dropped.append)
    request_log = RequestLog(Settings())
    stderr_to(writes)
    started = time.monotonic()
    for number in range(30_000):
        request_log.add(logging.INFO, number=number)
    handler.flush()
    assert time.monotonic() - started < 10
    assert sum(dropped) > 0
    os.close(reads)  # The write that is stuck fails, and so do those of the lines in the queue.
    handler.flush()
    handler.flush()
    os.close(writes)
