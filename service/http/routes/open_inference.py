"""Routes of the Open Inference Protocol, besides health."""

from functools import cache, partial

from flask import Response, request

from service.http import payload
from service.http.open_inference import HEADER_LENGTH, SERVER, InferenceReader, describe_model, write_answers
from service.http.routes.recommendations import limit_matches, observe_batch
from service.http.wsgi import View, read_body, respond
from service.recommender import Serving
from service.settings import Settings


class OpenInference:
    def __init__(self, serving: Serving, settings: Settings):
        self._serving, self._settings = serving, settings
        self._reader_for = cache(partial(InferenceReader, limits=settings.limits))

    def views(self) -> dict[str, View]:
        return {"server": self.server, "model": self.model, "infer_tensors": self.infer}

    def server(self) -> Response:
        return respond(self._serving.recommender, payload.write_json(SERVER))

    def model(self) -> Response:
        recommender = self._serving.recommender
        return respond(recommender, payload.write_json(describe_model(recommender.info.dimension)))

    def infer(self) -> Response:
        recommender, body = self._serving.recommender, read_body(self._settings.max_body_bytes)
        query = self._reader_for(recommender.info.dimension).read(body, request.headers.get(HEADER_LENGTH))
        answers = recommender.recommend(limit_matches(query.users, self._settings.limits))
        observe_batch(answers)
        written, header_length = write_answers(query, answers, recommender.info.products)
        if header_length is None:
            return respond(recommender, written)
        response = respond(recommender, written, "application/octet-stream")
        response.headers[HEADER_LENGTH] = str(header_length)
        return response
