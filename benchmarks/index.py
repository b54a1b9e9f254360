"""Compare the builder's choice of index with an exact scan, one-pass NumPy and HNSW, and print one table a size.

python -m benchmarks.index [2000 20000 200000 1000000]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import mixtures, sample_products, sample_users, write_catalogue, write_users
from benchmarks.machine import machine
from index_builder.artifact import open_current
from index_builder.vectors import unit_vectors

SIZES = (2_000, 20_000, 200_000)
HNSW_SIZES = (20_000, 200_000)
K = 10
TIMED_USERS, BATCH_USERS, PLANNING_USERS = 200, 1000, 5000

# A process started from this one would count this one's memory as its own peak; one in between does not.
_PEAK_OF = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""

Search = Callable[[NDArray[np.float32]], object]


@dataclass(frozen=True)
class Row:
    """What one way to search costs, both sides together; build figures are of the whole builder process."""

    label: str
    median_ms: float
    p99_ms: float
    users_per_second: float
    recall: dict[str, list[dict[str, Any]]] | None = None
    build_seconds: float = 0.0
    peak_bytes: int = 0
    artifact_bytes: int = 0


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    print(f"machine: {machine()}, faiss {faiss.__version__}")
    print(f"variance of the sample's vectors kept by the first directions: {kept_variance()}")
    print(
        f"both sides of a user, k = {K}; times on one thread, users/s for {BATCH_USERS:,} users at once on all cores\n"
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            measure(size, Path(directory))


def measure(size: int, directory: Path) -> None:
    write_catalogue(directory / "products.npz", size)
    write_users(directory / "users.npz", PLANNING_USERS, seed=2)
    users = unit_vectors(mixtures(sample_users(), BATCH_USERS, seed=3))
    with np.load(directory / "products.npz") as arrays:
        products = unit_vectors(arrays["vectors"])
    flat = faiss.IndexFlatIP(products.shape[1])
    flat.add(products)
    rows = [
        timed("FAISS Flat", lambda queries: (flat.search(queries, K), flat.search(-queries, K)), users),
        timed("NumPy, one pass", lambda queries: both_ends(queries, products), users),
    ]
    raw_bytes = products.nbytes
    if size in HNSW_SIZES:
        rows.append(built("HNSW32", directory, users, "--index", "HNSW32", "--allow-low-recall"))
    rows.append(built("builder's choice", directory, users))
    rows.append(built("fp16, shared", directory, users, "--storage", "fp16", "--worst", "shared"))
    show(size, rows, raw_bytes)


def built(label: str, directory: Path, users: NDArray[np.float32], *options: str) -> Row:
    """Run the builder as its own process, then search what it published."""
    out = directory / label
    arguments = ["--products", str(directory / "products.npz"), "--queries", str(directory / "users.npz")]
    command = [sys.executable, "-m", "index_builder", *arguments, "--out", str(out), *options]
    started = time.perf_counter()
    builder = subprocess.run([sys.executable, "-c", _PEAK_OF, *command], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    build = open_current(out)
    row = timed(f"{label}: {build.manifest['index']['factory']}", lambda queries: build.index.search(queries, K), users)
    size = sum(file["bytes"] for file in build.manifest["files"].values())
    return Row(
        row.label,
        row.median_ms,
        row.p99_ms,
        row.users_per_second,
        build.manifest["recall"],
        seconds,
        int(builder.stdout) * 1024,
        size,
    )


def timed(label: str, search: Search, users: NDArray[np.float32]) -> Row:
    with threadpool_limits(1):
        taken = [seconds(search, users[max(i, 0) :][:1]) for i in range(-20, TIMED_USERS)][20:]
    batch = statistics.median(seconds(search, users) for _ in range(3))
    return Row(label, statistics.median(taken) * 1e3, float(np.quantile(taken, 0.99)) * 1e3, len(users) / batch)


def seconds(search: Search, queries: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    search(queries)
    return time.perf_counter() - started


def both_ends(queries: NDArray[np.float32], products: NDArray[np.float32]) -> None:
    """The plain way: one product with the catalogue, both ends partitioned; in blocks that fit the memory."""
    for start in range(0, len(queries), 64):
        scores = queries[start : start + 64] @ products.T
        np.argpartition(scores, (K, scores.shape[1] - K), axis=1)


def kept_variance() -> str:
    variances = np.linalg.eigvalsh(np.cov(unit_vectors(sample_products()).T))[::-1]
    shares = variances.cumsum() / variances.sum()
    return ", ".join(f"{count}: {shares[count - 1]:.1%}" for count in (64, 80, 96, 128))


def show(size: int, rows: list[Row], raw_bytes: int) -> None:
    print(f"### {size:,} products, {raw_bytes / 1e6:,.0f} MB as float32\n")
    print(
        "| index | median ms | p99 ms | x Flat | users/s | recall@10 best / worst | recall@100 best / worst"
        " | build s | peak MB | artifact MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [
            row.label,
            f"{row.median_ms:.3f}",
            f"{row.p99_ms:.3f}",
            f"{rows[0].median_ms / row.median_ms:.1f}",
            f"{row.users_per_second:,.0f}",
        ]
        if row.recall is None:
            cells += ["1 / 1", "1 / 1", "", "", ""]
        else:
            cells += [recall_at(row.recall, place) for place in (0, 1)]
            cells += [f"{row.build_seconds:.1f}", f"{row.peak_bytes / 1e6:,.0f}", f"{row.artifact_bytes / 1e6:,.0f}"]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def recall_at(recall: dict[str, list[dict[str, Any]]], place: int) -> str:
    return " / ".join(f"{recall[side][place]['mean']:.4f}" for side in ("best", "worst"))


if __name__ == "__main__":
    main()
