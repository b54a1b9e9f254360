"""What the service is compared with: an empty route, and the endpoint that everyone starts with.

python -m benchmarks.baselines empty PORT PROCESSES
python -m benchmarks.baselines naive PORT PRODUCTS.npz
"""

import os
import socket
import sys
from pathlib import Path

import numpy as np
import waitress
from flask import Flask, Response, jsonify, request
from marshmallow import EXCLUDE, Schema, fields


def empty(port: int, processes: int) -> None:
    """An empty Flask route under stock waitress, in processes that share a socket."""
    app = Flask(__name__)

    @app.post("/infer")
    def infer() -> str:
        return ""

    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    waitress.serve(app, sockets=[listener], threads=4)


def naive(port: int, products: Path) -> None:
    """Flask's own server, a list of floats checked one by one, all cosines, and a sort."""
    app = Flask(__name__)
    with np.load(products) as arrays:
        ids, names, vectors = arrays["ids"], arrays["names"], arrays["vectors"]

    class User(Schema):
        class Meta:
            unknown = EXCLUDE

        name = fields.Str(required=True)
        vector = fields.List(fields.Float(), required=True)

    def answer_to(user: dict[str, object]) -> dict[str, object]:
        vector = np.array(user["vector"])
        cosines = vectors @ vector / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector))
        order = np.argsort(-cosines)
        answer = {"name": user["name"]}
        for side, rows in (("best", order[:10]), ("worst", order[:-11:-1])):
            answer[side] = [
                {"id": str(ids[i]), "name": str(names[i]), "score": round(float(cosines[i]), 6)} for i in rows
            ]
        return answer

    @app.post("/infer")
    def infer() -> Response:
        return jsonify(answer_to(User().load(request.get_json())))

    @app.post("/batch")
    def batch() -> Response:
        return jsonify([answer_to(user) for user in User(many=True).load(request.get_json())])

    app.run("127.0.0.1", port, threaded=True)


if __name__ == "__main__":
    kind, port, argument = sys.argv[1:]
    if kind == "empty":
        empty(int(port), int(argument))
    else:
        naive(int(port), Path(argument))
