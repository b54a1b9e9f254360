"""What diversity and limits by value do to lists, and the time that they take: on the sample, and on 20,000 products.

Thread CPU time of the recommender on one thread, user by user and option by option in turns, without HTTP. A brand is
any of 1,000, drawn by a power law; a category is the products nearest to one of 32.

python -m benchmarks.lists [--users 300] [--products 20000]
"""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.catalogues import draw_users, sample_users, sources, vectors_of
from benchmarks.report import option_parser, print_header, print_machine, print_row
from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.store import current_build_id
from retrieval.search.ranking import SIDES
from retrieval.vectors import unit_vectors
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import FaissEngine, open_engine
from service.recommender import Recommendation, Recommender, User

K, BRANDS, CATEGORIES = 10, 1000, 32
DIVERSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
_DATA = Path(__file__).parents[2] / "data"
_SEED = 6

Vectors = NDArray[np.floating]


def main() -> None:
    options = option_parser("benchmarks.lists", __doc__, users=300, products=20_000).parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        build(BuildRequest(_DATA / "products.jsonl.gz", Path(name), _DATA / "users_batch.json"))
        report_sample(recommender_of(Path(name)), vectors_of(sample_users()[: options.users]))
    with sources(options.products) as directory, threadpool_limits(1):
        add_fields(directory / "products.npz")
        build(BuildRequest(directory / "products.npz", directory / "out", directory / "queries.npz"))
        report_limits(recommender_of(directory / "out"), draw_users(options.users, seed=3))


def recommender_of(root: Path) -> Recommender:
    return Recommender(open_engine(root, current_build_id(root), Cores(shared_cores(), 1)))


def add_fields(path: Path) -> None:
    """Give products the fields that lists are limited by."""
    with np.load(path) as arrays:
        products = dict(arrays)
    draw, count = np.random.default_rng(_SEED), len(products["ids"])
    units = unit_vectors(products["vectors"])
    category = (units @ units[draw.choice(count, CATEGORIES, replace=False)].T).argmax(axis=1)
    share = 1 / np.arange(1, BRANDS + 1)
    brand = draw.choice(BRANDS, count, p=share / share.sum())
    fields = {"brand": np.char.add("brand ", brand.astype(str)), "category": np.char.add("c", category.astype(str))}
    np.savez(path, allow_pickle=False, **products, **fields)


def report_sample(recommender: Recommender, users: Vectors) -> None:
    """Print what each diversity does on the sample."""
    options: list[dict[str, Any]] = [{}, *({"diversity": each} for each in DIVERSITIES), {"max_per": {"cuisine": 2}}]
    (plain, *lists), (plain_seconds, *seconds) = measure(recommender, users, options)
    engine: Any = recommender.engine
    name = f"The sample, {recommender.info.products:,} products"
    print(f"\n{name}, {len(users)} users, {plain_seconds * 1e3:.3f} ms a user without options\n")
    print_header("option", "added ms a user", *(f"{what} {side}" for side in SIDES for what in ("ILD", "mean cosine")))
    for option, answers, taken in zip(options, [plain, *lists], [plain_seconds, *seconds], strict=True):
        cells = [cell for side in SIDES for cell in changes_of(engine, side, plain, answers)]
        print_row(f"`{json.dumps(option)}`" if option else "none", f"{(taken - plain_seconds) * 1e3:.3f}", *cells)


def changes_of(engine: FaissEngine, side: str, plain: Sequence[Recommendation], answers: Any) -> list[str]:
    """Return the mean of the lists' inner distances and of their scores, each with its change against plain lists."""
    shown = []
    for measure_of in (inner_distance, mean_score):
        before, after = (
            statistics.mean(measure_of(engine, getattr(a, side)) for a in found) for found in (plain, answers)
        )
        shown.append(f"{after:.4f} ({after / before - 1:+.1%})")
    return shown


def inner_distance(engine: FaissEngine, side: Any) -> float:
    """Return the mean of 1 - cosine over all pairs of a list."""
    vectors = engine.vectors_of(side.positions)
    cosines = vectors @ vectors.T
    return float(1 - cosines[np.triu_indices(len(vectors), 1)].mean())


def mean_score(_engine: FaissEngine, side: Any) -> float:
    return float(side.scores.mean())


def report_limits(recommender: Recommender, users: Vectors) -> None:
    """Print the time that limits take against lists without them, and how many searches they take."""
    options: list[dict[str, Any]] = [{}, *({"max_per": {name: 2}} for name in ("brand", "category"))]
    options += [{"max_per": {"category": 1}}, {"diversity": 0.3}, {"max_per": {"brand": 2}, "diversity": 0.3}]
    _, (plain, *seconds) = measure(recommender, users, options)
    name = recommender.info.index
    start = f"{recommender.info.products:,} products, {name}"
    print(f"\n{start}, {len(users)} users, {plain * 1e3:.3f} ms a user without options\n")
    print_header("option", "time ÷ (median)", "searches a side (mean)", "most")
    for option, taken in zip(options[1:], seconds, strict=True):
        searches = [count for user in users for count in searches_of(recommender, user, option)]
        print_row(f"`{json.dumps(option)}`", f"{taken / plain:.2f}", f"{statistics.mean(searches):.2f}", max(searches))


def searches_of(recommender: Recommender, user: Vectors, option: dict[str, Any]) -> list[int]:
    explain = recommender.recommend_one(user_with({**option, "explain": True}), user.astype(np.float64)).explain or {}
    return [*explain.get("searches", dict.fromkeys(SIDES, 1)).values()]


def measure(
    recommender: Recommender, users: Vectors, options: list[dict[str, Any]]
) -> tuple[list[list[Recommendation]], list[float]]:
    """Return the answers to all users with each of the options, and the median seconds a user."""
    answers: list[list[Recommendation]] = [[] for _ in options]
    seconds: list[list[float]] = [[] for _ in options]
    asked = [user_with(option) for option in options]
    for turn, vector in enumerate(users.astype(np.float64)):
        for i in range(len(asked)):
            nth = (turn + i) % len(asked)  # The first one of a user finds what it needs in no cache.
            began = time.thread_time()
            answer = recommender.recommend_one(asked[nth], vector)
            seconds[nth].append(time.thread_time() - began)
            answers[nth].append(answer)
    return answers, [statistics.median(taken) for taken in seconds]


def user_with(option: dict[str, Any]) -> User:
    limits = tuple(option.get("max_per", {}).items())
    return User(K, name="", **{**option, **({"max_per": limits} if limits else {})})


if __name__ == "__main__":
    main()
