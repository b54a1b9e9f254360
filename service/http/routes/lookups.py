"""Routes that look products up: what the explorer page asks besides `/infer`."""

from flask import Response, request

from service.http import lookups, payload
from service.http.wsgi import USERS, View, read_body, respond
from service.recommender import Serving
from service.settings import Settings


class Lookups:
    def __init__(self, serving: Serving, settings: Settings):
        self._serving, self._settings = serving, settings

    def views(self) -> dict[str, View]:
        return {
            "products": self.products,
            "similar": self.similar,
            "samples": self.samples,
            "landmarks": self.sampled_points,
            "places": self.project,
        }

    def products(self) -> Response:
        recommender = self._serving.recommender
        query = lookups.read_products_query(request.args.to_dict(), self._settings.limits)
        found = recommender.catalogue.starting_with(query.prefix, query.limit)
        return respond(recommender, payload.write_products(found))

    def similar(self) -> Response:
        recommender, body = self._serving.recommender, read_body(self._settings.max_body_bytes)
        query = lookups.read_similar_request(body, self._settings.limits)
        request.environ[USERS] = 1
        return respond(recommender, payload.write_similar(query.ids, lookups.similar(recommender, query)))

    def samples(self) -> Response:
        recommender = self._serving.recommender
        return respond(recommender, payload.write_json({"users": recommender.catalogue.sample_users}))

    def sampled_points(self) -> Response:
        recommender = self._serving.recommender
        return respond(recommender, payload.write_products(recommender.catalogue.landmarks))

    def project(self) -> Response:
        recommender, body = self._serving.recommender, read_body(self._settings.max_body_bytes)
        query = lookups.read_map_request(body, recommender.info.dimension, self._settings.limits)
        return respond(recommender, payload.write_json(lookups.project(recommender.catalogue, query)))
