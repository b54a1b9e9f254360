"""The WSGI application: the operations of the API document, each answered by its view."""

from collections.abc import Mapping
from functools import partial

from flask import Flask, Response, request
from werkzeug.routing import BaseConverter

from service.errors import BadRequest, Fault
from service.http.openapi import HEALTH_ROUTES, OPERATIONS, VECTOR_OPERATIONS
from service.http.problems import answer_error
from service.http.routes import views_of
from service.http.routes.base import EMBEDDING_MODEL, INDEX_VERSION, View, build_headers
from service.http.routes.content_coding import compress_response
from service.recommender import Recommender, Serving, find_mismatch
from service.settings import Settings


class _Text(BaseConverter):
    """A part of a path that may be any text, slashes included, as a product's id may."""

    regex, part_isolating = ".+", False


def create_app(serving: Serving, settings: Settings) -> Flask:
    """Return the application over what is served."""
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["text"] = _Text
    add_routes(app, views_of(serving, settings), serving, settings.require_embedding_model)
    app.register_error_handler(Exception, answer_error)

    @app.after_request
    def complete(response: Response) -> Response:
        if INDEX_VERSION not in response.headers:
            response.headers.update(build_headers(serving.recommender.info))
        compress_response(response, request.headers.get("Accept-Encoding", ""))
        return response

    return app


def add_routes(app: Flask, views: Mapping[str, View], serving: Serving, requires_model: bool = False) -> None:
    """Register the view of each operation. Raises ValueError unless every operation has one, and every view one.

    Where it `requires_model`, requests that bring vectors must name their embedding model.
    """
    unmatched = views.keys() ^ OPERATIONS.keys()
    if unmatched:
        raise ValueError(f"operations without a view, or views without an operation: {sorted(unmatched)}")
    for name, operation in OPERATIONS.items():
        path = operation.path.replace("{", "<text:").replace("}", ">")
        view = views[name]
        if operation.path not in HEALTH_ROUTES:
            view = partial(_guard, view, requires_model and name in VECTOR_OPERATIONS)
        app.add_url_rule(path, name, partial(_answer, view, serving), methods=[operation.method])


def _answer(view: View, serving: Serving, **_: str) -> Response:
    return view(serving.recommender)  # Taken once, as a new build may replace it at any time.


def _guard(view: View, requires_model: bool, recommender: Recommender) -> Response:
    """Answer a request unless it is about another embedding model than the build's. Raises BadRequest."""
    named = request.headers.get(EMBEDDING_MODEL)
    if mismatch := find_mismatch(recommender.info.embedding_model, named, requires_model):
        raise BadRequest([Fault("embedding_model", f"{EMBEDDING_MODEL}: {mismatch}", "")])
    return view(recommender)
