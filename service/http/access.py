"""Who may ask: API keys, the host that a request is for, and the origin of the page that sends it."""

import hmac
import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from service.errors import ForeignHost, ForeignOrigin, Unauthorized
from service.http.openapi import HEALTH_ROUTES, open_routes, route_of
from service.settings import Settings

_SENT = (
    "Authorization, Content-Encoding, Content-Type, Inference-Header-Content-Length, Traceparent, X-API-Key, "
    "X-Embedding-Model, X-Request-ID"
)
_READ = (
    "Accept-Encoding, ETag, Inference-Header-Content-Length, Retry-After, WWW-Authenticate, X-Batch-Errors, "
    "X-Embedding-Model, X-Ignored-Fields, X-Index-Version, X-Request-ID"
)
_CORS = [
    ("Access-Control-Allow-Methods", "GET, POST"),
    ("Access-Control-Allow-Headers", _SENT),
    ("Access-Control-Expose-Headers", _READ),
    ("Access-Control-Max-Age", "600"),
]
_MAX_CACHED_NAMES = 256

Headers = Mapping[str, str]  # by name in capitals, with underscores


class Access:
    """Checks API keys. Health stays open, and so do the pages, which have no data and let people enter a key."""

    def __init__(self, settings: Settings):
        self._keys = [key.encode() for key in settings.api_keys]
        self._open_routes = open_routes(settings)
        self._hosts, self._origins = settings.allowed_hosts, settings.cors_origins
        self._is_local = settings.host == "localhost" or _is_loopback(settings.host)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Raise ForeignHost, ForeignOrigin or Unauthorized. Probes may ask for health by any name."""
        if path in HEALTH_ROUTES:
            return
        host, origin = headers.get("HOST", "").lower(), headers.get("ORIGIN", "").lower()
        if not self._serves_host(host):
            raise ForeignHost(f"the service does not serve the host {host[:100]!r}")
        if origin and origin not in self._origins and origin not in (f"http://{host}", f"https://{host}"):
            raise ForeignOrigin(f"pages of {origin[:100]!r} may not ask here")
        is_preflight = method == "OPTIONS" and origin in self._origins  # which browsers send without a key
        if self._keys and route_of(path) not in self._open_routes and not is_preflight:
            self._check_key(headers.get("AUTHORIZATION", ""), headers.get("X_API_KEY", ""))

    def cors_headers(self, headers: Headers) -> list[tuple[str, str]]:
        """Return the headers by which a browser lets a page of another origin see the answer."""
        if not self._origins:
            return []
        origin = headers.get("ORIGIN", "")
        allowed = [("Access-Control-Allow-Origin", origin), *_CORS] if origin.lower() in self._origins else []
        return [*allowed, ("Vary", "Origin")]

    def _serves_host(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts:
            return name in self._hosts
        # A page whose name resolves to this machine sends its own name, and so cannot read what is served here.
        return not self._is_local or name in ("", "localhost") or _is_address(name)

    def _check_key(self, authorization: str, x_api_key: str) -> None:
        """Raise Unauthorized unless one of the two headers holds a key."""
        scheme, _, token = authorization.partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else x_api_key
        if not given:
            raise Unauthorized("an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY")
        # Every key is compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        if not any(matches):
            raise Unauthorized("the API key is not one of those that this service takes")


@lru_cache(_MAX_CACHED_NAMES)
def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name.strip("[]")))
    return False


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
