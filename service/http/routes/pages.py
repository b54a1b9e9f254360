"""Routes of the pages that people read: files that come with the package, read once.

A browser may cache them, and must check each time whether they have changed.
"""

import hashlib
from functools import partial
from importlib import resources

from flask import Response, request

from service.http.openapi import OPERATIONS
from service.http.routes.base import View
from service.recommender import Recommender

_FOLDERS = ("explorer", "docs")  # The operation of `static/docs/docs.html` is `docs_html`.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_views() -> dict[str, View]:
    """Return the view of each file, by the id of its operation."""
    views: dict[str, View] = {}
    for folder in _FOLDERS:
        for file in (resources.files("service.http") / "static" / folder).iterdir():
            operation, content = file.name.replace(".", "_"), file.read_bytes()
            headers = {"Content-Type": OPERATIONS[operation].media_type, **_HEADERS}
            views[operation] = partial(_answer, content, headers, hashlib.sha256(content).hexdigest()[:32])
    return views


def _answer(content: bytes, headers: dict[str, str], etag: str, _: Recommender) -> Response:
    response = Response(content, headers=headers)
    response.set_etag(etag)
    response.make_conditional(request)
    return response
