"""The service's settings, read once from environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import BadSetting

_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; k counts matches a side, `users_times_k` those of a whole batch."""

    default_k: int = 10
    max_k: int = 1000
    max_batch: int = 10_000
    users_times_k: int = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Where to listen, what to serve, and how much to take."""

    artifacts: Path = Path("artifacts")
    host: str = "0.0.0.0"
    port: int = 5000
    threads: int = 4
    max_body_bytes: int = 64 * 2**20
    log_level: str = "INFO"
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

    level = environment.get("RECO_LOG_LEVEL") or "info"
    if level.lower() not in _LOG_LEVELS:
        raise BadSetting(f"RECO_LOG_LEVEL={level!r}: must be debug, info, warning, error or critical")
    max_k = number("RECO_MAX_K", 1000, 1, 1_000_000)
    return Settings(
        artifacts=Path(environment.get("RECO_ARTIFACTS") or "artifacts"),
        host=environment.get("RECO_HOST") or "0.0.0.0",
        port=number("RECO_PORT", 5000, 0, 65535),
        threads=number("RECO_THREADS", 4, 1, 1024),
        max_body_bytes=number("RECO_MAX_BODY_MB", 64, 1, 1024) * 2**20,
        log_level=level.upper(),
        limits=Limits(
            default_k=number("RECO_DEFAULT_K", min(10, max_k), 1, max_k),
            max_k=max_k,
            max_batch=number("RECO_MAX_BATCH", 10_000, 1, 1_000_000),
        ),
    )
