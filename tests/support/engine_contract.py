"""What every search engine must do. An engine's test class inherits these tests and provides `engine_over`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retrieval.vectors import unit_vectors
from service.engines.base import SearchEngine
from tests.support.matches import Match, found_by
from tests.support.oracle import Oracle

Products = list[dict[str, Any]]


def products_with(vectors: np.ndarray) -> Products:
    return [{"id": f"p{i}", "name": f"product {i}", "vector": row} for i, row in enumerate(vectors.tolist())]


class EngineContract:
    """Subclasses define the fixture `engine_over`: a function from products to an engine that serves them."""

    EngineOver = Callable[[Products], SearchEngine]
    batch_sizes: tuple[int, ...] = (7, 8, 19, 427)

    def check(self, engine: SearchEngine, vectors: np.ndarray, users: np.ndarray, k: int) -> None:
        oracle = Oracle(vectors)
        for user, answer in zip(users, found_by(engine, unit_vectors(users), k), strict=True):
            for side, matches in answer.items():
                oracle.check(user, side, positions(matches), [match.score for match in matches], k)

    @pytest.mark.parametrize("k", [1, 10, 100, 299, 300, 1000])
    def test_both_sides_are_numpys_for_any_k(self, engine_over: EngineOver, k: int) -> None:
        draw = np.random.default_rng(k)
        vectors = draw.normal(size=(300, 24))
        self.check(engine_over(products_with(vectors)), vectors, draw.normal(size=(7, 24)), k)

    @pytest.mark.parametrize("dimension", [2, 3, 7, 301])
    def test_both_sides_are_numpys_in_any_dimension(self, engine_over: EngineOver, dimension: int) -> None:
        draw = np.random.default_rng(dimension)
        vectors = draw.normal(size=(200, dimension))
        self.check(engine_over(products_with(vectors)), vectors, draw.normal(size=(5, dimension)), 10)

    def test_a_match_carries_the_products_name(self, engine_over: EngineOver) -> None:
        engine = engine_over(
            [{"id": "x", "name": "Éclair ☕", "vector": [1, 0]}, {"id": "7", "name": "y", "vector": [0, 1]}]
        )
        [answer] = found_by(engine, unit_vectors(np.array([[3.0, 4.0]])), 5)
        assert answer["best"] == [Match("7", "y", 0.8), Match("x", "Éclair ☕", 0.6)]
        assert answer["worst"] == [Match("x", "Éclair ☕", 0.6), Match("7", "y", 0.8)]

    def test_equal_scores_stand_in_catalogue_order_on_both_sides(self, engine_over: EngineOver) -> None:
        east, north = [1.0, 0.0], [0.0, 1.0]
        engine = engine_over(products_with(np.array([north, east, north, east, [2.0, 0.0], north])))
        [answer] = found_by(engine, unit_vectors(np.array([east])), 4)
        assert [(match.id, match.score) for match in answer["best"]] == [
            ("p1", 1.0),
            ("p3", 1.0),
            ("p4", 1.0),
            ("p0", 0.0),
        ]
        assert [(match.id, match.score) for match in answer["worst"]] == [
            ("p0", 0.0),
            ("p2", 0.0),
            ("p5", 0.0),
            ("p1", 1.0),
        ]

    def test_a_catalogue_of_one_vector_is_answered_in_catalogue_order(self, engine_over: EngineOver) -> None:
        engine = engine_over(products_with(np.tile([[0.6, 0.8]], (50, 1))))
        [answer] = found_by(engine, unit_vectors(np.array([[0.6, 0.8]])), 20)
        assert positions(answer["best"]) == list(range(20))
        assert positions(answer["worst"]) == list(range(20))

    def test_a_user_gets_the_same_answer_alone_and_in_any_batch(self, engine_over: EngineOver) -> None:
        draw = np.random.default_rng(5)
        vectors = draw.normal(size=(400, 300))
        users = unit_vectors(draw.normal(size=(self.batch_sizes[-1], 300)))
        engine = engine_over(products_with(vectors))
        alone = [found_by(engine, user[None], 10)[0] for user in users]
        for size in self.batch_sizes:
            assert found_by(engine, users[:size], 10) == alone[:size]

    def test_opposite_vectors_score_one_and_minus_one(self, engine_over: EngineOver) -> None:
        engine = engine_over(products_with(np.array([[1e-30, 3e-30], [-1e30, -3e30]])))
        [answer] = found_by(engine, unit_vectors(np.array([[1.0, 3.0]])), 1)
        assert answer["best"] == [Match("p0", "product 0", 1.0)]
        assert answer["worst"] == [Match("p1", "product 1", -1.0)]

    def test_no_users_get_no_answers(self, engine_over: EngineOver) -> None:
        for vectors in (np.eye(3), np.ones((4, 3))):
            assert found_by(engine_over(products_with(vectors)), np.empty((0, 3), np.float32), 2) == []


def positions(matches: list[Match]) -> list[int]:
    return [int(match.id.removeprefix("p")) for match in matches]
