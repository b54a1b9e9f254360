"""Routes that look products up, which the explorer page uses besides `/infer`."""

from typing import Any

import numpy as np
from flask import Response, request

from service.errors import UnknownProduct
from service.http import encoding, lookups, metrics
from service.http.requests.misspelt import find_misspelt
from service.http.requests.schemas import load, read_digits
from service.http.requests.text import read_json
from service.http.routes.base import USERS, Routes, View, respond, respond_json
from service.http.routes.recommendations import name_ignored
from service.recommender import Recommender


class Lookups(Routes):
    def views(self) -> dict[str, View]:
        return {
            "products": self.products,
            "product": self.product,
            "similar": self.similar,
            "samples": self.samples,
            "landmarks": self.sampled_points,
            "places": self.project,
        }

    def products(self, recommender: Recommender) -> Response:
        arguments = request.args.to_dict()
        limit = read_digits(arguments.get("limit", ""))
        number = {} if limit is None else {"limit": limit}
        query = self._load(recommender, "ProductsQuery", {**arguments, **number}, "a query")
        positions = recommender.catalogue.starting_with(**query)
        return respond(recommender, encoding.write_products(recommender.prefixes, positions))

    def product(self, recommender: Recommender) -> Response:
        identifier = request.view_args["id"]  # type: ignore[index]
        position = recommender.catalogue.find(identifier)
        if position is None:
            raise UnknownProduct(f"no product has the id {identifier[:100]!r}")
        return respond_json(recommender, recommender.field_engine.fields_of(np.array([position]))[0])

    def similar(self, recommender: Recommender) -> Response:
        body = read_json(self.read_body())
        query = self._load(recommender, "SimilarRequest", body, "the body")
        request.environ[USERS] = 1
        answer = lookups.similar(recommender, **query)
        metrics.observe_answers([], [answer.matched], recommender)
        written = encoding.write_similar(recommender.prefixes, query["ids"], answer, self.reserve_answer())
        response = respond(recommender, written)
        name_ignored(response, find_misspelt(body))
        return response

    def samples(self, recommender: Recommender) -> Response:
        return respond_json(recommender, {"users": recommender.catalogue.sample_users})

    def sampled_points(self, recommender: Recommender) -> Response:
        positions, points = recommender.catalogue.sampled_points
        return respond(recommender, encoding.write_points(recommender.prefixes, positions, points))

    def project(self, recommender: Recommender) -> Response:
        query = self._load(recommender, "MapRequest", read_json(self.read_body()), "the body")
        return respond_json(recommender, lookups.project(recommender.catalogue, **query))

    def _load(self, recommender: Recommender, name: str, value: Any, subject: str) -> dict[str, Any]:
        """Return the fields of a request, given as parsed JSON. Raises BadRequest with every fault."""
        schemas = lookups.request_schemas(recommender.info.dimension, self.settings.limits, recommender.vocabulary)
        return load(schemas[name], value, subject)
