"""The pages that people read: files that come with the package, read once."""

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
    "/": "explorer/explorer.html",
    "/explorer.css": "explorer/explorer.css",
    "/explorer.js": "explorer/explorer.js",
    "/explorer.svg": "explorer/explorer.svg",
    "/docs": "docs/docs.html",
    "/docs/docs.css": "docs/docs.css",
    "/docs/docs.js": "docs/docs.js",
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
    directory = resources.files("service.http") / "static"
    return {route: _page(directory.joinpath(name).read_bytes(), route) for route, name in PAGES.items()}


def media_type(route: str) -> str:
    return _TYPES[PAGES[route].rpartition(".")[2]]


def _page(content: bytes, route: str) -> Page:
    headers = {
        "Content-Type": media_type(route),
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(content, headers, hashlib.sha256(content).hexdigest()[:32])
