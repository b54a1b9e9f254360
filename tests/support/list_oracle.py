"""What a list of a side must be, in plain Python: limits by value, then diversity, then k, product by product."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.filter_oracle import RandomFilters, values_of
from tests.support.filtered import DIMENSION
from tests.support.oracle import SCORE_ERROR, Oracle, unit

LIMITS = [{"brand": 1}, {"brand": 2, "shop.city": 3}, {"tags": 1}, {"tags": 4, "brand": 3}, {"shop.city": 10**20}]
TIE = 1e-7  # Values this close are equal, so that the first of them is picked.


@dataclass(frozen=True)
class ListOracle:
    """Lists of products with vectors (n, d) and further fields."""

    vectors: NDArray[np.float64]
    fields: list[dict[str, Any]]

    def expected(self, user: Any, side: str, kept: list[int], options: dict[str, Any]) -> list[tuple[int, float]]:
        """Return the positions and exact scores of a list of those that filter and `exclude` have left, `kept`."""
        sign = {"best": 1, "worst": -1}[side]
        cosines = Oracle(self.vectors).cosines(np.array([user]))[0]
        scores = np.round(cosines, 6)
        order = sorted(kept, key=lambda position: (-sign * scores[position], position))
        bound = options.get("min_score" if side == "best" else "max_score", -sign)
        order = [position for position in order if sign * scores[position] >= sign * bound]
        order = self.limited(order, options.get("max_per", {}))
        k, diversity = options["k"], options.get("diversity", 0)
        if diversity:
            order = self.diverse(order[: max(k, min(10 * k, 2000))], (sign * scores).tolist(), k, diversity)
        return [(position, float(cosines[position])) for position in order[:k]]

    def limited(self, order: list[int], max_per: dict[str, int]) -> list[int]:
        counts: Counter[tuple[str, Any]] = Counter()
        picked = []
        for position in order:
            values = {(name, value) for name in max_per for value in values_of(self.fields[position], name)}
            if all(counts[pair] < max_per[pair[0]] for pair in values):
                counts.update(values)
                picked.append(position)
        return picked

    def diverse(self, pool: list[int], relevance: list[float], k: int, diversity: float) -> list[int]:
        cosines, picked, left = self._cosines, pool[:1], pool[1:]
        while left and len(picked) < k:
            values = [
                (1 - diversity) * relevance[each] - diversity * max(map(cosines[each].__getitem__, picked))
                for each in left
            ]
            greatest = max(values)
            picked.append(left.pop(next(i for i, value in enumerate(values) if value >= greatest - TIE)))
        return picked

    @cached_property
    def _cosines(self) -> list[list[float]]:
        units = unit(self.vectors)
        return (units @ units.T).tolist()

    def check(
        self, answer: dict[str, Any], user: Any, kept: list[int], options: dict[str, Any], fills: bool = False
    ) -> None:
        """Assert that both sides are the expected products and scores, in order.

        With `fills`, others may stand there, as many, that keep to the options.
        """
        for side in ("best", "worst"):
            expected = self.expected(user, side, kept, options)
            found = [int(match["id"].removeprefix("p")) for match in answer[side]]
            if fills:
                self._check_kept(found, [match["score"] for match in answer[side]], user, side, kept, options)
                assert len(found) == len(expected)
                continue
            assert found == [position for position, _ in expected], side
            np.testing.assert_allclose(
                [match["score"] for match in answer[side]],
                [score for _, score in expected],
                rtol=0,
                atol=SCORE_ERROR,
            )

    def _check_kept(
        self, found: list[int], scores: list[float], user: Any, side: str, kept: list[int], options: dict[str, Any]
    ) -> None:
        cosines = Oracle(self.vectors).cosines(np.array([user]))[0]
        assert len({*found}) == len(found)
        assert {*found} <= {*kept}
        assert self.limited(found, options.get("max_per", {})) == found
        np.testing.assert_allclose(scores, cosines[found], rtol=0, atol=SCORE_ERROR)
        sign = {"best": 1, "worst": -1}[side]
        bound = options.get("min_score" if side == "best" else "max_score", -sign)
        assert all(sign * score >= sign * bound for score in scores)
        if not options.get("diversity"):
            ranks = [(-sign * score, position) for score, position in zip(scores, found, strict=True)]
            assert ranks == sorted(ranks)


def drawn_options(draws: int, seed: int) -> list[tuple[list[float], dict[str, Any]]]:
    """Users of `FilteredProducts`, each with options."""
    draw, filters = np.random.default_rng(seed), RandomFilters(seed)
    found = []
    for _ in range(draws):
        options: dict[str, Any] = {"k": int(draw.choice([1, 3, 10, 40, 200]))}
        if draw.random() < 0.8:
            options["max_per"] = LIMITS[draw.integers(len(LIMITS))]
        if draw.random() < 0.6:
            options["diversity"] = float(draw.choice([0.0, 0.1, 0.3, 0.75, 1.0]))
        if draw.random() < 0.4:
            options["filter"] = filters.filter()
        if draw.random() < 0.4:
            options["exclude"] = [f"p{i}" for i in draw.choice(95, draw.choice([1, 6, 70]), replace=False)]
        if draw.random() < 0.3:
            options |= {"min_score": float(draw.uniform(-0.5, 0.8)), "max_score": float(draw.uniform(-0.8, 0.5))}
        found.append((draw.normal(size=DIMENSION).tolist(), options))
    return found
