"""The service's settings: a schema of `RECO_*` variables, read once into frozen objects."""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.cores import available_cores, available_memory
from service.errors import BadSetting

MILVUS_MAX_MATCHES = 16_384  # Milvus finds no more in one search.
MILVUS_INDEXES = ("FLAT", "HNSW", "IVF_FLAT")  # The first is the default.
MAX_DEFAULT_MEMORY_MB = 1024
_MILVUS_THREADS = 16  # They wait for Milvus rather than compute.
# What Kubernetes injects into containers for a Service whose name is reco or begins with reco-.
_KUBERNETES_NAMES = re.compile(
    r"RECO(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_PORT_HINT = "; Kubernetes sets it for a Service named reco, unless enableServiceLinks is false"

Environment = Mapping[str, str]
Parse = Callable[[str, Environment], Any]


@dataclass(frozen=True)
class Setting:
    """A variable: its default, what it is for, and how its text is read.

    `parse` may look at other variables too, and raises ValueError saying what the text must be. `derive` finds the
    default where it depends on those or on the machine.
    """

    name: str
    default: object
    sentence: str
    parse: Parse = lambda text, _: text
    derive: Callable[[Environment], object] | None = None
    is_secret: bool = False

    def text(self, environment: Environment) -> str:
        """Return what the variable says, or would say if the default were given; unset and empty are the same."""
        return environment.get(self.name) or str(self.derive(environment) if self.derive else self.default)

    def show(self, environment: Environment) -> str:
        """Return the text as it may be printed: without a secret, and without the user and password of an address."""
        text = self.text(environment)
        if self.is_secret:
            return "set, not shown" if text else ""
        return text.rpartition("@")[2] if self.name.endswith("_URI") else text

    def read(self, environment: Environment) -> Any:
        try:
            return self.parse(self.text(environment), environment)
        except ValueError as error:
            shown = "" if self.is_secret else f"={self.show(environment)!r}"
            raise BadSetting(f"{self.name}{shown}: {error}") from error


def _number(minimum: float, maximum: float | Callable[[Environment], float], unit: int = 1, hint: str = "") -> Parse:
    """Read how many units: a whole number if the minimum is one, otherwise seconds with fractions."""
    kind = type(minimum)

    def parse(text: str, environment: Environment) -> float:
        limit = maximum(environment) if callable(maximum) else maximum
        try:
            number = kind(text)
        except ValueError:
            number = kind(-1)
        if not minimum <= number <= limit:
            noun = "a whole number" if kind is int else "a number of seconds"
            raise ValueError(f"must be {noun} from {minimum:g} to {limit}{hint if '://' in text else ''}")
        return number * unit

    return parse


def _workers(text: str, environment: Environment) -> Any:
    workers = _number(1, 1024)(text, environment)
    if workers > 1 and _is_file(environment):
        raise ValueError("must be 1 where RECO_MILVUS_URI is a file, which only one may open")
    return workers


def _text(pattern: str, requirement: str = "", convert: Callable[[str], Any] = str) -> Parse:
    def parse(text: str, _environment: Environment) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {requirement or pattern.replace('|', ' or ')}")
        return convert(text)

    return parse


def _api_keys(text: str, _environment: Environment) -> tuple[str, ...]:
    """Read a list with commas; one may follow the last key."""
    keys = tuple(key.strip() for key in text.strip().removesuffix(",").split(",")) if text else ()
    if text and not any(keys):
        raise ValueError("holds no key")
    if not all(keys):
        raise ValueError("holds an empty key")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise ValueError("a key must be of printable ASCII characters")
    return keys


def _milvus_uri(text: str, environment: Environment) -> Any:
    if not text and not _is_milvus(environment):
        return ""
    kinds = r"(https?|tcp)://\S+|unix:\S+|.+\.db"
    return _text(kinds, "like http://milvus:19530, or a file ending in .db")(text, environment)


def _is_milvus(environment: Environment) -> bool:
    return environment.get("RECO_ENGINE") == "milvus"


def _is_file(environment: Environment) -> bool:
    return _is_milvus(environment) and environment.get("RECO_MILVUS_URI", "").endswith(".db")


def _max_k(environment: Environment) -> int:
    return int(environment.get("RECO_MAX_K") or 1000)


def _list(word: str, requirement: str) -> Parse:
    words = rf"(?i)({word})(\s*,\s*({word}))*|"
    return _text(words, f"{requirement}, with commas between them", lambda text: tuple(re.findall(word, text.lower())))


_ALIAS = _text("[A-Za-z_][A-Za-z0-9_]{0,99}", "at most 100 letters, digits and underscores, no digit first")


def _setting(
    name: str, default: Any, sentence: str, parse: Parse = lambda text, _: text, value: Any = None, **options: Any
) -> Any:
    """Declare a field with the variable that sets it; `value` is the field's default, otherwise read from `default`."""
    setting = Setting(name, default, sentence, parse, **options)
    value = value or parse(str(default), {})
    return field(default=value, repr=not setting.is_secret, metadata={"setting": setting})


@dataclass(frozen=True)
class Limits:
    """What one request may ask for: k matches a side, `users_times_k` in a whole batch, and `max_ids` products."""

    max_k: int = _setting(
        "RECO_MAX_K",
        1000,
        f"Most matches a side that a user may ask for; at most {MILVUS_MAX_MATCHES} with `milvus`.",
        _number(1, lambda environment: MILVUS_MAX_MATCHES if _is_milvus(environment) else 1_000_000),
    )
    default_k: int = _setting(
        "RECO_DEFAULT_K",
        10,
        "Matches a side for users that do not say; at most `RECO_MAX_K`.",
        _number(1, _max_k),
        derive=lambda environment: min(10, _max_k(environment)),
    )
    users_times_k: int = 1_000_000
    max_batch: int = _setting(
        "RECO_MAX_BATCH", 10_000, f"Users in a batch; users x k is at most {users_times_k:,}.", _number(1, 1_000_000)
    )
    max_ids: int = 1000
    max_completions: int = 100


@dataclass(frozen=True)
class MilvusSettings:
    """Where Milvus is and what it serves; `timeout` is in seconds. One process at a time may open a file as `uri`."""

    uri: str = _setting("RECO_MILVUS_URI", "", "Milvus: a server, or a file ending in .db.", _milvus_uri)
    token: str = _setting("RECO_MILVUS_TOKEN", "", "Credentials for Milvus, such as `user:password`.", is_secret=True)
    alias: str = _setting("RECO_MILVUS_ALIAS", "reco", "What Milvus calls the collection to serve.", _ALIAS)
    timeout: float = _setting("RECO_MILVUS_TIMEOUT", 2.0, "Seconds for one answer of Milvus.", _number(0.01, 3600))


@dataclass(frozen=True)
class Settings:
    """All settings of a service; with `milvus`, that answers instead of the current build in `artifacts`."""

    artifacts: Path = _setting(  # noqa: RUF009 (it returns a field)
        "RECO_ARTIFACTS", "artifacts", "Artifacts root, which holds the builds.", lambda text, _: Path(text)
    )
    host: str = _setting("RECO_HOST", "0.0.0.0", "Address to listen on.")
    port: int = _setting(
        "RECO_PORT", 5000, "Port to listen on; 0 takes a free one.", _number(0, 65_535, hint=_PORT_HINT)
    )
    workers: int = _setting(
        "RECO_WORKERS",
        "cores that the container may use",
        "Worker processes.",
        _workers,
        value=1,
        derive=lambda environment: 1 if _is_file(environment) else available_cores(),
    )
    threads: int = _setting(
        "RECO_THREADS",
        2,
        f"Threads for large requests in each worker; {_MILVUS_THREADS} by default with `milvus`.",
        _number(1, 1024),
        derive=lambda environment: _MILVUS_THREADS if _is_milvus(environment) else 2,
    )
    max_body_bytes: int = _setting(
        "RECO_MAX_BODY_MB", 64, "Largest body of a request, in units of 1,048,576 bytes.", _number(1, 1024, unit=2**20)
    )
    max_in_flight: int = _setting(
        "RECO_MAX_IN_FLIGHT", 256, "Requests running or waiting, in all workers together.", _number(1, 1_000_000)
    )
    memory_bytes: int = _setting(
        "RECO_MEMORY_MB",
        "a quarter of the container's or machine's memory, at most 1,024",
        "Requests being received or worked on and answers not yet taken, in units of 1,048,576 bytes.",
        _number(16, 1_048_576, unit=2**20),
        value=MAX_DEFAULT_MEMORY_MB * 2**20,
        derive=lambda _: max(16, min(MAX_DEFAULT_MEMORY_MB, available_memory() // 4 // 2**20)),
    )
    keep_alive_seconds: int = _setting(
        "RECO_KEEP_ALIVE_SECONDS", 75, "Whole seconds until an idle connection is closed.", _number(1, 3600)
    )
    drain_seconds: int = _setting(
        "RECO_DRAIN_SECONDS", 5, "Whole seconds from SIGTERM until connections are refused.", _number(0, 3600)
    )
    watchdog_seconds: int = _setting(
        "RECO_WATCHDOG_SECONDS",
        10,
        "Whole seconds until a worker that hangs is replaced, at least 3; 0: never.",
        # A sound worker ticks every second, and has some more on a busy machine.
        _text("0|[3-9]|[1-9][0-9]{1,3}", "0, or a whole number from 3 to 9999", int),
    )
    reload_seconds: float = _setting(
        "RECO_RELOAD_SECONDS", 0.2, "How soon a new build is noticed; 0: only on SIGHUP.", _number(0.0, 86_400)
    )
    api_keys: tuple[str, ...] = _setting(
        "RECO_API_KEYS", "", "API keys, separated by commas.", _api_keys, is_secret=True
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "RECO_ALLOWED_HOSTS",
        "",
        "Hosts that requests may be for; any by default, but on a loopback address `localhost` and literal addresses.",
        _list(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", "host names without ports"),
    )
    cors_origins: tuple[str, ...] = _setting(
        "RECO_CORS_ORIGINS",
        "",
        "Origins of pages that may ask from a browser, beside the service's own.",
        _list(r"https?://[^/,\s]+", "origins such as https://shop.example"),
    )
    open_metrics: bool = _setting(
        "RECO_OPEN_METRICS", "0", "1: `/metrics` needs no key.", _text("0|1", convert="1".__eq__)
    )
    log_format: str = _setting("RECO_LOG_FORMAT", "console", "`console` or `json`.", _text("console|json"))
    log_level: str = _setting(
        "RECO_LOG_LEVEL",
        "info",
        "`debug`, `info`, `warning`, `error` or `critical`.",
        _text("(?i)debug|info|warning|error|critical", "debug, info, warning, error or critical", str.upper),
    )
    milvus: MilvusSettings | None = None
    limits: Limits = Limits()


def _declared(kind: type) -> dict[str, Setting]:
    return {each.name: each.metadata["setting"] for each in fields(kind) if each.metadata}


_ENGINE = Setting("RECO_ENGINE", "faiss", "What searches: `faiss` or `milvus`.", _text("faiss|milvus"))
SCHEMA = (*_declared(Settings).values(), *_declared(Limits).values(), _ENGINE, *_declared(MilvusSettings).values())


def environment_with(overrides: Mapping[str, str | None]) -> dict[str, str]:
    """Return the process's environment, with the overrides that are not empty."""
    return {**os.environ, **{name: text for name, text in overrides.items() if text}}


def read_settings(environment: Environment) -> Settings:
    """Read and check all settings. Raises BadSetting, naming the variable, and its value unless that is secret."""
    _refuse_unknown(environment)
    _ENGINE.read(environment)
    limits, milvus = _read(Limits, environment), _read(MilvusSettings, environment)
    return _read(Settings, environment, limits=limits, milvus=milvus if _is_milvus(environment) else None)


def read_milvus(environment: Environment) -> MilvusSettings:
    """Read the settings of Milvus, whatever the engine is. Raises BadSetting."""
    return _read(MilvusSettings, {**environment, "RECO_ENGINE": "milvus"})


def _read(kind: type, environment: Environment, **others: Any) -> Any:
    return kind(**{name: setting.read(environment) for name, setting in _declared(kind).items()}, **others)


def _refuse_unknown(environment: Environment) -> None:
    known = [setting.name for setting in SCHEMA]
    for name in sorted(environment):
        if name.startswith("RECO_") and name not in known and not _KUBERNETES_NAMES.fullmatch(name):
            [nearest] = difflib.get_close_matches(name, known, 1, cutoff=0)
            raise BadSetting(f"{name}: there is no such setting; the nearest is {nearest}")
