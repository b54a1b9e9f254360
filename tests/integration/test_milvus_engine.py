"""The engine on Milvus keeps the contract that the embedded one keeps."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact.store import Build
from retrieval.vectors import unit_vectors
from service.engines.base import SearchEngine
from service.errors import TooLarge
from service.recommender import Recommender
from service.settings import MILVUS_INDEXES, MilvusSettings
from tests.support.catalogues import products_of
from tests.support.engine_contract import EngineContract, Products, positions
from tests.support.engines import engine_of
from tests.support.matches import found_by, matches_of, user_row
from tests.support.milvus import MilvusServer, on_milvus

pytestmark = on_milvus

EngineOver = Callable[..., SearchEngine]


@pytest.fixture
def engine_over(milvus: MilvusServer, tmp_path: Path, build_of: Callable[..., Build]) -> EngineOver:
    """A function that builds, publishes to Milvus, and opens what the alias names."""
    from service.engines.milvus_engine import open_engine
    from service.engines.milvus_publish import Layout, publish

    numbers = itertools.count()

    def engine_over(products: Products, index: str = "FLAT") -> SearchEngine:
        build_of(products)
        settings = MilvusSettings(milvus.uri, alias=f"{tmp_path.name}_{next(numbers)}", timeout=20.0)
        publish(tmp_path / "artifacts", settings, Layout(index))
        return open_engine(settings)

    return engine_over


class TestMilvus(EngineContract):
    batch_sizes = (2, 19, 60)


def test_the_info_tells_what_is_served(engine_over: EngineOver, tmp_path: Path) -> None:
    info = engine_over(products_of(np.eye(5))).info
    build_id = (tmp_path / "artifacts" / "CURRENT").read_text().strip()
    assert (info.build_id, info.products, info.dimension, info.index) == (build_id, 5, 5, "Milvus FLAT")


def test_both_engines_give_the_same_answers(engine_over: EngineOver, build_of: Callable[..., Build]) -> None:
    draw = np.random.default_rng(1)
    vectors = np.repeat(draw.normal(size=(120, 40)), 3, axis=0)[draw.permutation(360)]
    users = unit_vectors(draw.normal(size=(40, 40)))
    on_milvus, embedded = engine_over(products_of(vectors)), engine_of(build_of(products_of(vectors)))
    for ours, theirs in zip(found_by(on_milvus, users, 20), found_by(embedded, users, 20), strict=True):
        for side in ("best", "worst"):
            found, expected = ours[side], theirs[side]
            assert [match.id for match in found] == [match.id for match in expected]
            np.testing.assert_allclose(
                [match.score for match in found], [match.score for match in expected], rtol=0, atol=1.5e-6
            )


def test_ties_beyond_the_first_search_stand_in_catalogue_order(engine_over: EngineOver) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(500, 4))
    twins = np.sort(draw.permutation(500)[:120])
    vectors[twins] = vectors[twins[0]]
    [answer] = found_by(engine_over(products_of(vectors)), unit_vectors(vectors[twins[:1]]), 10)
    assert positions(answer["best"]) == twins[:10].tolist()
    [opposite] = found_by(engine_over(products_of(vectors)), unit_vectors(-vectors[twins[:1]]), 10)
    assert positions(opposite["worst"]) == twins[:10].tolist()


@pytest.mark.parametrize("index", [index for index in MILVUS_INDEXES if index != "FLAT"])
def test_an_approximate_index_finds_nearly_all_and_scores_them_exactly(engine_over: EngineOver, index: str) -> None:
    draw = np.random.default_rng(3)
    vectors, users = draw.normal(size=(3000, 32)), unit_vectors(draw.normal(size=(20, 32)))
    cosines = users.astype(np.float64) @ unit_vectors(vectors).astype(np.float64).T
    found = 0
    for scores, answer in zip(cosines, found_by(engine_over(products_of(vectors), index), users, 10), strict=True):
        for sign, matches in ((1.0, answer["best"]), (-1.0, answer["worst"])):
            np.testing.assert_allclose(
                [match.score for match in matches], scores[positions(matches)], rtol=0, atol=1e-6
            )
            found += len({*positions(matches)} & {*np.argsort(-sign * scores)[:10].tolist()})
    assert found >= 0.98 * 400


def test_excluded_products_make_room_on_both_sides(engine_over: EngineOver) -> None:
    draw = np.random.default_rng(4)
    vectors, user = draw.normal(size=(200, 8)), draw.normal(size=8)
    order = np.argsort(-(unit_vectors(vectors).astype(np.float64) @ user), kind="stable")
    excluded = [*order[:4], *order[-3:]]
    recommender = Recommender(engine_over(products_of(vectors)))
    answer = recommender.recommend_one(*user_row("ann", user, 5, [f"p{i}" for i in excluded]))
    assert positions(matches_of(recommender, answer.best)) == order[4:9].tolist()
    assert positions(matches_of(recommender, answer.worst)) == order[::-1][3:8].tolist()


def test_more_matches_than_milvus_finds_at_once_are_refused(
    engine_over: EngineOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines import milvus_engine

    engine = engine_over(products_of(np.random.default_rng(6).normal(size=(50, 3))))
    monkeypatch.setattr(milvus_engine, "MILVUS_MAX_MATCHES", 40)
    user = unit_vectors(np.ones((1, 3)))
    assert [len(side) for side in found_by(engine, user, 40)[0].values()] == [40, 40]
    with pytest.raises(TooLarge, match=r"^k and exclude ask for 41 matches, Milvus finds 40 at once$"):
        engine.search(user, 41)
