"""A search under masks of any share of the products against the same search without one, both sides together.

Thread CPU time on one thread, user by user and mask by mask in turns; recall against exact scores. Then the constants
by which a search goes its way, in use and as measured here, and pgvector with the same products, users and filters.

python -m benchmarks.filters [--sizes 20000 200000]
"""

import statistics
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, sources
from benchmarks.filters.cases import USERS, Case, K, cases_of, draw_fields, recall_of
from benchmarks.filters.crossover import print_crossovers
from benchmarks.filters.peer import Catalogue, compare
from benchmarks.index.contestants import Vectors
from benchmarks.report import option_parser, print_header, print_machine, print_row
from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.build import BEST
from retrieval.artifact.manifest import RecallAtK
from retrieval.artifact.store import open_current
from retrieval.search.candidates import Candidates
from retrieval.search.files import open_index
from retrieval.search.filters.masks import MaskMaker
from retrieval.search.index import ProductIndex, use_threads
from retrieval.search.ranking import SIDES
from retrieval.vectors import unit_vectors

_FIELD_VALUES = 32


def main() -> None:
    parser = option_parser("benchmarks.filters", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000])
    sizes = parser.parse_args().sizes
    print_machine()
    for products in sizes:
        with sources(products) as directory:
            add_field(directory / "products.npz")
            build(BuildRequest(directory / "products.npz", directory / "out", directory / "queries.npz"))
            with threadpool_limits(1):
                report(directory)


def add_field(path: Path) -> None:
    """Give products something to filter by, without which a build does not tune searches with filters."""
    with np.load(path) as arrays:
        products = dict(arrays)
    np.savez(path, allow_pickle=False, **products, number=np.arange(len(products["ids"])) % _FIELD_VALUES)


def report(directory: Path) -> None:
    """Print the tables of a catalogue."""
    use_threads(1)
    opened = open_current(directory / "out")
    index, facts = opened.base.index, opened.manifest.index
    users, row_of = unit_vectors(draw_users(USERS, seed=3)), opened.base.rows.row_of_product
    index.warm()
    units = index.vectors(row_of.astype(np.int64))
    fields = draw_fields(units)
    cases = cases_of(MaskMaker(index.groups, row_of), fields, units, users)
    scores = users @ units.T
    recalls = [recall_of(index, users, scores, case) for case in cases]
    print(f"\n## {len(units):,} products, {facts.factory}\n")
    print_shares(index, users, cases, recalls)
    candidates = Candidates(open_index(directory / "out" / opened.id / BEST), facts.search, facts.filtered)
    print_crossovers(candidates, index.stored_vectors, users)
    compare(directory, Catalogue(index, units, users, fields, scores, recalls), cases)


def print_shares(index: ProductIndex, users: Vectors, cases: list[Case], recalls: list[list[RecallAtK]]) -> None:
    """Print the time of each case, as a share of that of a search without a filter, and its recall."""
    plain, *times = medians(index, users, cases)
    print(f"{plain * 1e3:.3f} ms a user without a filter\n")
    print_header("mask", "rows", "path", "time ÷", *(f"recall@{K} {side} (at least)" for side in SIDES))
    for case, seconds, recall in zip(cases[1:], times, recalls[1:], strict=True):
        rows = round(statistics.mean(mask.row_count for mask in case.masks if mask))
        paths = sorted({index.path(K, mask) for mask in case.masks})
        found = [f"{each.mean:.4f} ({each.lower_bound:.4f})" for each in recall]
        print_row(case.label, f"{rows:,}", ", ".join(paths), f"{seconds / plain:.2f}", *found)


def medians(index: ProductIndex, users: Vectors, cases: list[Case]) -> list[float]:
    """Return the median processor seconds of a user's search in each case, which take turns."""
    taken: list[list[float]] = [[] for _ in cases]
    for user in range(USERS):
        for case, times in zip(cases, taken, strict=True):
            began = time.thread_time()
            index.search(users[user : user + 1], K, case.masks[user])
            times.append(time.thread_time() - began)
    return [statistics.median(times) for times in taken]


if __name__ == "__main__":
    main()
