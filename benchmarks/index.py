"""Compare the builder's choice of index with an exact scan, one-pass NumPy and HNSW, and print one table a size.

python -m benchmarks.index [2000 20000 200000 1000000]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import mixtures, sample_products, sample_users, write_catalogue, write_users
from benchmarks.machine import machine
from retrieval.artifact.manifest import Recall
from retrieval.artifact.store import open_current
from retrieval.vectors import unit_vectors

SIZES = (2_000, 20_000, 200_000)
HNSW_SIZES = (20_000, 200_000)
K = 10
TIMED_USERS, BATCH_USERS, PLANNING_USERS = 100, 1000, 5000
ROUNDS = 3

# A process started from this one would count this one's memory as its own peak; one in between does not.
_PEAK_OF = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""

Search = Callable[[NDArray[np.float32]], object]


@dataclass
class Row:
    """One way to search, and what it costs; build figures are of the whole builder process, times of both sides."""

    label: str
    search: Search
    recall: Recall | None = None
    build_seconds: float = 0.0
    peak_bytes: int = 0
    artifact_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.seconds) * 1e3


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
        Row("FAISS Flat", lambda queries: (flat.search(queries, K), flat.search(-queries, K))),
        Row("NumPy, one pass", lambda queries: both_ends(queries, products)),
    ]
    if size in HNSW_SIZES:
        rows.append(built("HNSW32", directory, "--index", "HNSW32", "--allow-low-recall"))
    rows.append(built("builder's choice", directory))
    rows.append(built("fp16, shared", directory, "--storage", "fp16", "--worst", "shared"))
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets them all
        for row in rows:
            take_times(row, users)
    show(size, rows, products.nbytes)


def built(label: str, directory: Path, *options: str) -> Row:
    """Run the builder as its own process, and open what it published."""
    out = directory / label
    arguments = ["--products", str(directory / "products.npz"), "--queries", str(directory / "users.npz")]
    command = [sys.executable, "-m", "index_builder", *arguments, "--out", str(out), *options]
    started = time.perf_counter()
    builder = subprocess.run([sys.executable, "-c", _PEAK_OF, *command], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    build = open_current(out)
    build.index.warm()
    return Row(
        f"{label}: {build.manifest.index.factory}",
        lambda queries: build.index.search(queries, K),
        build.manifest.recall,
        seconds,
        int(builder.stdout) * 1024,
        build.manifest.size_bytes,
    )


def take_times(row: Row, users: NDArray[np.float32]) -> None:
    """Some users one by one on one thread, and all of them at once on all cores."""
    with threadpool_limits(1):
        for i in range(-10, TIMED_USERS):
            taken = seconds(row.search, users[max(i, 0) :][:1])
            if i >= 0:
                row.seconds.append(taken)
    row.batch_seconds.append(seconds(row.search, users))


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
            f"{float(np.quantile(row.seconds, 0.99)) * 1e3:.3f}",
            f"{rows[0].median_ms / row.median_ms:.1f}",
            f"{BATCH_USERS / statistics.median(row.batch_seconds):,.0f}",
        ]
        if row.recall is None:
            cells += ["1 / 1", "1 / 1", "", "", ""]
        else:
            cells += [recall_at(row.recall, i) for i in (0, 1)]
            cells += [f"{row.build_seconds:.1f}", f"{row.peak_bytes / 1e6:,.0f}", f"{row.artifact_bytes / 1e6:,.0f}"]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def recall_at(recall: Recall, i: int) -> str:
    return f"{recall.best[i].mean:.4f} / {recall.worst[i].mean:.4f}"


if __name__ == "__main__":
    main()
