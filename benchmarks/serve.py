"""Drive the real service with wrk, beside an empty route, a naive endpoint and the search alone, and print it all.

python -m benchmarks.serve [--products 20000] [--start 1000000] [--base REVISION]
"""

import argparse
import json
import re
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, sources
from benchmarks.open_loop import open_loop
from benchmarks.processes import ROOT, Service, baseline, build, checkout, family, memory_bytes, service
from benchmarks.report import CORES, option_parser, print_header, print_machine, print_row, seconds
from retrieval.artifact.store import open_current
from retrieval.search.index import ProductIndex
from retrieval.vectors import unit_vectors

CONNECTIONS, BATCHES = (1, 16, 64), (1, 32, 128, 1000)
ROUNDS, WRK_SECONDS, OPEN_SECONDS, BATCH_SECONDS = 3, 4, 6, 2.0
K = 10


class Load(NamedTuple):
    """One run of wrk, or the medians of several."""

    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    failed: float


def main() -> None:
    options = _options()
    print_machine(", wrk and all servers on the same cores")
    with sources(options.products) as directory, ExitStack() as stack:
        users, bodies = draw_users(max(BATCHES), seed=3), directory / "bodies"
        lines = [json.dumps({"name": f"u{i}", "vector": row}) for i, row in enumerate(rounded(users))]
        bodies.write_text("".join(f"{line}\n" for line in lines))
        # Both revisions serve one build, as two builders may choose other kinds of index.
        tree = stack.enter_context(checkout(options.base, directory / "base")) if options.base else ROOT
        artifacts = build(directory, "artifacts", tree=tree)
        ours = stack.enter_context(service("this revision", artifacts))
        if options.base:
            compare(ours, stack.enter_context(service(options.base, artifacts, tree)), bodies)
            return
        current = open_current(artifacts)
        print(f"catalogue: {options.products:,} products, {current.manifest.index.factory}; k = {K}\n")
        with baseline("empty route, stock waitress", "empty", CORES) as empty:
            singles(ours, empty, bodies)
        batches(ours, current.base.index, users, bodies)
        memory(ours)
        with baseline("naive endpoint", "naive", directory / "products.npz") as naive:
            against_naive(ours, naive, bodies)
    if options.start:
        start(options.start)


def singles(ours: Service, empty: Service, bodies: Path) -> None:
    latencies = ("p50 ms", "p99 ms", "p99.9 ms")
    columns = ("connections", "requests/s", "of the empty route", "p50 / the empty route's", *latencies, "failed")
    print_header("POST /infer", *columns)
    peak = 0.0
    for connections in CONNECTIONS:
        servers = (empty, ours)
        loads = in_turns([partial(wrk, server, connections, bodies) for server in servers])
        for server, load in zip(servers, loads, strict=True):
            ratios = f"{load.per_second / loads[0].per_second:.2f}", f"{load.p50_ms / loads[0].p50_ms:.2f}"
            times = [f"{ms:.2f}" for ms in load[1:4]]
            print_row(server.label, connections, f"{load.per_second:,.0f}", *ratios, *times, f"{load.failed:.0f}")
        peak = max(peak, loads[1].per_second)
    print()
    lines = bodies.read_bytes().splitlines()
    print_header("open loop, 64 connections", "requests/s", "p50 ms", "p99 ms", "p99 / p50", "p99.9 ms")
    for share in (0.5, 0.8):
        rounds = [open_loop(ours.port, lines, share * peak, OPEN_SECONDS, 64) for _ in range(ROUNDS)]
        p50, p99, p999 = np.median([np.quantile(taken, (0.5, 0.99, 0.999)) for taken in rounds], axis=0) * 1e3
        figures = f"{p50:.2f}", f"{p99:.2f}", f"{p99 / p50:.1f}", f"{p999:.2f}"
        print_row(f"{share:.0%} of the peak", f"{share * peak:,.0f}", *figures)
    print(flush=True)


def against_naive(ours: Service, naive: Service, bodies: Path) -> None:
    """One connection at a time: with more, the naive endpoint keeps the machine busy long after the measurement."""
    print_header("against the naive endpoint, one connection", "this revision", "naive", "ratio")
    servers = (ours, naive)
    rows = {"POST /infer": [load.per_second for load in in_turns([partial(wrk, each, 1, bodies) for each in servers])]}
    for count in (32, 128):
        rows[f"POST /batch of {count} users"] = [count / median_seconds(post(each, bodies, count)) for each in servers]
    for label, (new, old) in rows.items():
        print_row(f"{label}, users/s", f"{new:,.0f}", f"{old:,.0f}", f"{new / old:.0f}")
    print(flush=True)


def batches(ours: Service, index: ProductIndex, users: NDArray[np.float32], bodies: Path) -> None:
    index.warm()
    times = ("ms", "users/s", "x the search alone", "added us a user")
    print_header("POST /batch, one connection", "users", *times)
    for count in BATCHES:
        threads = 1 if count < 8 else CORES
        search = partial(index.search, unit_vectors(users[:count]), K)
        calls = {"the search alone, in process": partial(median_seconds, search, threads)}
        calls[ours.label] = partial(median_seconds, post(ours, bodies, count))
        calls["vectors as base64"] = partial(median_seconds, post(ours, base64_bodies(bodies), count))
        calls["answers as gzip"] = partial(median_seconds, post(ours, bodies, count, {"Accept-Encoding": "gzip"}))
        rounds = np.array([[call() for call in calls.values()] for _ in range(ROUNDS)])
        for label, taken, ratio in zip(calls, np.median(rounds, 0), np.median(rounds.T / rounds[:, 0], 1), strict=True):
            added = np.median(rounds.T[[*calls].index(label)] - rounds[:, 0]) / count * 1e6
            print_row(
                label, f"{count:,}", f"{taken * 1e3:.2f}", f"{count / taken:,.0f}", f"{ratio:.2f}", f"{added:.0f}"
            )
    print(flush=True)


def memory(ours: Service) -> None:
    print_header("process", "resident MB", "shared with others MB", "its own MB")
    for process_id in family(ours.process_id):
        kinds = memory_bytes(process_id)
        own = kinds["Private_Clean"] + kinds["Private_Dirty"]
        megabytes = [f"{size / 2**20:.0f}" for size in (kinds["Rss"], kinds["Rss"] - own, own)]
        print_row("supervisor" if process_id == ours.process_id else "worker", *megabytes)
    print(flush=True)


def start(products: int) -> None:
    """Start-up time and the memory of workers over a large catalogue."""
    with sources(products) as directory:
        artifacts = build(directory, "artifacts")
        began = time.perf_counter()
        with service("this revision", artifacts) as ours:
            print(f"{products:,} products: ready {time.perf_counter() - began:.1f} s after the start\n")
            memory(ours)


def compare(ours: Service, base: Service, bodies: Path) -> None:
    """Two revisions in turns: how many times the base's speed this one has."""
    print_header(f"against {base.label}", "speed ratio")
    for connections in CONNECTIONS:
        new, old = in_turns([partial(wrk, server, connections, bodies) for server in (ours, base)])
        print_row(f"POST /infer, {connections} connections", f"{new.per_second / old.per_second:.2f}")
    for count in BATCHES:
        calls = [post(server, bodies, count) for server in (ours, base)]
        pairs = [[median_seconds(call) for call in calls] for _ in range(ROUNDS)]
        print_row(f"POST /batch, {count:,} users", f"{median(old / new for new, old in pairs):.2f}")


def wrk(server: Service, connections: int, bodies: Path, duration_seconds: int = WRK_SECONDS) -> Load:
    """Keep so many connections busy for some seconds."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{duration_seconds}s", "--timeout", "10s"]
    script = ["-s", str(ROOT / "benchmarks" / "wrk.lua"), f"http://127.0.0.1:{server.port}/infer", "--", str(bodies)]
    printed = subprocess.run([*command, *script], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^result (.*)$", printed, re.MULTILINE)
    assert found, printed
    facts = json.loads(found[1])
    p50, p99, p999 = (facts[name] / 1e3 for name in ("p50", "p99", "p999"))
    return Load(facts["requests"] / facts["microseconds"] * 1e6, p50, p99, p999, facts["failed"])


def in_turns(runs: Sequence[Callable[[], Load]]) -> list[Load]:
    """Each run's medians over some rounds, so that whatever else the machine does meets them all."""
    return [Load(*medians) for medians in np.median([[run() for run in runs] for _ in range(ROUNDS)], axis=0)]


def median_seconds(call: Callable[[], object], threads: int = CORES) -> float:
    with threadpool_limits(threads):
        call()
        taken: list[float] = []
        while sum(taken) < BATCH_SECONDS and len(taken) < 300:
            taken.append(seconds(call))
    return median(taken)


def base64_bodies(bodies: Path) -> Path:
    """Write the same users with base64 vectors beside the bodies, once; return the file."""
    path = bodies.with_suffix(".base64")
    if not path.exists():
        users = map(json.loads, bodies.read_text().splitlines())
        texts = ((user["name"], np.array(user["vector"], "<f4").tobytes()) for user in users)
        rows = [{"name": name, "vector": b64encode(numbers).decode()} for name, numbers in texts]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def post(server: Service, bodies: Path, count: int, headers: Mapping[str, str] = {}) -> Callable[[], None]:
    """Return what posts the first bodies as a batch, and does little else that would be timed."""
    batch = b"[" + b",".join(bodies.read_bytes().splitlines()[:count]) + b"]"
    all_headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(batch), **headers}
    lines = ["POST /batch HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items()), "", ""]
    request = "\r\n".join(lines).encode() + batch
    connection = socket.create_connection(("127.0.0.1", server.port))
    answers = connection.makefile("rb")

    def ask() -> None:
        connection.sendall(request)
        status, *head = iter(answers.readline, b"\r\n")
        [length] = [line.split()[1] for line in head if line.lower().startswith(b"content-length:")]
        answers.read(int(length))
        assert status.split()[1] == b"200", status

    return ask


def rounded(users: NDArray[np.float32]) -> list[list[float]]:
    return np.round(users.astype(np.float64), 4).tolist()


def _options() -> argparse.Namespace:
    parser = option_parser("benchmarks.serve", __doc__, products=20_000)
    parser.add_argument("--start", type=int, metavar="PRODUCTS", help="also start over a catalogue of so many")
    parser.add_argument("--base", metavar="REVISION", help="compare this revision with another, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    main()
