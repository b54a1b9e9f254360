"""Ask a running service for a thousand users at once, in turns as JSON `/batch` and as tensors, and print the medians.

python -m benchmarks.oip [--products 20000] [--users 1000] [--rounds 15]
"""

import argparse
import http.client
import json
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.catalogues import mixtures, sample_users, write_catalogue, write_users
from benchmarks.machine import machine
from benchmarks.processes import ROOT, build, service
from benchmarks.serve import rounded

K = 10
INFER, HEADER_LENGTH = "/v2/models/reco/infer", "Inference-Header-Content-Length"
LENGTH = struct.Struct("<I")
SIDES, COLUMNS = ("best", "worst"), ("ids", "scores", "names")
ALL, BRIEF = [f"{side}_{column}" for side in SIDES for column in COLUMNS], ["best_ids", "best_scores"]

Headers = dict[str, str]
Ids = list[list[str]]  # the ids of each user's best products


@dataclass(frozen=True)
class Way:
    """How a client asks: `write` makes the body of some vectors (n, d), `read` reads the whole answer."""

    label: str
    path: str
    write: Callable[[NDArray[np.float32]], tuple[bytes, Headers]]
    read: Callable[[bytes, Headers], Ids]


@dataclass(frozen=True)
class Cost:
    """Of one request: the seconds until it is written, answered and read, and the bytes there and back."""

    seconds: tuple[float, float, float]
    sent: int
    received: int


def main() -> None:
    options = _parser().parse_args()
    print(f"machine: {machine()}, client and server on the same cores")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_catalogue(directory / "products.npz", options.products)
        write_users(directory / "queries.npz", 5000, seed=2)
        build(ROOT, directory, directory / "artifacts")
        vectors = mixtures(sample_users(), options.users, seed=3)
        with (
            service("this revision", ROOT, directory / "artifacts") as ours,
            closing(http.client.HTTPConnection("127.0.0.1", ours.port)) as connection,
        ):
            costs = in_turns(connection, ways(), vectors, options.rounds)
    print(
        f"{options.users:,} users, {options.products:,} products, k = {K}; medians of {options.rounds} rounds in turns"
    )
    show(costs)


def ways() -> list[Way]:
    return [
        Way("JSON /batch, json", "/batch", partial(write_batch, json_bytes), partial(read_batch, json.loads)),
        Way("JSON /batch, orjson", "/batch", partial(write_batch, orjson.dumps), partial(read_batch, orjson.loads)),
        Way("JSON tensors, orjson", INFER, write_json_tensor, read_tensors),
        Way("binary tensors, all outputs", INFER, partial(write_binary_tensor, ALL), read_tensors),
        Way("binary tensors, best ids and scores", INFER, partial(write_binary_tensor, BRIEF), read_tensors),
    ]


def in_turns(
    connection: http.client.HTTPConnection, asked: Sequence[Way], vectors: NDArray[np.float32], rounds: int
) -> dict[str, list[Cost]]:
    """What each way costs, round by round; all must find the same products."""
    costs: dict[str, list[Cost]] = {way.label: [] for way in asked}
    for number in range(rounds + 1):
        found = []
        for way in asked:
            cost, ids = ask(connection, way, vectors)
            found.append(ids)
            if number:  # the first round warms up
                costs[way.label].append(cost)
        for ids in found:  # float32 may change a score's last decimal, and with it the order of near-ties
            assert np.mean([mine == first for mine, first in zip(ids, found[0], strict=True)]) >= 0.99
    return costs


def ask(connection: http.client.HTTPConnection, way: Way, vectors: NDArray[np.float32]) -> tuple[Cost, Ids]:
    moments = [time.perf_counter()]
    body, headers = way.write(vectors)
    moments.append(time.perf_counter())
    connection.request("POST", way.path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    moments.append(time.perf_counter())
    ids = way.read(answer, dict(response.headers))
    moments.append(time.perf_counter())
    began, written, answered, taken = moments
    return Cost((written - began, answered - written, taken - answered), len(body), len(answer)), ids


def show(costs: dict[str, list[Cost]]) -> None:
    print("| way | client writes ms | answer ms | client reads ms | whole ms | x faster | MB sent | MB received |")
    print("|---|---|---|---|---|---|---|---|")
    reference = costs[next(iter(costs))]
    for label, of_rounds in costs.items():
        parts = [median(cost.seconds[part] for cost in of_rounds) * 1e3 for part in range(3)]
        whole = median(sum(cost.seconds) for cost in of_rounds) * 1e3
        faster = median(sum(old.seconds) / sum(new.seconds) for old, new in zip(reference, of_rounds, strict=True))
        sizes = " | ".join(f"{size / 1e6:.2f}" for size in (of_rounds[0].sent, of_rounds[0].received))
        print(f"| {label} | {' | '.join(f'{part:.1f}' for part in parts)} | {whole:.1f} | {faster:.1f} | {sizes} |")


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def write_batch(dumps: Callable[[object], bytes], vectors: NDArray[np.float32]) -> tuple[bytes, Headers]:
    users = [{"name": f"u{i}", "vector": row, "k": K} for i, row in enumerate(rounded(vectors))]
    return dumps(users), {}


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
    found, at = [], 0
    while at < len(data):
        (length,) = LENGTH.unpack_from(data, at)
        found.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oip", description=__doc__)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    return parser


if __name__ == "__main__":
    main()
