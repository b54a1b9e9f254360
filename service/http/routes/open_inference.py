"""Routes of the Open Inference Protocol, besides health."""

from flask import Response, request

from service.http.open_inference import HEADER_LENGTH, SERVER, describe_model, read_request, write_tensors
from service.http.routes.base import Routes, View, respond, respond_json
from service.http.routes.recommendations import limit_matches, observe_batch
from service.recommender import Recommender


class OpenInference(Routes):
    def views(self) -> dict[str, View]:
        return {"server": self.server, "model": self.model, "infer_tensors": self.infer}

    def server(self, recommender: Recommender) -> Response:
        return respond_json(recommender, SERVER)

    def model(self, recommender: Recommender) -> Response:
        return respond_json(recommender, describe_model(recommender.info.dimension))

    def infer(self, recommender: Recommender) -> Response:
        header_length, limits = request.headers.get(HEADER_LENGTH), self.settings.limits
        dimension, vocabulary = recommender.info.dimension, recommender.vocabulary
        query = read_request(self.read_body(), header_length, dimension, limits, vocabulary)
        answers = recommender.recommend(limit_matches([query.users], limits))
        observe_batch(recommender, len(answers), [answer.outcome for answer in answers])
        written, json_length = write_tensors(query, answers, recommender)
        if json_length is None:
            return respond(recommender, written)
        response = respond(recommender, written, "application/octet-stream")
        response.headers[HEADER_LENGTH] = str(json_length)
        return response
