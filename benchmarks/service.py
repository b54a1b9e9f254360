"""Measure the sample service end to end and print the figures with the machine they were read on."""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from index_builder.artifact import open_current
from index_builder.vectors import unit_vectors

ROOT = Path(__file__).parent.parent
ARTIFACTS = ROOT / "artifacts"
SINGLE_REQUESTS, BATCH_REQUESTS = 1000, 10


def main() -> None:
    users = json.loads((ROOT / "data" / "users_batch.json").read_text())
    vectors = unit_vectors(np.array([user["vector"] for user in users]))
    index = open_current(ARTIFACTS).index
    print(f"machine: {machine()}")
    print(f"catalogue: {index.groups.product_count} products x {index.dimension}, k = 10, one client on loopback\n")

    row("search alone, one user", seconds(lambda i: index.search(vectors[i : i + 1], 10), SINGLE_REQUESTS))
    row("search alone, 1,000 users", seconds(lambda _: index.search(vectors, 10), BATCH_REQUESTS), users=1000)
    bodies = [json.dumps(user).encode() for user in users]
    started = time.perf_counter()
    with service() as port:
        print(f"{'process start to first answer':<32}{time.perf_counter() - started:9.2f} s")
        connection = http.client.HTTPConnection("127.0.0.1", port)
        row("/infer, one user", seconds(lambda i: post(connection, "/infer", bodies[i]), SINGLE_REQUESTS))
        for size in (32, 1000):
            batch = b"[" + b",".join(bodies[:size]) + b"]"
            row(
                f"/batch, {size:,} users",
                seconds(lambda _, b=batch: post(connection, "/batch", b), BATCH_REQUESTS),
                size,
            )


def seconds(call: Callable[[int], object], times: int) -> list[float]:
    """How long each call took, after a warm-up of one in ten."""
    taken = []
    for i in range(-times // 10, times):
        started = time.perf_counter()
        call(max(i, 0))
        taken.append(time.perf_counter() - started)
    return taken[-times:]


def row(label: str, taken: list[float], users: int = 1) -> None:
    median, p99 = statistics.median(taken), float(np.quantile(taken, 0.99))
    print(f"{label:<32}{median * 1e3:9.2f} ms median {p99 * 1e3:9.2f} ms p99 {users / median:10,.0f} users/s")


@contextmanager
def service() -> Iterator[int]:
    """The real service on a free port, stopped again at the end."""
    environment = {**os.environ, "RECO_PORT": "0", "RECO_HOST": "127.0.0.1", "RECO_ARTIFACTS": str(ARTIFACTS)}
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
        post(http.client.HTTPConnection("127.0.0.1", port), "/batch", b"[]")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    connection.request("POST", path, body)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {answer[:200]!r}")
    return answer


if __name__ == "__main__":
    main()
