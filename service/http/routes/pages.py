"""Routes of the pages that people read: files that come with the package, read once, and the report of the build.

A browser may cache the files, and must check each time whether they have changed.
"""

import hashlib
from functools import partial
from importlib import resources

from flask import Response, abort, request

from service.errors import NoReport
from service.http.routes.base import View, respond
from service.recommender import Recommender

_FOLDERS = ("explorer", "docs")
_PAGES = {"explorer_html": "explorer/explorer.html", "docs_html": "docs/docs.html"}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NO_FRAMES = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_REPORT_POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; {_NO_FRAMES}"  # It has its style within, and no script.
)
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; {_NO_FRAMES}"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_views() -> dict[str, View]:
    """Return the views of the pages and of the files that they load, by the ids of their operations."""
    static = resources.files("service.http") / "static"
    files = {f"{folder}/{file.name}": file.read_bytes() for folder in _FOLDERS for file in (static / folder).iterdir()}
    views = {name: _view(name, content) for name, content in files.items()}

    def page_file(recommender: Recommender) -> Response:
        view = views.get(request.view_args["file"])  # type: ignore[index]
        return view(recommender) if view else abort(404)

    return {"page_file": page_file, "report": _report, **{operation: views[name] for operation, name in _PAGES.items()}}


def _report(recommender: Recommender) -> Response:
    """Return the page that the builder wrote about the build. Raises NoReport."""
    report = recommender.engine.report
    if report is None:
        raise NoReport(f"{recommender.info.build_id} is served without a report")
    response = respond(recommender, report, _MEDIA_TYPES[".html"])
    response.headers["Content-Security-Policy"] = _REPORT_POLICY
    return response


def _view(name: str, content: bytes) -> View:
    headers = {"Content-Type": _MEDIA_TYPES[name[name.rindex(".") :]], **_HEADERS}
    return partial(_answer, content, headers, hashlib.sha256(content).hexdigest()[:32])


def _answer(content: bytes, headers: dict[str, str], etag: str, _: Recommender) -> Response:
    response = Response(content, headers=headers)
    response.set_etag(etag)
    response.make_conditional(request)
    return response
