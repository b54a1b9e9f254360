"""Compare the builder's choice of index with an exact scan, one-pass NumPy and HNSW, and print one table a size.

python -m benchmarks.index [2000 20000 200000 1000000]
"""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, sample_products, sources, vectors_of
from benchmarks.processes import build
from benchmarks.report import print_header, print_machine, print_row, seconds
from retrieval.artifact.store import open_current
from retrieval.vectors import unit_vectors

SIZES = (2_000, 20_000, 200_000)
HNSW_SIZES = (20_000, 200_000)
K = 10
TIMED_USERS, BATCH_USERS = 100, 1000
ROUNDS = 3


@dataclass
class Row:
    """One way to search, and the seconds that it takes for both sides; `built` are the cells about its build."""

    label: str
    search: Callable[[NDArray[np.float32]], object]
    built: tuple[str, ...] = ("1 / 1", "1 / 1", "", "", "")
    seconds: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    print_machine(f", faiss {faiss.__version__}")
    print(f"variance of the sample's vectors kept by the first directions: {kept_variance()}")
    print(
        f"both sides of a user, k = {K}; times on one thread, users/s for {BATCH_USERS:,} users at once on all cores\n"
    )
    for size in sizes:
        with sources(size) as directory:
            measure(size, directory)


def measure(size: int, directory: Path) -> None:
    users = unit_vectors(draw_users(BATCH_USERS, seed=3))
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
    """Build an index, and open it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as parent:
        build_seconds, peak_bytes = parent.submit(cost_of_build, directory, label, *options).result()
    opened = open_current(directory / label)
    opened.index.warm()
    recall = opened.manifest.recall
    cells = [
        *(f"{best.mean:.4f} / {worst.mean:.4f}" for best, worst in zip(recall.best, recall.worst, strict=True)),
        f"{build_seconds:.1f}",
        *(f"{size / 1e6:,.0f}" for size in (peak_bytes, opened.manifest.size_bytes)),
    ]
    return Row(f"{label}: {opened.manifest.index.factory}", lambda queries: opened.index.search(queries, K), (*cells,))


def cost_of_build(directory: Path, label: str, *options: str) -> tuple[float, int]:
    """Return the seconds of a build, and the most memory that its builder had.

    To be called in a small process: what a large one starts would count that one's memory as its own peak.
    """
    taken = seconds(partial(build, directory, label, *options))
    return taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def take_times(row: Row, users: NDArray[np.float32]) -> None:
    """Some users one by one on one thread, and all of them at once on all cores."""
    with threadpool_limits(1):
        for _ in range(10):
            row.search(users[:1])
        row.seconds += [seconds(partial(row.search, users[i : i + 1])) for i in range(TIMED_USERS)]
    row.batch_seconds.append(seconds(partial(row.search, users)))


def both_ends(queries: NDArray[np.float32], products: NDArray[np.float32]) -> None:
    """The plain way: one product with the catalogue, both ends partitioned; in blocks that fit the memory."""
    for start in range(0, len(queries), 64):
        scores = queries[start : start + 64] @ products.T
        np.argpartition(scores, (K, scores.shape[1] - K), axis=1)


def kept_variance() -> str:
    variances = np.linalg.eigvalsh(np.cov(unit_vectors(vectors_of(sample_products())).T))[::-1]
    shares = variances.cumsum() / variances.sum()
    return ", ".join(f"{count}: {shares[count - 1]:.1%}" for count in (64, 80, 96, 128))


def show(size: int, rows: list[Row], raw_bytes: int) -> None:
    print(f"### {size:,} products, {raw_bytes / 1e6:,.0f} MB as float32\n")
    recalls = [f"recall@{k} best / worst" for k in (10, 100)]
    print_header("index", "median ms", "p99 ms", "x Flat", "users/s", *recalls, "build s", "peak MB", "artifact MB")
    flat = median(rows[0].seconds)
    for row in rows:
        middle, slow = np.quantile(row.seconds, (0.5, 0.99))
        speeds = f"{flat / middle:.1f}", f"{BATCH_USERS / median(row.batch_seconds):,.0f}"
        print_row(row.label, f"{middle * 1e3:.3f}", f"{slow * 1e3:.3f}", *speeds, *row.built)
    print(flush=True)


if __name__ == "__main__":
    main()
