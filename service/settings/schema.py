"""The settings by name, type, default, range and sentence: the frozen objects that the service is given."""

from dataclasses import dataclass
from pathlib import Path

from retrieval.cores import available_cores
from service.cores import available_memory
from service.settings.parsers import list_of, matching, number, parse_api_keys, parse_share
from service.settings.rules import (
    MILVUS_MAX_MATCHES,
    configured_max_k,
    is_milvus,
    is_milvus_file,
    max_matches,
    parse_filter,
    parse_milvus_uri,
    parse_workers,
)
from service.settings.setting import Setting, setting, settings_of

MILVUS_INDEXES = ("FLAT", "HNSW", "IVF_FLAT")  # The first is the default.
_MAX_DEFAULT_MEMORY_MB = 1024
_MILVUS_THREADS = 16  # They wait for Milvus rather than compute.
_PORT_HINT = "; Kubernetes sets it for a Service named reco, unless enableServiceLinks is false"
_ALIAS = matching("[A-Za-z_][A-Za-z0-9_]{0,99}", "at most 100 letters, digits and underscores, no digit first")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: k matches a side, `users_times_k` in a whole batch, and `max_ids` products."""

    max_k: int = setting(
        "RECO_MAX_K",
        1000,
        f"Most matches a side that a user may ask for; at most {MILVUS_MAX_MATCHES} with `milvus`.",
        number(1, max_matches),
    )
    default_k: int = setting(
        "RECO_DEFAULT_K",
        10,
        "Matches a side for users that do not say; at most `RECO_MAX_K`.",
        number(1, configured_max_k),
        derive=lambda environment: min(10, configured_max_k(environment)),
    )
    users_times_k: int = 1_000_000
    max_batch: int = setting(
        "RECO_MAX_BATCH",
        10_000,
        f"Users in a batch; users x k is at most {users_times_k:,}; with diversity, k counts ten times and more.",
        number(1, 1_000_000),
    )
    max_ids: int = 1000
    max_completions: int = 100


@dataclass(frozen=True)
class MilvusSettings:
    """Where Milvus is and what it serves; `timeout` is in seconds. One process at a time may open a file as `uri`."""

    uri: str = setting("RECO_MILVUS_URI", "", "Milvus: a server, or a file ending in .db.", parse_milvus_uri)
    token: str = setting("RECO_MILVUS_TOKEN", "", "Credentials for Milvus, such as `user:password`.", is_secret=True)
    alias: str = setting("RECO_MILVUS_ALIAS", "reco", "What Milvus calls the collection to serve.", _ALIAS)
    timeout: float = setting("RECO_MILVUS_TIMEOUT", 2.0, "Seconds for one answer of Milvus.", number(0.01, 3600))


@dataclass(frozen=True)
class Settings:
    """All settings of a service; with `milvus`, that answers instead of the current build in `artifacts`."""

    artifacts: Path = setting(  # noqa: RUF009 (it returns a field)
        "RECO_ARTIFACTS", "artifacts", "Artifacts root, which holds the builds.", lambda text, _: Path(text)
    )
    filter: str = setting(
        "RECO_FILTER", "", "Filter as JSON: only products that match it are ever found or shown.", parse_filter
    )
    require_embedding_model: bool = setting(
        "RECO_REQUIRE_EMBEDDING_MODEL",
        "0",
        "1: requests that bring vectors, and offline batches, must name the build's embedding model.",
        matching("0|1", convert="1".__eq__),
    )
    recall_share: float = setting(
        "RECO_RECALL_SHARE", 0.001, "Share of users answered again, exactly, to measure recall; 0: none.", parse_share
    )
    host: str = setting("RECO_HOST", "0.0.0.0", "Address to listen on; `::` takes IPv6 and IPv4.")
    port: int = setting("RECO_PORT", 5000, "Port to listen on; 0 takes a free one.", number(0, 65_535, hint=_PORT_HINT))
    workers: int = setting(
        "RECO_WORKERS",
        "cores that the container may use",
        "Worker processes.",
        parse_workers,
        value=1,
        derive=lambda environment: 1 if is_milvus_file(environment) else available_cores(),
    )
    threads: int = setting(
        "RECO_THREADS",
        2,
        f"Threads for large requests in each worker; {_MILVUS_THREADS} by default with `milvus`.",
        number(1, 1024),
        derive=lambda environment: _MILVUS_THREADS if is_milvus(environment) else 2,
    )
    max_body_bytes: int = setting(
        "RECO_MAX_BODY_MB", 64, "Largest body of a request, in units of 1,048,576 bytes.", number(1, 1024, unit=2**20)
    )
    max_in_flight: int = setting(
        "RECO_MAX_IN_FLIGHT", 256, "Requests running or waiting, in all workers together.", number(1, 1_000_000)
    )
    memory_bytes: int = setting(
        "RECO_MEMORY_MB",
        "a quarter of the container's or machine's memory, at most 1,024",
        "Requests being received or worked on and answers not yet taken, in units of 1,048,576 bytes.",
        number(16, 1_048_576, unit=2**20),
        value=_MAX_DEFAULT_MEMORY_MB * 2**20,
        derive=lambda _: max(16, min(_MAX_DEFAULT_MEMORY_MB, available_memory() // 4 // 2**20)),
    )
    keep_alive_seconds: int = setting(
        "RECO_KEEP_ALIVE_SECONDS", 75, "Whole seconds until an idle connection is closed.", number(1, 3600)
    )
    drain_seconds: int = setting(
        "RECO_DRAIN_SECONDS", 5, "Whole seconds from SIGTERM until connections are refused.", number(0, 3600)
    )
    watchdog_seconds: int = setting(
        "RECO_WATCHDOG_SECONDS",
        10,
        "Whole seconds until a worker that hangs is replaced, at least 3; 0: never.",
        # A healthy worker ticks every second, and has some more on a busy machine.
        matching("0|[3-9]|[1-9][0-9]{1,3}", "0, or a whole number from 3 to 9999", int),
    )
    reload_seconds: float = setting(
        "RECO_RELOAD_SECONDS", 0.2, "How soon a new build is noticed; 0: only on SIGHUP.", number(0.0, 86_400)
    )
    api_keys: tuple[str, ...] = setting(
        "RECO_API_KEYS", "", "API keys, separated by commas.", parse_api_keys, is_secret=True
    )
    allowed_hosts: tuple[str, ...] = setting(
        "RECO_ALLOWED_HOSTS",
        "",
        "Hosts that requests may be for; any by default, but on a loopback address `localhost` and literal addresses.",
        list_of(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", "host names without ports"),
    )
    cors_origins: tuple[str, ...] = setting(
        "RECO_CORS_ORIGINS",
        "",
        "Origins of pages that may ask from a browser, beside the service's own.",
        list_of(r"https?://[^/,\s]+", "origins such as https://shop.example"),
    )
    open_metrics: bool = setting(
        "RECO_OPEN_METRICS", "0", "1: `/metrics` needs no key.", matching("0|1", convert="1".__eq__)
    )
    log_format: str = setting("RECO_LOG_FORMAT", "console", "`console` or `json`.", matching("console|json"))
    log_level: str = setting(
        "RECO_LOG_LEVEL",
        "info",
        "`debug`, `info`, `warning`, `error` or `critical`.",
        matching("(?i)debug|info|warning|error|critical", "debug, info, warning, error or critical", str.upper),
    )
    milvus: MilvusSettings | None = None
    limits: Limits = Limits()


ENGINE = Setting("RECO_ENGINE", "faiss", "What searches: `faiss` or `milvus`.", matching("faiss|milvus"))
SCHEMA = (*settings_of(Settings).values(), *settings_of(Limits).values(), ENGINE, *settings_of(MilvusSettings).values())
