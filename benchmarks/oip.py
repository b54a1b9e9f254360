"""Ask a running service for a thousand users at once, in turns as JSON `/batch` and as tensors, and print the medians.

python -m benchmarks.oip [--products 20000] [--users 1000] [--rounds 15]
"""

import http.client
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.catalogues import draw_users, sources
from benchmarks.processes import build, service
from benchmarks.report import option_parser, print_header, print_machine, print_row
from benchmarks.serve import rounded

K = 10
INFER, HEADER_LENGTH = "/v2/models/reco/infer", "Inference-Header-Content-Length"
BRIEF = ["best_ids", "best_scores"]
ALL = [*BRIEF, "best_names", "worst_ids", "worst_scores", "worst_names"]

Headers = dict[str, str]
Ids = list[list[str]]  # the ids of each user's best products
Cost = tuple[float, float, float, int, int]  # seconds to write, answer and read a request, and bytes there and back


class Way(NamedTuple):
    """How a client asks: `write` makes the body of some vectors (n, d), `read` reads the whole answer."""

    label: str
    path: str
    write: Callable[[NDArray[np.float32]], tuple[bytes, Headers]]
    read: Callable[[bytes, Headers], Ids]


def main() -> None:
    options = option_parser("benchmarks.oip", __doc__, products=20_000, users=1000, rounds=15).parse_args()
    print_machine(", client and server on the same cores")
    with sources(options.products) as directory, service("this revision", build(directory, "artifacts")) as ours:
        costs = in_turns(ours.connection, draw_users(options.users, seed=3), options.rounds)
    print(
        f"{options.users:,} users, {options.products:,} products, k = {K}; medians of {options.rounds} rounds in turns"
    )
    show(costs)


def in_turns(connection: http.client.HTTPConnection, vectors: NDArray[np.float32], rounds: int) -> NDArray[np.float64]:
    """Return the costs (rounds, ways, 5) of each way; all must find the same products."""
    costs: list[tuple[Cost, ...]] = []
    for _ in range(rounds + 1):
        round_costs, found = zip(*(ask(connection, way, vectors) for way in WAYS), strict=True)
        costs.append(round_costs)
        for ids in found:  # float32 may change a score's last decimal, and with it the order of near-ties
            assert np.mean([mine == first for mine, first in zip(ids, found[0], strict=True)]) >= 0.99
    return np.array(costs[1:])  # the first round warms up


def ask(connection: http.client.HTTPConnection, way: Way, vectors: NDArray[np.float32]) -> tuple[Cost, Ids]:
    began = time.perf_counter()
    body, headers = way.write(vectors)
    written = time.perf_counter()
    connection.request("POST", way.path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    answered = time.perf_counter()
    ids = way.read(answer, dict(response.headers))
    taken = time.perf_counter() - answered
    return (written - began, answered - written, taken, len(body), len(answer)), ids


def show(costs: NDArray[np.float64]) -> None:
    parts = ("client writes ms", "answer ms", "client reads ms", "whole ms")
    print_header("way", *parts, "x faster", "MB sent", "MB received")
    whole = costs[:, :, :3].sum(axis=2)
    faster = np.median(whole[:, :1] / whole, axis=0)
    for i, way in enumerate(WAYS):
        seconds = (*np.median(costs[:, i, :3], axis=0), np.median(whole[:, i]))
        milliseconds, megabytes = (f"{each * 1e3:.1f}" for each in seconds), (f"{n / 1e6:.2f}" for n in costs[0, i, 3:])
        print_row(way.label, *milliseconds, f"{faster[i]:.1f}", *megabytes)


def write_batch(dumps: Callable[[object], str | bytes], vectors: NDArray[np.float32]) -> tuple[bytes, Headers]:
    text = dumps([{"name": f"u{i}", "vector": row, "k": K} for i, row in enumerate(rounded(vectors))])
    return text.encode() if isinstance(text, str) else text, {}


def read_batch(loads: Callable[[bytes], Any], answer: bytes, _: Headers) -> Ids:
    return [[match["id"] for match in user["best"]] for user in loads(answer)]


def write_json_tensor(vectors: NDArray[np.float32]) -> tuple[bytes, Headers]:
    return orjson.dumps(request_of(vectors, ALL, data=rounded(vectors))), {}


def write_binary_tensor(outputs: Sequence[str], vectors: NDArray[np.float32]) -> tuple[bytes, Headers]:
    data = vectors.tobytes()
    header = orjson.dumps(request_of(vectors, outputs, parameters={"binary_data_size": len(data)}))
    return header + data, {HEADER_LENGTH: str(len(header))}


def request_of(vectors: NDArray[np.float32], outputs: Sequence[str], **members: Any) -> dict[str, Any]:
    """A request that wants its answer in the form that it has itself."""
    tensor = {"name": "vectors", "datatype": "FP32", "shape": list(vectors.shape), **members}
    parameters = {"k": K, "binary_data_output": "data" not in members}
    return {"inputs": [tensor], "outputs": [{"name": name} for name in outputs], "parameters": parameters}


def read_tensors(answer: bytes, headers: Headers) -> Ids:
    """Reads all tensors, as JSON readers do, and gives the ids."""
    start = int(headers.get(HEADER_LENGTH, len(answer)))
    tensors = {}
    for output in orjson.loads(answer[:start])["outputs"]:
        values = output.get("data")
        if values is None:
            data = answer[start : start + output["parameters"]["binary_data_size"]]
            start += len(data)
            values = texts(data) if output["datatype"] == "BYTES" else np.frombuffer(data, "<f4")
        kind = object if output["datatype"] == "BYTES" else np.float32
        tensors[output["name"]] = np.array(values, kind).reshape(output["shape"])
    return tensors["best_ids"].tolist()


def texts(data: bytes) -> list[str]:
    found, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        found.append(data[start + 4 : end].decode())
        start = end
    return found


WAYS = [
    Way("JSON /batch, json", "/batch", partial(write_batch, json.dumps), partial(read_batch, json.loads)),
    Way("JSON /batch, orjson", "/batch", partial(write_batch, orjson.dumps), partial(read_batch, orjson.loads)),
    Way("JSON tensors, orjson", INFER, write_json_tensor, read_tensors),
    Way("binary tensors, all outputs", INFER, partial(write_binary_tensor, ALL), read_tensors),
    Way("binary tensors, best ids and scores", INFER, partial(write_binary_tensor, BRIEF), read_tensors),
]


if __name__ == "__main__":
    main()
