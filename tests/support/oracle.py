"""Exact answers by NumPy in float64: what every engine, index kind and batch size is compared with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCORE_ERROR = 1e-6  # float32 arithmetic and rounding to six decimals


@dataclass(frozen=True)
class Oracle:
    """Cosines of users (u, d) with products (n, d), computed one way only: normalise, multiply, sort."""

    products: NDArray[np.float64]

    def cosines(self, users: NDArray[np.floating]) -> NDArray[np.float64]:
        return unit(users) @ unit(self.products).T

    def check(self, user: NDArray[np.floating], side: str, positions: list[int], scores: list[float], k: int) -> None:
        """Assert that these are the k best or worst products: scores, membership and order.

        Products whose exact scores are closer than SCORE_ERROR may stand in for each other; nothing else may.
        """
        cosines = self.cosines(user[None])[0]
        sign = 1.0 if side == "best" else -1.0
        expected = np.sort(sign * cosines)[::-1][: min(k, len(cosines))]
        assert len(positions) == len(expected)
        assert len(set(positions)) == len(positions)
        np.testing.assert_allclose(scores, cosines[positions], rtol=0, atol=SCORE_ERROR)
        np.testing.assert_allclose(sign * np.array(scores), expected, rtol=0, atol=SCORE_ERROR)
        assert scores == [round(score, 6) for score in scores]
        assert all(-1.0 <= score <= 1.0 for score in scores)
        ranks = [(-sign * score, position) for score, position in zip(scores, positions, strict=True)]
        assert ranks == sorted(ranks)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    wide = wide / np.abs(wide).max(axis=1, keepdims=True)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)
