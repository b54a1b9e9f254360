"""Users a second of `python -m service batch`, against the search alone, and print one table.

python -m benchmarks.offline [--users 1000000] [--products 20000] [--formats parquet jsonl jsonl.gz]
"""

import argparse
import gzip
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.catalogues import draw_users, sources
from benchmarks.processes import ROOT, build, family, memory_bytes
from benchmarks.report import CORES, option_parser, print_header, print_machine, print_row
from retrieval.artifact.store import open_current
from retrieval.search.index import ProductIndex, use_threads
from retrieval.vectors import unit_vectors

K = 10
SEARCHED_USERS, SEARCH_BATCH = 50_000, 128
WRITE_BATCH = 50_000
POLL_SECONDS = 0.5

# Seconds by the clock, and of processors, which depend less on what else the machine does.
Cost = NDArray[np.float64]


def main() -> None:
    options = _options()
    print_machine()
    with sources(options.products, options.directory) as directory:
        artifacts = build(directory, "artifacts")
        current = open_current(artifacts)
        current.index.warm()
        factory = current.manifest.index.factory
        print(f"{options.users:,} users x {options.products:,} products, {factory}; k = {K}, both sides\n")
        speeds = ("seconds", "users/s", "the search alone", "of it", "CPU us a user", "the search alone")
        print_header("users from and answers to", *speeds, "peak MB", "in MB", "out MB")
        for ending in options.formats:
            source, output = directory / f"users.{ending}", directory / f"matches.{ending}"
            write_input(source, options.users)
            before = search_alone(current.base.index)
            cost, peak_bytes = run_command(artifacts, source, output, options.users)
            a_user, alone = cost / options.users, (before + search_alone(current.base.index)) / 2 / SEARCHED_USERS
            seconds = f"{cost[0]:.1f}", f"{1 / a_user[0]:,.0f}", f"{1 / alone[0]:,.0f}", f"{alone[0] / a_user[0]:.2f}"
            sizes = (peak_bytes, source.stat().st_size, output.stat().st_size)
            processors = (f"{cpu_seconds * 1e6:.0f}" for cpu_seconds in (a_user[1], alone[1]))
            print_row(ending, *seconds, *processors, *(f"{size / 1e6:,.0f}" for size in sizes))
            source.unlink()
            output.unlink()


def search_alone(index: ProductIndex) -> Cost:
    """Measure the search of both sides on all cores, one thread a search, with nothing read or written."""
    queries = unit_vectors(draw_users(SEARCHED_USERS, seed=3))
    pieces = [queries[start : start + SEARCH_BATCH] for start in range(0, SEARCHED_USERS, SEARCH_BATCH)]
    with ThreadPoolExecutor(CORES, initializer=use_threads, initargs=(1,)) as threads:
        began = np.array([time.perf_counter(), time.process_time()])
        for _ in threads.map(lambda piece: index.search(piece, K), pieces):
            pass
        return np.array([time.perf_counter(), time.process_time()]) - began


def run_command(artifacts: Path, source: Path, output: Path, users: int) -> tuple[Cost, int]:
    """Return what the command costs, and the most memory that its processes had, with shared pages counted once."""
    words = ["--artifact", str(artifacts), "--input", str(source), "--output", str(output), "--k", str(K)]
    began, peak = clocks(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "service", "batch", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            # In the proportional size, a page of n processes counts as 1/n.
            peak = max(peak, sum(memory_bytes(process_id).get("Pss", 0) for process_id in family(process.pid)))
            time.sleep(POLL_SECONDS)
        cost, (printed, _) = clocks() - began, process.communicate()
    assert printed == f"{output}: {users:,} users; 0 have an error\n", printed
    return cost, peak


def clocks() -> Cost:
    """Return the time, and the processor time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])


def write_input(path: Path, count: int) -> None:
    if path.suffix == ".parquet":
        schema = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float32()))])
        with pq.ParquetWriter(path, schema) as writer:
            for names, vectors in user_blocks(count):
                lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]).cast(schema.types[1])
                writer.write_table(pa.table([names, lists], schema=schema))
        return
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        for names, vectors in user_blocks(count):
            for name, row in zip(names, np.round(vectors.astype(np.float64), 4).tolist(), strict=True):
                file.write(orjson.dumps({"name": name, "vector": row}) + b"\n")


def user_blocks(count: int) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    for first in range(0, count, WRITE_BATCH):
        rows = min(WRITE_BATCH, count - first)
        yield [f"u{i}" for i in range(first, first + rows)], draw_users(rows, seed=100 + first)


def _options() -> argparse.Namespace:
    parser = option_parser("benchmarks.offline", __doc__, users=1_000_000, products=20_000)
    parser.add_argument("--formats", nargs="+", choices=["parquet", "jsonl", "jsonl.gz"], default=["parquet", "jsonl"])
    parser.add_argument("--directory", type=Path, help="where to put the files, some 5 GB for a million users")
    return parser.parse_args()


if __name__ == "__main__":
    main()
