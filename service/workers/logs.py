"""Log lines: JSON or for a console, one for each request, and never a vector or a name in them."""

import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import orjson

from service.settings import Settings

_MAX_ID_CHARACTERS = 128
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_made = count()
_prefix = secrets.token_hex(6)


class RequestLog:
    """One line a request, written in batches: `flush` is called between two looks at the sockets."""

    def __init__(self, settings: Settings):
        self._is_on = logging.getLevelNamesMapping()[settings.log_level] <= logging.INFO
        self._as_json = settings.log_format == "json"
        self._entries: list[dict[str, Any]] = []

    def add(self, **entry: Any) -> None:
        if self._is_on:
            self._entries.append({"time": time.time(), "level": "INFO", "message": "request", **entry})

    def flush(self) -> None:
        if self._entries:
            entries, self._entries = self._entries, []
            lines = b"".join(_json_line(entry) if self._as_json else _console_line(entry) for entry in entries)
            os.write(sys.stderr.fileno(), lines)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": record.created, "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return _json_line(entry).decode().rstrip("\n")


def set_up_logs(settings: Settings) -> None:
    """Send what `logging` gets to stderr."""
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else plain)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's id of a request, cut and cleaned, from X-Request-ID or traceparent; or a new one."""
    given = _UNSAFE.sub("", headers.get("X_REQUEST_ID", ""))[:_MAX_ID_CHARACTERS]
    trace = None if given else _TRACE.fullmatch(headers.get("TRACEPARENT", ""))
    return given or (trace[1] if trace else f"{_prefix}-{next(_made):x}")


def _json_line(entry: dict[str, Any]) -> bytes:
    return orjson.dumps({**entry, "time": _moment(entry["time"]).isoformat()}, option=orjson.OPT_APPEND_NEWLINE)


def _console_line(entry: dict[str, Any]) -> bytes:
    facts = " ".join(f"{name}={value}" for name, value in entry.items() if name not in ("time", "level", "message"))
    return f"{_moment(entry['time']):%Y-%m-%d %H:%M:%S} {entry['level']} {entry['message']} {facts}\n".encode()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
