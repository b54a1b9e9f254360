"""Log lines: JSON or for a console, one for each request, and never a vector or a name in them."""

import logging
import logging.handlers
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import count
from queue import SimpleQueue
from select import PIPE_BUF
from threading import Event, Thread
from typing import Any

import orjson

from service.settings import Settings

Entry = dict[str, Any]

_STDERR = 2
_MAX_QUEUED_LINES = 10_000  # about 8 MB
_GATHERING_SECONDS = 0.02
_MAX_FLUSH_SECONDS = 1.0
_MAX_ID_CHARACTERS = 128
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class StderrHandler(logging.handlers.QueueHandler):
    """Has lines written to stderr by a thread of its own, so that whoever logs never waits and never meets an error.

    Lines that stderr does not take are dropped and counted: it may be a full disk, a closed descriptor, or a pipe whose
    reader has gone or reads no more. The standard library's `QueueListener` is not used, as it writes each line by
    itself and, at its end, waits for a stuck pipe without a limit.
    """

    def __init__(self, format_entry: Callable[[Entry], bytes], count_dropped: Callable[[int], object]):
        self._queued: SimpleQueue[str | Entry | Event | None] = SimpleQueue()
        super().__init__(self._queued)
        self._format_entry, self._count_dropped = format_entry, count_dropped
        Thread(target=self._write_queued, name="log writer", daemon=True).start()

    def prepare(self, record: logging.LogRecord) -> str:
        return f"{self.format(record)}\n"

    def enqueue(self, line: str | Entry) -> None:  # type: ignore[override]
        """Queue a line, or an entry that becomes a line in the writing thread."""
        if self._queued.qsize() < _MAX_QUEUED_LINES:
            self._queued.put(line)
        else:
            self._count_dropped(1)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging calls it so)
        self._count_dropped(1)

    def flush(self) -> None:
        """Wait until all lines queued so far are written, but no longer than stderr may be stuck."""
        written = Event()
        self._queued.put(written)
        written.wait(_MAX_FLUSH_SECONDS)

    def close(self) -> None:
        super().close()
        self._queued.put(None)

    def _write_queued(self) -> None:
        """Write all lines of a moment together, until the handler is closed."""
        batch = b""
        while (item := self._queued.get()) is not None:
            if isinstance(item, Event):
                self._write(batch)
                batch = b""
                item.set()
                continue
            if not batch:
                time.sleep(_GATHERING_SECONDS)
            line = item.encode(errors="backslashreplace") if isinstance(item, str) else self._format_entry(item)
            if len(batch) + len(line) > PIPE_BUF:  # Beyond it, a pipe may mix the lines of several processes.
                self._write(batch)
                batch = b""
            batch += line
            if self._queued.empty():
                self._write(batch)
                batch = b""
        self._write(batch)

    def _write(self, lines: bytes) -> None:
        try:
            while lines:
                lines = lines[os.write(_STDERR, lines) :]
        except OSError:
            self._count_dropped(lines.count(b"\n"))


class RequestLog:
    """One line a request; none where the level leaves it out, or no logs are set up."""

    def __init__(self, settings: Settings):
        self._min_level = logging.getLevelNamesMapping()[settings.log_level]
        handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, StderrHandler)]
        self._handler = handlers[0] if handlers else None

    def add(self, level: int, **entry: Any) -> None:
        if self._handler and level >= self._min_level:
            name = logging.getLevelName(level)
            self._handler.enqueue({"time": time.time(), "level": name, "message": "request", **entry})


class _ConsoleFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _time_text(record.created)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": record.created, "level": record.levelname, "message": _escaped(record.getMessage())}
        if record.exc_info:
            entry["trace"] = _escaped(self.formatException(record.exc_info))
        return _json_line(entry).decode().rstrip("\n")


def set_up_logs(settings: Settings, count_dropped: Callable[[int], object] = lambda _lines: None) -> None:
    """Send what `logging` gets to stderr, and call `count_dropped` with the number of lines that it does not take."""
    as_json = settings.log_format == "json"
    handler = StderrHandler(_json_line if as_json else _console_line, count_dropped)
    plain = _ConsoleFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonFormatter() if as_json else plain)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def counted(number: int, noun: str) -> str:
    """Return a number of things as sentences have it: 1 worker, 2 workers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's id of a request, cut and cleaned, from X-Request-ID or traceparent; or a new one."""
    given = _UNSAFE.sub("", headers.get("X_REQUEST_ID", ""))[:_MAX_ID_CHARACTERS]
    trace = None if given else _TRACE.fullmatch(headers.get("TRACEPARENT", ""))
    return given or (trace[1] if trace else next(_new_ids()))


@cache
def _new_ids() -> Iterator[str]:
    """Return the ids that this process gives to requests; threads may take them at the same time."""
    return map(f"{secrets.token_hex(6)}-{{:x}}".format, count())


def _escaped(text: str) -> str:
    """Escape lone surrogates, which come from file names that are not UTF-8 and which JSON cannot hold."""
    return text.encode(errors="backslashreplace").decode()


def _json_line(entry: Entry) -> bytes:
    return orjson.dumps({**entry, "time": _time_text(entry["time"])}, option=orjson.OPT_APPEND_NEWLINE)


def _console_line(entry: Entry) -> bytes:
    facts = " ".join(f"{name}={value}" for name, value in entry.items() if name not in ("time", "level", "message"))
    return f"{_time_text(entry['time'])} {entry['level']} {entry['message']} {facts}\n".encode()


def _time_text(seconds: float) -> str:
    """Return a time as every line has it: in ISO 8601 and UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
