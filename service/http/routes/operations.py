"""Routes for those who operate the service: health, metrics, the index and the API document."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from flask import Response

from service.http import encoding, metrics
from service.http.open_inference import MODEL
from service.http.openapi import document
from service.http.problems import UNAVAILABLE, problem
from service.http.routes.base import Routes, View, respond
from service.recommender import Serving
from service.settings import Settings


class Operations(Routes):
    def __init__(self, serving: Serving, settings: Settings):
        super().__init__(serving, settings)
        self._document = ("", b"")  # of a build

    def views(self) -> dict[str, View]:
        return {
            "live": lambda: self._respond({"status": "live"}),
            "live_v2": lambda: self._respond({"status": "live", "live": True}),
            "ready": lambda: self._respond_if_ready({"status": "ready"}),
            "ready_v2": lambda: self._respond_if_ready({"status": "ready", "ready": True}),
            "model_ready": lambda: self._respond_if_ready({"name": MODEL, "ready": True}),
            "index": lambda: self._respond(asdict(self.recommender.info)),
            "metrics": self.metrics,
            "openapi": self.openapi,
        }

    def metrics(self) -> Response:
        recommender = self.recommender
        return respond(recommender, metrics.exposition(recommender.info), metrics.CONTENT_TYPE)

    def openapi(self) -> Response:
        recommender = self.recommender
        build_id, written = self._document
        if build_id != recommender.info.build_id:
            written = encoding.write_json(document(recommender, self.settings))
            self._document = (recommender.info.build_id, written)
        return respond(recommender, written)

    def _respond_if_ready(self, body: dict[str, Any]) -> Response:
        if self.serving.draining:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping")
        if not self.recommender.engine.is_available:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE)
        return self._respond(body)

    def _respond(self, body: dict[str, Any]) -> Response:
        return respond(self.recommender, encoding.write_json(body))
