"""The service's settings, read once from environment variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.cores import available_cores
from service.errors import BadSetting

_LOG_FORMATS = ("console", "json")
MILVUS_MOST_MATCHES = 16_384  # that Milvus finds in one search
MILVUS_INDEXES = ("FLAT", "HNSW", "IVF_FLAT")  # that searches know how to use; the first is the default
_MILVUS_THREADS = 16  # that wait for Milvus
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; k counts matches a side, `users_times_k` those of a whole batch, `max_ids` the
    products that it names, `max_completions` those that complete a prefix.
    """

    default_k: int = 10
    max_k: int = 1000
    max_batch: int = 10_000
    users_times_k: int = 1_000_000
    max_ids: int = 1000
    max_completions: int = 100


@dataclass(frozen=True)
class MilvusSettings:
    """Where Milvus is, what it calls the collection to serve, and how many seconds one of its answers may take.

    `uri` is that of a server, or a local file ending in .db for Milvus Lite, which one process at a time may open.
    """

    uri: str
    token: str = field(default="", repr=False)
    alias: str = "reco"
    timeout: float = 2.0

    @property
    def is_file(self) -> bool:
        return self.uri.endswith(".db")


@dataclass(frozen=True)
class Settings:
    """Where to listen, what to serve, with how many processes and threads for large requests in each, and how much to
    take: `max_in_flight` requests, running or waiting, in all processes together. With `api_keys`, a client must
    present one of them, except for health and, with `open_metrics`, metrics. With `milvus`, it answers instead of the
    current build in `artifacts`.
    """

    artifacts: Path = Path("artifacts")
    host: str = "0.0.0.0"
    port: int = 5000
    workers: int = 1
    threads: int = 2
    max_body_bytes: int = 64 * 2**20
    max_in_flight: int = 256
    drain_seconds: int = 5
    reload_seconds: int = 1
    api_keys: tuple[str, ...] = ()
    open_metrics: bool = False
    log_format: str = "console"
    log_level: str = "INFO"
    milvus: MilvusSettings | None = None
    limits: Limits = Limits()


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from `RECO_*` variables; unset or empty means the default. Raises BadSetting naming the variable."""

    def number(name: str, default: int, least: int, most: int) -> int:
        text = environment.get(name) or str(default)
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise BadSetting(f"{name}={text!r}: must be a whole number from {least} to {most}")
        return value

    engine = environment.get("RECO_ENGINE") or "faiss"
    if engine not in ("faiss", "milvus"):
        raise BadSetting(f"RECO_ENGINE={engine!r}: must be faiss or milvus")
    milvus = read_milvus(environment) if engine == "milvus" else None
    workers = number("RECO_WORKERS", 1 if milvus and milvus.is_file else available_cores(), 1, 1024)
    if milvus and milvus.is_file and workers > 1:
        raise BadSetting(
            f"RECO_WORKERS='{workers}': must be 1 where RECO_MILVUS_URI is a file, which only one may open"
        )
    level = environment.get("RECO_LOG_LEVEL") or "info"
    if level.lower() not in _LOG_LEVELS:
        raise BadSetting(f"RECO_LOG_LEVEL={level!r}: must be debug, info, warning, error or critical")
    log_format = environment.get("RECO_LOG_FORMAT") or "console"
    if log_format not in _LOG_FORMATS:
        raise BadSetting(f"RECO_LOG_FORMAT={log_format!r}: must be console or json")
    open_metrics = environment.get("RECO_OPEN_METRICS") or "0"
    if open_metrics not in ("0", "1"):
        raise BadSetting(f"RECO_OPEN_METRICS={open_metrics!r}: must be 0 or 1")
    max_k = number("RECO_MAX_K", 1000, 1, MILVUS_MOST_MATCHES if milvus else 1_000_000)
    return Settings(
        artifacts=Path(environment.get("RECO_ARTIFACTS") or "artifacts"),
        host=environment.get("RECO_HOST") or "0.0.0.0",
        port=number("RECO_PORT", 5000, 0, 65535),
        workers=workers,
        threads=number("RECO_THREADS", _MILVUS_THREADS if milvus else Settings.threads, 1, 1024),
        max_body_bytes=number("RECO_MAX_BODY_MB", 64, 1, 1024) * 2**20,
        max_in_flight=number("RECO_MAX_IN_FLIGHT", Settings.max_in_flight, 1, 1_000_000),
        drain_seconds=number("RECO_DRAIN_SECONDS", Settings.drain_seconds, 0, 3600),
        reload_seconds=number("RECO_RELOAD_SECONDS", Settings.reload_seconds, 0, 86_400),
        api_keys=_keys(environment.get("RECO_API_KEYS") or ""),
        open_metrics=open_metrics == "1",
        log_format=log_format,
        log_level=level.upper(),
        milvus=milvus,
        limits=Limits(
            default_k=number("RECO_DEFAULT_K", min(10, max_k), 1, max_k),
            max_k=max_k,
            max_batch=number("RECO_MAX_BATCH", 10_000, 1, 1_000_000),
        ),
    )


def _keys(text: str) -> tuple[str, ...]:
    """Keys from a list with commas. A message never shows one."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if text and not keys:
        raise BadSetting("RECO_API_KEYS: holds no key")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise BadSetting("RECO_API_KEYS: a key must be of printable ASCII characters")
    return keys


def read_milvus(environment: Mapping[str, str]) -> MilvusSettings:
    """Settings from `RECO_MILVUS_*` variables. Raises BadSetting naming the variable."""
    uri = environment.get("RECO_MILVUS_URI") or ""
    if not re.fullmatch(r"(https?|tcp)://\S+|unix:\S+|.+\.db", uri):
        shown = uri.rpartition("@")[2]  # a user and password may stand before it
        raise BadSetting(f"RECO_MILVUS_URI={shown!r}: must be like http://milvus:19530, or a file ending in .db")
    alias = environment.get("RECO_MILVUS_ALIAS") or MilvusSettings.alias
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", alias):
        raise BadSetting(
            f"RECO_MILVUS_ALIAS={alias!r}: must be at most 100 letters, digits and underscores, no digit first"
        )
    text = environment.get("RECO_MILVUS_TIMEOUT") or str(MilvusSettings.timeout)
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0.01 <= timeout <= 3600:
        raise BadSetting(f"RECO_MILVUS_TIMEOUT={text!r}: must be a number of seconds from 0.01 to 3600")
    return MilvusSettings(uri, environment.get("RECO_MILVUS_TOKEN") or "", alias, timeout)
