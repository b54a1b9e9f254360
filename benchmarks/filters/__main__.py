"""A search under masks of any share of the products against the same search without one, both sides together.

Thread CPU time on one thread, user by user and mask by mask in turns; recall against exact scores. A category is the
products nearest to one of some; a user's liked one is nearest to the user, and the disliked one farthest.

python -m benchmarks.filters [--sizes 20000 200000]
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, sources
from benchmarks.report import option_parser, print_header, print_machine, print_row
from index_builder.pipeline import BuildRequest, build
from index_builder.tuning.recall import recall_at_k
from retrieval.artifact.manifest import RecallAtK
from retrieval.artifact.store import open_current
from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex, use_threads
from retrieval.search.ranking import SIDES, SIGNS
from retrieval.vectors import unit_vectors

K, USERS, CATEGORIES = 10, 100, 32
SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
_SEED = 6

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A mask for each user; users share masks, which are made before they are searched with."""

    label: str
    masks: list[Mask]


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
    np.savez(path, allow_pickle=False, **products, number=np.arange(len(products["ids"])) % CATEGORIES)


def report(directory: Path) -> None:
    """Print the table of a catalogue."""
    use_threads(1)
    opened = open_current(directory / "out")
    index, users = opened.base.index, unit_vectors(draw_users(USERS, seed=3))
    index.warm()
    units = index.vectors(index.groups.row_of(np.arange(index.groups.product_count)))
    maker = MaskMaker(index.groups, index.groups.row_of(np.arange(index.groups.product_count)))
    cases = [*random_cases(maker), *category_cases(maker, units, users)]
    plain, *times = medians([partial_search(index, users, case) for case in [None, *cases]])
    print(f"\n{len(units):,} products, {opened.manifest.index.factory}, {plain * 1e3:.3f} ms a user without a filter\n")
    print_header("mask", "rows", "path", "time ÷", *(f"recall@{K} {side} (at least)" for side in SIDES))
    scores = users @ units.T
    for case, seconds in zip(cases, times, strict=True):
        rows = round(statistics.mean(mask.row_count for mask in case.masks))
        paths = sorted({index.path(K, mask) for mask in case.masks})
        recall = [f"{each.mean:.4f} ({each.lower_bound:.4f})" for each in recall_of(index, users, scores, case)]
        print_row(case.label, f"{rows:,}", ", ".join(paths), f"{seconds / plain:.2f}", *recall)


def random_cases(maker: MaskMaker) -> list[Case]:
    count = maker.product_count
    order = np.random.default_rng(_SEED).permutation(count)
    masks = [maker.mask_of(pack(order < max(1, round(share * count)))) for share in SHARES]
    return [Case(f"random {share:.2%}", [mask] * USERS) for share, mask in zip(SHARES, masks, strict=True)]


def category_cases(maker: MaskMaker, units: Vectors, users: Vectors) -> list[Case]:
    centres = units[np.random.default_rng(_SEED).choice(len(units), CATEGORIES, replace=False)]
    category = (units @ centres.T).argmax(axis=1)
    masks = [maker.mask_of(pack(category == number)) for number in range(CATEGORIES)]
    means = np.stack([units[category == number].mean(axis=0) for number in range(CATEGORIES)])
    order = (users @ means.T).argsort(axis=1)
    labels = {"a disliked category": 0, "a liked category": -1}
    return [Case(label, [masks[number] for number in order[:, column]]) for label, column in labels.items()]


def partial_search(index: ProductIndex, users: Vectors, case: Case | None) -> Callable[[int], object]:
    return lambda user: index.search(users[user : user + 1], K, case.masks[user] if case else None)


def medians(searches: list[Callable[[int], object]]) -> list[float]:
    taken: list[list[float]] = [[] for _ in searches]
    for user in range(USERS):
        for search, times in zip(searches, taken, strict=True):
            began = time.thread_time()
            search(user)
            times.append(time.thread_time() - began)
    return [statistics.median(times) for times in taken]


def recall_of(index: ProductIndex, users: Vectors, scores: Vectors, case: Case) -> list[RecallAtK]:
    """Return the recall of each side."""
    found: dict[str, list[Vectors]] = {side: [] for side in SIDES}
    kth: dict[str, list[float]] = {side: [] for side in SIDES}
    for user, mask in enumerate(case.masks):
        among, k = scores[user, mask.positions()], min(K, mask.matched)
        for side, neighbours in zip(SIDES, index.search(users[user : user + 1], K, mask), strict=True):
            signed = SIGNS[side] * scores[user, neighbours.positions[0]]
            found[side].append(np.pad(signed, (0, K - k), constant_values=np.inf))
            kth[side].append(np.sort(SIGNS[side] * among)[-k])
    return [recall_at_k(np.stack(found[side]), np.array(kth[side])[:, None], K, K) for side in SIDES]


if __name__ == "__main__":
    main()
