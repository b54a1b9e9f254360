"""Routes that look products up, which the explorer page uses besides `/infer`."""

from typing import Any

from flask import Response, request

from retrieval.search.reranking.request import ListOptions
from service.engines.shown_fields import ShownFields
from service.errors import UnknownProduct
from service.http import encoding, lookups, metrics
from service.http.requests.misspelt import find_misspelt
from service.http.requests.schemas import load, read_digits
from service.http.requests.text import read_json
from service.http.routes.base import USERS, Routes, View, respond, respond_json
from service.http.routes.recommendations import check_work, name_ignored
from service.recommender import Recommender


class Lookups(Routes):
    def views(self) -> dict[str, View]:
        return {
            "products": self.products,
            "product": self.product,
            "field": self.field,
            "similar": self.similar,
            "samples": self.samples,
            "landmarks": self.sampled_points,
            "places": self.project,
        }

    def products(self, recommender: Recommender) -> Response:
        query = self._load_query(recommender, "ProductsQuery")
        positions = lookups.find_products(recommender.catalogue, **query)
        return respond(recommender, encoding.write_products(recommender.prefixes, positions))

    def product(self, recommender: Recommender) -> Response:
        identifier = request.view_args["id"]  # type: ignore[index]
        positions = recommender.field_engine.positions_of([identifier])
        if positions[0] < 0:
            raise UnknownProduct(f"no product has the id {identifier[:100]!r}")
        return respond_json(recommender, recommender.field_engine.fields_of(positions)[0])

    def field(self, recommender: Recommender) -> Response:
        query = self._load_query(recommender, "FieldQuery")
        name = request.view_args["name"]  # type: ignore[index]
        return respond_json(recommender, lookups.list_values(recommender, name, **query))

    def similar(self, recommender: Recommender) -> Response:
        body = read_json(self.read_body())
        query = self._load(recommender, "SimilarRequest", body, "the body")
        request.environ[USERS] = 1
        check_work(ListOptions(query["k"], diversity=query.get("diversity", 0.0)), self.settings.limits)
        answer = lookups.similar(recommender, **query)
        metrics.observe_answers([answer.outcome._replace(best_score=None)], recommender)  # It is no user's.
        written = encoding.write_similar(recommender.prefixes, query["ids"], answer, self.reserve_answer())
        response = respond(recommender, written)
        name_ignored(response, find_misspelt(body))
        return response

    def samples(self, recommender: Recommender) -> Response:
        return respond_json(recommender, {"users": recommender.catalogue.sample_users})

    def sampled_points(self, recommender: Recommender) -> Response:
        names = [*self._load_query(recommender, "MapQuery").values()]
        positions, points = recommender.catalogue.sampled_points
        fields = ShownFields(recommender.field_engine, positions, names) if names else None
        written = encoding.write_points(recommender.prefixes, positions, points, fields, self.reserve_answer())
        return respond(recommender, written)

    def project(self, recommender: Recommender) -> Response:
        query = self._load(recommender, "MapRequest", read_json(self.read_body()), "the body")
        return respond_json(recommender, lookups.project(recommender.catalogue, **query))

    def _load_query(self, recommender: Recommender, name: str) -> dict[str, Any]:
        """Return the parameters of the request's query, as `_load` does."""
        arguments = request.args.to_dict()
        limit = read_digits(arguments.get("limit", ""))
        number = {} if limit is None else {"limit": limit}
        return self._load(recommender, name, {**arguments, **number}, "a query")

    def _load(self, recommender: Recommender, name: str, value: Any, subject: str) -> dict[str, Any]:
        """Return the fields of a request, given as parsed JSON. Raises BadRequest with every fault."""
        schemas = lookups.request_schemas(recommender.info.dimension, self.settings.limits, recommender.vocabulary)
        return load(schemas[name], value, subject)
