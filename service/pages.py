"""The explorer page: files that come with the package, read once."""

import hashlib
from dataclasses import dataclass
from importlib import resources

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PAGES = {
    "/": "explorer.html",
    "/explorer.css": "explorer.css",
    "/explorer.js": "explorer.js",
    "/explorer.svg": "explorer.svg",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Page:
    content: bytes
    headers: dict[str, str]
    etag: str


def read_pages() -> dict[str, Page]:
    """The page of each route. A browser may keep them, and must ask each time whether they still hold."""
    directory = resources.files("service") / "explorer"
    return {route: _page((directory / name).read_bytes(), name) for route, name in PAGES.items()}


def _page(content: bytes, name: str) -> Page:
    headers = {
        "Content-Type": _TYPES[name.rpartition(".")[2]],
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(content, headers, hashlib.sha256(content).hexdigest()[:32])
