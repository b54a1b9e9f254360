"""Drive the real service with wrk, beside an empty route, a naive endpoint and the search alone, and print it all.

python -m benchmarks.serve [--products 20000] [--start 1000000] [--base REVISION]
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import mixtures, sample_users, write_catalogue, write_users
from benchmarks.machine import machine
from benchmarks.open_loop import open_loop
from benchmarks.processes import ROOT, Service, baseline, build, checkout, children, service
from retrieval.artifact.store import open_current
from retrieval.search.index import ProductIndex
from retrieval.vectors import unit_vectors

CONNECTIONS, BATCHES = (1, 16, 64), (1, 32, 128, 1000)
ROUNDS, WRK_SECONDS, OPEN_SECONDS, BATCH_SECONDS = 3, 4, 6, 2.0
WORKERS = len(os.sched_getaffinity(0))
K = 10
SINGLES_HEAD = """\
| POST /infer | connections | requests/s | of the empty route | p50 ms | p99 ms | p99.9 ms | failed |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Load:
    """One run of wrk, or the median of several."""

    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    failed: int


def main() -> None:
    options = _parser().parse_args()
    print(f"machine: {machine()}, wrk and all servers on the same cores")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        write_catalogue(directory / "products.npz", options.products)
        write_users(directory / "queries.npz", 5000, seed=2)
        users = mixtures(sample_users(), max(BATCHES), seed=3)
        bodies = [json.dumps({"name": f"u{i}", "vector": row}).encode() for i, row in enumerate(rounded(users))]
        (directory / "bodies").write_bytes(b"\n".join(bodies) + b"\n")
        build(ROOT, directory, directory / "artifacts")
        ours = stack.enter_context(service("this revision", ROOT, directory / "artifacts"))
        if options.base:
            tree = stack.enter_context(checkout(options.base, directory / "base"))
            build(tree, directory, directory / "base-artifacts")
            base = stack.enter_context(service(options.base, tree, directory / "base-artifacts"))
            compare(ours, base, directory / "bodies", bodies)
            return
        manifest = open_current(directory / "artifacts").manifest
        print(f"catalogue: {options.products:,} products, {manifest.index.factory}; k = {K}\n")
        with baseline("empty route, stock waitress", "empty", WORKERS) as empty:
            singles(ours, empty, directory / "bodies")
        batches(ours, open_current(directory / "artifacts").index, users, bodies)
        memory(ours)
        with baseline("naive endpoint", "naive", directory / "products.npz") as naive:
            against_naive(ours, naive, directory / "bodies", bodies)
    if options.start:
        start(options.start)


def singles(ours: Service, empty: Service, bodies: Path) -> None:
    print(SINGLES_HEAD)
    peak = 0.0
    for connections in CONNECTIONS:
        servers = (empty, ours)
        loads = in_turns([partial(wrk, server, connections, bodies) for server in servers])
        for server, load in zip(servers, loads, strict=True):
            show(server, connections, load, loads[0])
        peak = max(peak, loads[1].per_second)
    print()
    lines = bodies.read_bytes().splitlines()
    print("| open loop, 64 connections | requests/s | p50 ms | p99 ms | p99 / p50 | p99.9 ms |")
    print("|---|---|---|---|---|---|")
    for share in (0.5, 0.8):
        rounds = [open_loop(ours.port, lines, share * peak, OPEN_SECONDS, 64) for _ in range(ROUNDS)]
        p50, p99, p999 = np.median([np.quantile(taken, (0.5, 0.99, 0.999)) for taken in rounds], axis=0) * 1e3
        figures = f"{p50:.2f} | {p99:.2f} | {p99 / p50:.1f} | {p999:.2f}"
        print(f"| {share:.0%} of the peak | {share * peak:,.0f} | {figures} |")
    print(flush=True)


def against_naive(ours: Service, naive: Service, bodies: Path, lines: Sequence[bytes]) -> None:
    """One connection at a time: with more, the naive endpoint keeps the machine busy long after the measurement."""
    print("| against the naive endpoint, one connection | this revision | naive | ratio |")
    print("|---|---|---|---|")
    new, old = in_turns([partial(wrk, server, 1, bodies) for server in (ours, naive)])
    rows = [("POST /infer, users/s", new.per_second, old.per_second)]
    for count in (32, 128):
        body = b"[" + b",".join(lines[:count]) + b"]"
        ours_speed, naive_speed = (count / median_seconds(partial(post, server, body)) for server in (ours, naive))
        rows.append((f"POST /batch of {count} users, users/s", ours_speed, naive_speed))
    for label, ours_speed, naive_speed in rows:
        print(f"| {label} | {ours_speed:,.0f} | {naive_speed:,.0f} | {ours_speed / naive_speed:.0f} |")
    print(flush=True)


def show(server: Service, connections: int, load: Load, reference: Load) -> None:
    print(
        f"| {server.label} | {connections} | {load.per_second:,.0f} | {load.per_second / reference.per_second:.2f}"
        f" | {load.p50_ms:.2f} | {load.p99_ms:.2f} | {load.p999_ms:.2f} | {load.failed} |"
    )


def batches(ours: Service, index: ProductIndex, users: NDArray[np.float32], bodies: Sequence[bytes]) -> None:
    index.warm()
    print("| POST /batch, one connection | users | ms | users/s | x the search alone | added us a user |")
    print("|---|---|---|---|---|---|")
    for count in BATCHES:
        queries, body = unit_vectors(users[:count]), b"[" + b",".join(bodies[:count]) + b"]"
        calls: dict[str, Callable[[], object]] = {
            "the search alone, in process": partial(index.search, queries, K),
            ours.label: partial(post, ours, body),
        }
        medians: dict[str, list[float]] = {label: [] for label in calls}
        for _ in range(ROUNDS):
            for label, call in calls.items():
                medians[label].append(median_seconds(call, single_thread=count < 8))
        alone = statistics.median(medians["the search alone, in process"])
        for label, values in medians.items():
            taken = statistics.median(values)
            print(
                f"| {label} | {count:,} | {taken * 1e3:.2f} | {count / taken:,.0f} | {taken / alone:.2f}"
                f" | {(taken - alone) / count * 1e6:.0f} |"
            )
    print(flush=True)


def memory(ours: Service) -> None:
    print("| process | resident MB | shared with others MB | its own MB |")
    print("|---|---|---|---|")
    for label, process in [
        ("supervisor", ours.process.pid),
        *[("worker", child) for child in children(ours.process.pid)],
    ]:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        sizes = {name: int(size) / 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", rollup, re.MULTILINE)}
        own = sizes["Private_Clean"] + sizes["Private_Dirty"]
        print(f"| {label} | {sizes['Rss']:.0f} | {sizes['Rss'] - own:.0f} | {own:.0f} |")
    print(flush=True)


def start(products: int) -> None:
    """Start-up time and the memory of workers over a large catalogue."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_catalogue(directory / "products.npz", products)
        write_users(directory / "queries.npz", 5000, seed=2)
        build(ROOT, directory, directory / "artifacts")
        began = time.perf_counter()
        with service("this revision", ROOT, directory / "artifacts") as ours:
            print(f"{products:,} products: ready {time.perf_counter() - began:.1f} s after the start\n")
            memory(ours)


def compare(ours: Service, base: Service, bodies: Path, lines: Sequence[bytes]) -> None:
    """Two revisions in turns: how many times the base's speed this one has."""
    print(f"| against {base.label} | speed ratio |")
    print("|---|---|")
    for connections in CONNECTIONS:
        new, old = in_turns([partial(wrk, server, connections, bodies) for server in (ours, base)])
        print(f"| POST /infer, {connections} connections | {new.per_second / old.per_second:.2f} |")
    for count in BATCHES:
        body = b"[" + b",".join(lines[:count]) + b"]"
        pairs = [[median_seconds(partial(post, server, body)) for server in (ours, base)] for _ in range(ROUNDS)]
        print(
            f"| POST /batch, {count:,} users | {statistics.median(old / new for new, old in pairs):.2f} |", flush=True
        )


def wrk(server: Service, connections: int, bodies: Path) -> Load:
    """Keep so many connections busy for some seconds."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{WRK_SECONDS}s", "--timeout", "10s"]
    script = ["-s", str(ROOT / "benchmarks" / "wrk.lua"), f"http://127.0.0.1:{server.port}/infer", "--", str(bodies)]
    printed = subprocess.run([*command, *script], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^result (.*)$", printed, re.MULTILINE)
    assert found, printed
    facts = json.loads(found[1])
    p50, p99, p999 = (facts[name] / 1e3 for name in ("p50", "p99", "p999"))
    return Load(facts["requests"] / facts["microseconds"] * 1e6, p50, p99, p999, facts["failed"])


def in_turns(runs: Sequence[Callable[[], Load]]) -> list[Load]:
    """Each run's medians over some rounds, so that whatever else the machine does meets them all."""
    rounds = [[run() for run in runs] for _ in range(ROUNDS)]
    return [
        Load(*(statistics.median(getattr(load, name) for load in loads) for name in Load.__dataclass_fields__))
        for loads in zip(*rounds, strict=True)
    ]


def median_seconds(call: Callable[[], object], single_thread: bool = False) -> float:
    with threadpool_limits(1 if single_thread else WORKERS):
        call()
        taken: list[float] = []
        while sum(taken) < BATCH_SECONDS and len(taken) < 300:
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


_connections: dict[int, http.client.HTTPConnection] = {}


def post(server: Service, body: bytes) -> None:
    connection = _connections.setdefault(server.port, http.client.HTTPConnection("127.0.0.1", server.port))
    connection.request("POST", "/batch", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    assert response.status == 200


def rounded(users: NDArray[np.float32]) -> list[list[float]]:
    return np.round(users.astype(np.float64), 4).tolist()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--start", type=int, metavar="PRODUCTS", help="also start over a catalogue of so many")
    parser.add_argument("--base", metavar="REVISION", help="compare this revision with another, and nothing else")
    return parser


if __name__ == "__main__":
    main()
