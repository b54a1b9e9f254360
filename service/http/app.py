"""The WSGI application: the operations of the API document, each answered by its view."""

from collections.abc import Mapping
from functools import partial

from flask import Flask, Response
from werkzeug.routing import BaseConverter

from service.http.openapi import OPERATIONS
from service.http.problems import answer_error
from service.http.routes import views_of
from service.http.routes.base import INDEX_VERSION, View
from service.recommender import Serving
from service.settings import Settings


class _Text(BaseConverter):
    """A part of a path that may be any text, slashes included, as a product's id may."""

    regex, part_isolating = ".+", False


def create_app(serving: Serving, settings: Settings) -> Flask:
    """Return the application over what is served."""
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["text"] = _Text
    add_routes(app, views_of(serving, settings), serving)
    app.register_error_handler(Exception, answer_error)

    @app.after_request
    def complete(response: Response) -> Response:
        response.headers.setdefault(INDEX_VERSION, serving.recommender.info.build_id)
        return response

    return app


def add_routes(app: Flask, views: Mapping[str, View], serving: Serving) -> None:
    """Register the view of each operation. Raises ValueError unless every operation has one, and every view one."""
    unmatched = views.keys() ^ OPERATIONS.keys()
    if unmatched:
        raise ValueError(f"operations without a view, or views without an operation: {sorted(unmatched)}")
    for name, operation in OPERATIONS.items():
        path = operation.path.replace("{", "<text:").replace("}", ">")
        app.add_url_rule(path, name, partial(_answer, views[name], serving), methods=[operation.method])


def _answer(view: View, serving: Serving, **_: str) -> Response:
    return view(serving.recommender)  # Taken once, as a new build may replace it at any time.
