"""Routes for those who operate the service: health, metrics, the index and the API document."""

from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Response

from service.http import encoding, metrics
from service.http.open_inference import MODEL
from service.http.openapi import describe_index, document
from service.http.problems import UNAVAILABLE, problem
from service.http.routes.base import Routes, View, respond, respond_json
from service.recommender import Recommender, Serving
from service.settings import Settings


class Operations(Routes):
    def __init__(self, settings: Settings, serving: Serving):
        super().__init__(settings)
        self._serving, self._document = serving, ("", b"")  # A build id, and the document of that build.

    def views(self) -> dict[str, View]:
        return {
            "live": partial(self._respond_if_live, {"status": "live"}),
            "live_v2": partial(self._respond_if_live, {"status": "live", "live": True}),
            "ready": partial(self._respond_if_ready, {"status": "ready"}),
            "ready_v2": partial(self._respond_if_ready, {"status": "ready", "ready": True}),
            "model_ready": partial(self._respond_if_ready, {"name": MODEL, "ready": True}),
            "index": lambda recommender: respond_json(recommender, describe_index(recommender)),
            "metrics": self.metrics,
            "openapi": self.openapi,
        }

    def metrics(self, recommender: Recommender) -> Response:
        return respond(recommender, metrics.exposition(recommender.info), metrics.CONTENT_TYPE)

    def openapi(self, recommender: Recommender) -> Response:
        build_id, written = self._document
        if build_id != recommender.info.build_id:
            written = encoding.write_json(document(recommender, self.settings))
            self._document = (recommender.info.build_id, written)
        return respond(recommender, written)

    def _respond_if_live(self, body: dict[str, Any], recommender: Recommender) -> Response:
        if self._serving.is_stuck():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "requests wait, and no thread takes them")
        return respond_json(recommender, body)

    def _respond_if_ready(self, body: dict[str, Any], recommender: Recommender) -> Response:
        if self._serving.draining:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping")
        if not recommender.engine.is_available:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE)
        return respond_json(recommender, body)
