"""The engine on Milvus keeps the contract that the embedded one keeps."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import Build
from retrieval.search.filters.language import parse_filter
from retrieval.vectors import unit_vectors
from service.engines.base import SearchEngine
from service.errors import EngineUnavailable, TooLarge
from service.recommender import Recommender
from service.settings import MILVUS_INDEXES, MilvusSettings
from tests.support.catalogues import products_of
from tests.support.engine_contract import EngineContract, Products, positions
from tests.support.engines import engine_of
from tests.support.field_contract import FieldContract
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


class TestFields(FieldContract):
    @pytest.fixture
    def catalogue_size(self, milvus: MilvusServer) -> int:
        """More products than a server scans without its indexes; Lite takes long for so many."""
        return 1_500 if milvus.is_standalone else 90


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


APPROXIMATE = [index for index in MILVUS_INDEXES if index != "FLAT"]


def recall_of(engine: SearchEngine, vectors: np.ndarray, users: np.ndarray, k: int) -> float:
    """The share of the k best and worst that are found, once all scores are checked."""
    cosines = unit_vectors(users).astype(np.float64) @ unit_vectors(vectors).astype(np.float64).T
    found = 0
    for scores, answer in zip(cosines, found_by(engine, unit_vectors(users), k), strict=True):
        for sign, matches in ((1.0, answer["best"]), (-1.0, answer["worst"])):
            np.testing.assert_allclose(
                [match.score for match in matches], scores[positions(matches)], rtol=0, atol=1e-6
            )
            found += len({*positions(matches)} & {*np.argsort(-sign * scores)[:k].tolist()})
    return found / (2 * k * len(users))


@pytest.mark.parametrize("index", APPROXIMATE)
def test_an_approximate_index_finds_nearly_all_and_scores_them_exactly(engine_over: EngineOver, index: str) -> None:
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(3000, 32))
    engine = engine_over(products_of(vectors), index)
    assert recall_of(engine, vectors, draw.normal(size=(20, 32)), 10) >= 0.98
    assert recall_of(engine, vectors, draw.normal(size=(3, 32)), 1500) >= 0.98  # more than a third of the lists hold


@pytest.mark.parametrize("index", APPROXIMATE)
def test_an_approximate_index_finds_nearly_all_that_match_also_where_a_side_dislikes_the_filter(
    engine_over: EngineOver, index: str, milvus: MilvusServer
) -> None:
    if not milvus.is_standalone:
        pytest.skip("Lite has indexes of its own")
    draw = np.random.default_rng(9)
    vectors = unit_vectors(draw.normal(size=(3000, 16))).astype(np.float64)
    users = unit_vectors(
        draw.normal(size=(10, 16)) + 4 * np.eye(16)[0]
    )  # They like what the first filter lets through.
    liked = {"liked": vectors[:, 0] > 0.25, "few": np.arange(3000) % 300 == 7, "most": np.arange(3000) % 50 != 7}
    rows = [
        {**row, **{name: bool(mask[i]) for name, mask in liked.items()}} for i, row in enumerate(products_of(vectors))
    ]
    engine: Any = engine_over(rows, index)
    for name, mask in liked.items():
        kept = np.flatnonzero(mask)
        tree = parse_filter({name: True}, engine.vocabulary)
        *sides, matched = engine.search_matching(users, 10, tree)
        assert matched == len(kept)
        found = 0
        for sign, side in zip((1.0, -1.0), sides, strict=True):
            for user, positions_found, scores in zip(users, side.positions, side.scores, strict=True):
                cosines = vectors[kept] @ user
                assert np.isin(positions_found, kept).all()
                np.testing.assert_allclose(scores, vectors[positions_found] @ user, rtol=0, atol=1e-6)
                found += len({*positions_found} & {*kept[np.argsort(-sign * cosines)[:10]]})
        assert found >= 0.98 * 2 * 10 * len(users)


def test_a_deep_search_of_a_graph_finds_nearly_all(engine_over: EngineOver, milvus: MilvusServer) -> None:
    if not milvus.is_standalone:
        pytest.skip("Lite takes minutes to build a graph of so many")
    draw = np.random.default_rng(8)
    vectors = draw.normal(size=(12_000, 4))
    engine = engine_over(products_of(vectors), "HNSW")
    assert recall_of(engine, vectors, draw.normal(size=(1, 4)), 9_000) >= 0.98


@pytest.mark.parametrize("index", APPROXIMATE)
def test_what_an_approximate_index_does_not_find_is_padded(
    engine_over: EngineOver, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines import milvus_engine

    draw = np.random.default_rng(7)
    vectors, user = draw.normal(size=(3000, 8)), unit_vectors(draw.normal(size=(1, 8)))
    engine: Any = engine_over(products_of(vectors), index)
    search = engine._cluster.call

    def find_five(method: str, *arguments: Any, **options: Any) -> Any:
        found = search(method, *arguments, **options)
        return [hits[:5] for hits in found] if method == "search" else found

    monkeypatch.setattr(engine._cluster, "call", find_five)
    monkeypatch.setattr(milvus_engine, "MILVUS_MAX_MATCHES", 40)
    expected = np.argsort(unit_vectors(vectors).astype(np.float64) @ user[0])
    best, worst = engine.search(user, 8)
    assert best.positions.tolist() == [[*expected[::-1][:5], -1, -1, -1]]
    assert worst.positions.tolist() == [[*expected[:5], -1, -1, -1]]


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


def test_an_alias_of_a_collection_that_was_not_published_is_refused_and_not_followed(
    engine_over: EngineOver, milvus: MilvusServer
) -> None:
    from service.engines.milvus_engine import open_engine

    engine: Any = engine_over(products_of(np.eye(3)))
    cluster = engine._cluster
    cluster.create("foreign", 3, 1)
    cluster.call("alter_alias", "foreign", cluster.alias)
    expected = rf"^{cluster.alias}: names the collection foreign, which `python -m service publish` has not made$"
    with pytest.raises(EngineUnavailable, match=expected):
        open_engine(MilvusSettings(milvus.uri, alias=cluster.alias))
    assert engine.latest() is engine
    assert engine.is_available
