"""The recall that is exported is that of the answers which users got."""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import Build
from retrieval.search.filters.language import EVERYTHING
from retrieval.vectors import unit_vectors
from service.cores import Cores, shared_cores
from service.recommender import LiveRecall, Recommender
from tests.support.engines import engine_of
from tests.support.filtered import USER, FilteredProducts
from tests.support.matches import user_row
from tests.support.server import Server, serving

COUNT, K, SECONDS = 1500, 10, 20


@pytest.fixture(scope="module")
def products() -> FilteredProducts:
    return FilteredProducts(COUNT)


@pytest.fixture(scope="module")
def coarse(products: FilteredProducts, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build whose index misses matches."""
    return products.build(tmp_path_factory.mktemp("coarse"), index="HNSW4")


def exact_recall(vectors: np.ndarray, user: np.ndarray, answer: Any, side: str) -> float:
    sign = 1 if side == "best" else -1
    scores = sign * (vectors.astype(np.float64) @ user.astype(np.float64))
    kth = np.sort(scores)[-K]
    found = np.sum(sign * getattr(answer, side).scores >= kth - 1e-5)
    return min(K, int(found)) / K


def test_the_recall_of_a_user_is_that_of_exact_numpy(coarse: Build, products: FilteredProducts) -> None:
    reports: SimpleQueue[tuple[str, float]] = SimpleQueue()
    live = LiveRecall(1.0, Cores(shared_cores(), 1), lambda side, recall: reports.put((side, recall)))
    recommender, units = Recommender(engine_of(coarse), live), unit_vectors(products.vectors)
    found: list[float] = []
    for vector in np.random.default_rng(8).normal(size=(40, units.shape[1])):
        user, row = user_row("ann", vector, K)
        answer = recommender.recommend_one(user, row)
        for side in ("best", "worst"):
            report = reports.get(timeout=SECONDS)
            assert report == (side, exact_recall(units, unit_vectors(vector[None])[0], answer, side))
            found.append(report[1])
        while live._at_work.locked():
            time.sleep(0.001)
    assert min(found) < 1.0, "the index misses nothing, so that the test shows nothing"


def test_an_exact_kind_is_never_scanned_again(sample_build: Build) -> None:
    live = LiveRecall(1.0, Cores(shared_cores(), 1), lambda *_: None)
    live.offer = lambda *_: pytest.fail("it was")  # type: ignore[method-assign]
    assert Recommender(engine_of(sample_build), live).recommend_one(*user_row("ann", np.ones(300), K))


QUERIES: list[dict[str, Any] | None] = [None, {"stock": True}, {"stock": True, "price": {"$gte": 0}}, {"brand": "no"}]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("shown", ["", '{"price": {"$exists": true}}'])
def test_a_scan_has_the_mask_of_the_search(coarse: Build, query: dict[str, Any] | None, shown: str) -> None:
    engine, user = engine_of(coarse, shown=shown), unit_vectors(np.array([USER]))
    tree = None if query is None else engine.build.filters.parse(query)
    # Of as many as there are, every way to search finds all.
    every = engine.search_matching(user, COUNT, tree or EVERYTHING)[:2]
    out = [side.positions[0, :3] for side in every]
    for left_out in (np.empty(0, np.int64), np.concatenate(out)):
        excluded = {f"p{position}" for position in left_out}
        sides = engine.search_exactly(user, K, tree, excluded, nullcontext)
        for found, side in zip(sides, every, strict=True):
            kept = ~np.isin(side.positions, left_out)
            assert found.positions[0].tolist() == side.positions[kept][:K].tolist()
            assert found.scores[0].tolist() == side.scores[kept][:K].tolist()


@pytest.fixture(scope="module")
def server(coarse: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = next(path for path in tmp_path_factory.getbasetemp().rglob(coarse.id)).parent
    with serving(root, RECO_RECALL_SHARE="1") as server:
        yield server


def test_a_server_exports_the_recall_of_a_share_of_its_users(server: Server) -> None:
    body = json.dumps({"name": "ann", "vector": USER}).encode()
    counts: dict[str, float] = {}
    until = time.monotonic() + SECONDS
    while not counts.get('reco_live_recall_count{side="worst"}'):
        assert time.monotonic() < until
        server.send("POST", "/infer", body, {})
        text = server.send("GET", "/metrics", None, {}).body.decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("reco_live_recall")]
        counts = {name: float(value) for name, value in lines}
    for side in ("best", "worst"):
        total, count = (counts[f'reco_live_recall_{each}{{side="{side}"}}'] for each in ("sum", "count"))
        assert 0 < total <= count
        assert counts[f'reco_live_recall_squares_total{{side="{side}"}}'] == pytest.approx(total**2 / count)
