"""Routes of the Open Inference Protocol, besides health."""

from functools import cache

from flask import Response, request

from service.http import encoding
from service.http.open_inference import HEADER_LENGTH, SERVER, InferenceReader, describe_model, write_tensors
from service.http.routes.base import Routes, View, respond
from service.http.routes.recommendations import limit_matches, observe_batch

_reader_for = cache(InferenceReader)


class OpenInference(Routes):
    def views(self) -> dict[str, View]:
        return {"server": self.server, "model": self.model, "infer_tensors": self.infer}

    def server(self) -> Response:
        return respond(self.recommender, encoding.write_json(SERVER))

    def model(self) -> Response:
        recommender = self.recommender
        return respond(recommender, encoding.write_json(describe_model(recommender.info.dimension)))

    def infer(self) -> Response:
        recommender, body = self.recommender, self.read_body()
        reader = _reader_for(recommender.info.dimension, self.settings.limits)
        query = reader.read(body, request.headers.get(HEADER_LENGTH))
        answers = recommender.recommend(limit_matches(query.blocks(), self.settings.limits))
        observe_batch(answers)
        written, header_length = write_tensors(query, answers, recommender)
        if header_length is None:
            return respond(recommender, written)
        response = respond(recommender, written, "application/octet-stream")
        response.headers[HEADER_LENGTH] = str(header_length)
        return response
