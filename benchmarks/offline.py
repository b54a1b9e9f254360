"""Users a second of `python -m service batch`, against the search alone, and print one table.

python -m benchmarks.offline [--users 1000000] [--products 20000] [--formats parquet jsonl jsonl.gz]
"""

import argparse
import gzip
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.catalogues import mixtures, sample_users, write_catalogue, write_users
from benchmarks.machine import machine
from benchmarks.processes import ROOT, children
from retrieval.artifact.store import open_current
from retrieval.search.index import ProductIndex, use_threads
from retrieval.vectors import unit_vectors

CORES = len(os.sched_getaffinity(0))
K = 10
SEARCHED_USERS, SEARCH_BATCH = 50_000, 128
WRITE_BATCH = 50_000
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of processors, which depend less on what else the machine does."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Run:
    """One run of the command; `peak_bytes` are of all its processes together, counting shared pages once."""

    cost: Cost
    peak_bytes: int
    printed: str


def main() -> None:
    options = _parser().parse_args()
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        write_catalogue(directory / "products.npz", options.products)
        write_users(directory / "queries.npz", 5000, seed=2)
        artifacts = build(directory)
        current = open_current(artifacts)
        current.index.warm()
        factory = current.manifest.index.factory
        print(f"{options.users:,} users x {options.products:,} products, {factory}; k = {K}, both sides\n")
        print(
            "| users from and answers to | seconds | users/s | the search alone | of it | CPU us a user"
            " | the search alone | peak MB | in MB | out MB |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for ending in options.formats:
            source, output = directory / f"users.{ending}", directory / f"matches.{ending}"
            write_input(source, options.users)
            raw = [search_alone(current.index)]
            run = run_command(artifacts, source, output)
            raw.append(search_alone(current.index))
            assert run.printed == f"{output}: {options.users:,} users; 0 have an error\n", run.printed
            speed, raw_speed = options.users / run.cost.seconds, SEARCHED_USERS / mean(cost.seconds for cost in raw)
            cpu, raw_cpu = run.cost.cpu_seconds / options.users, mean(cost.cpu_seconds for cost in raw) / SEARCHED_USERS
            sizes = f"{source.stat().st_size / 1e6:,.0f} | {output.stat().st_size / 1e6:,.0f}"
            speeds = f"{run.cost.seconds:.1f} | {speed:,.0f} | {raw_speed:,.0f} | {speed / raw_speed:.2f}"
            cpus = f"{cpu * 1e6:.0f} | {raw_cpu * 1e6:.0f}"
            print(f"| {ending} | {speeds} | {cpus} | {run.peak_bytes / 1e6:,.0f} | {sizes} |", flush=True)
            source.unlink()
            output.unlink()


def build(directory: Path) -> Path:
    out = directory / "artifacts"
    sources = ["--products", str(directory / "products.npz"), "--queries", str(directory / "queries.npz")]
    command = [sys.executable, "-m", "index_builder", *sources, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out


def search_alone(index: ProductIndex) -> Cost:
    """Measure the search of both sides on all cores, one thread a search, with nothing read or written."""
    queries = unit_vectors(mixtures(sample_users(), SEARCHED_USERS, seed=3))
    pieces = [queries[start : start + SEARCH_BATCH] for start in range(0, SEARCHED_USERS, SEARCH_BATCH)]
    with ThreadPoolExecutor(CORES, initializer=use_threads, initargs=(1,)) as threads:
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in threads.map(lambda piece: index.search(piece, K), pieces):
            pass
        return Cost(time.perf_counter() - began, time.process_time() - cpu_began)


def run_command(artifacts: Path, source: Path, output: Path) -> Run:
    words = ["--artifact", str(artifacts), "--input", str(source), "--output", str(output), "--k", str(K)]
    began, cpu_began, peak = time.perf_counter(), children_cpu_seconds(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "service", "batch", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(proportional_bytes, [process.pid, *children(process.pid)])))
            time.sleep(POLL_SECONDS)
        cost = Cost(time.perf_counter() - began, children_cpu_seconds() - cpu_began)
        assert process.stdout is not None
        return Run(cost, peak, process.stdout.read())


def children_cpu_seconds() -> float:
    """Return the processor time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def proportional_bytes(process: int) -> int:
    """Return a process's share of resident memory, in which a page of n processes counts as 1/n."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def write_input(path: Path, count: int) -> None:
    if path.suffix == ".parquet":
        schema = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float32()))])
        with pq.ParquetWriter(path, schema) as writer:
            for first, vectors in user_blocks(count):
                rows, dimension = vectors.shape
                starts = pa.array(np.arange(0, rows * dimension + 1, dimension, dtype=np.int32))
                lists = pa.ListArray.from_arrays(starts, pa.array(vectors.ravel()))
                writer.write_table(pa.table([names(first, rows), lists], schema=schema))
        return
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        for first, vectors in user_blocks(count):
            rounded = np.round(vectors.astype(np.float64), 4)
            for name, row in zip(names(first, len(vectors)), rounded.tolist(), strict=True):
                file.write(orjson.dumps({"name": name, "vector": row}) + b"\n")


def user_blocks(count: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    sample = sample_users()
    for first in range(0, count, WRITE_BATCH):
        yield first, mixtures(sample, min(WRITE_BATCH, count - first), seed=100 + first)


def names(first: int, count: int) -> list[str]:
    return [f"u{i}" for i in range(first, first + count)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--formats", nargs="+", choices=["parquet", "jsonl", "jsonl.gz"], default=["parquet", "jsonl"])
    parser.add_argument("--directory", type=Path, help="where to put the files, some 5 GB for a million users")
    return parser


if __name__ == "__main__":
    main()
