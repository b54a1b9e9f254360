"""Both sides of a search against FAISS's own, asked once for a query and once for its negation.

Thread CPU time on one thread, in turns, medians; indexes are opened from their files.

python -m benchmarks.search [--products 20000]
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, mixtures, sample_products
from benchmarks.report import option_parser, print_header, print_machine, print_row
from index_builder.kinds.training import Trainer, store_vectors
from retrieval.records.vector_file import VectorFile
from retrieval.search.files import open_index, write_index
from retrieval.search.index import ProductIndex, use_threads
from retrieval.search.kinds import search_parameters
from retrieval.search.ranking import RowGroups
from retrieval.search.settings import SearchSettings, SideSettings
from retrieval.vectors import unit_vectors

K, USERS, ROUNDS = 10, 64, 3
KINDS = [("Flat", "fp32"), ("Flat", "fp16"), ("Tiers32x1+64x2+128x4", "fp32"), ("Tiers32x1+64x2+128x4,IVF128", "fp32")]
SETTINGS = SideSettings(SearchSettings(120, nprobe=16), SearchSettings(180, nprobe=32))

Search = Callable[[NDArray[np.float32]], object]


def main() -> None:
    products = option_parser("benchmarks.search", __doc__, products=20_000).parse_args().products
    print_machine()
    print(f"{products:,} products x 300 dimensions, best and worst {K} together\n")
    sizes = "1 user", f"{USERS} users"
    print_header("index", "storage", *(f"{size}: {column}" for size in sizes for column in ("FAISS ms", "ms", "x")))
    users = unit_vectors(draw_users(USERS, seed=2))
    with tempfile.TemporaryDirectory() as name:
        vectors = VectorFile(Path(name) / "vectors")
        vectors.append(unit_vectors(mixtures(sample_products(), products, seed=1)))
        for kind, storage in KINDS:
            write_index(Trainer(vectors, store_vectors(vectors, storage)).build(kind), Path(name) / "index")
            with threadpool_limits(1):
                print_row(kind, storage, *compare(open_index(Path(name) / "index"), products, users))
        vectors.close()


def compare(index: faiss.Index, products: int, users: NDArray[np.float32]) -> list[str]:
    use_threads(1)
    rows = np.arange(products + 1)
    ours = ProductIndex(index, RowGroups(rows, rows[:-1]), SETTINGS)
    ours.warm()
    cells = []
    for size in (1, len(users)):
        batches = [users[i : i + size] for i in range(0, len(users), size)]
        by_faiss, by_us = medians([partial(faiss_alone, index), partial(ours.search, k=K)], ROUNDS * batches)
        cells += [f"{by_faiss * 1e3:.3f}", f"{by_us * 1e3:.3f}", f"{by_faiss / by_us:.2f}"]
    return cells


def faiss_alone(index: faiss.Index, users: NDArray[np.float32]) -> None:
    """Search a query and its negation as FAISS offers it, with the settings of each side."""
    for queries, settings in ((users, SETTINGS.best), (-users, SETTINGS.worst)):
        index.search(queries, K, params=parameters(index, settings))


def parameters(index: faiss.Index, settings: SearchSettings) -> faiss.SearchParameters | None:
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        inner = parameters(index.base_index, settings)
        return faiss.IndexRefineSearchParameters(k_factor=settings.candidates / K, base_index_params=inner)
    if isinstance(index, faiss.IndexPreTransform):
        inner = parameters(index.index, settings)
        return faiss.SearchParametersPreTransform(index_params=inner)
    return search_parameters(index, settings, K)


def medians(searches: list[Search], batches: list[NDArray[np.float32]]) -> list[float]:
    taken: list[list[float]] = [[] for _ in searches]
    for batch in batches:
        for search, times in zip(searches, taken, strict=True):
            began = time.thread_time()
            search(batch)
            times.append(time.thread_time() - began)
    return [statistics.median(times) for times in taken]


if __name__ == "__main__":
    main()
