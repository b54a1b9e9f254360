"""Routes that look products up: what the explorer page asks besides `/infer`."""

from typing import Any

from flask import Response, request

from service.http import lookups, payload
from service.http.schemas import load
from service.http.wsgi import USERS, Routes, View, respond
from service.recommender import Recommender


class Lookups(Routes):
    def views(self) -> dict[str, View]:
        return {
            "products": self.products,
            "similar": self.similar,
            "samples": self.samples,
            "landmarks": self.sampled_points,
            "places": self.project,
        }

    def products(self) -> Response:
        recommender, arguments = self.recommender, request.args.to_dict()
        limit = arguments.get("limit", "")
        number = {"limit": int(limit)} if limit.isascii() and limit.isdigit() and len(limit) < 19 else {}
        query = self._load(recommender, "ProductsQuery", {**arguments, **number}, "a query")
        return respond(recommender, payload.write_products(recommender.catalogue.starting_with(**query)))

    def similar(self) -> Response:
        recommender, body = self.recommender, self.read_body()
        query = self._load(recommender, "SimilarRequest", payload.read_json(body), "the body")
        request.environ[USERS] = 1
        return respond(recommender, payload.write_similar(query["ids"], lookups.similar(recommender, **query)))

    def samples(self) -> Response:
        recommender = self.recommender
        return respond(recommender, payload.write_json({"users": recommender.catalogue.sample_users}))

    def sampled_points(self) -> Response:
        recommender = self.recommender
        return respond(recommender, payload.write_products(recommender.catalogue.landmarks))

    def project(self) -> Response:
        recommender, body = self.recommender, self.read_body()
        query = self._load(recommender, "MapRequest", payload.read_json(body), "the body")
        return respond(recommender, payload.write_json(lookups.project(recommender.catalogue, **query)))

    def _load(self, recommender: Recommender, name: str, value: Any, subject: str) -> dict[str, Any]:
        """The fields of a request, given as parsed JSON. Raises BadRequest with every fault."""
        schemas = lookups.request_schemas(recommender.info.dimension, self.settings.limits)
        return load(schemas[name], value, subject)
