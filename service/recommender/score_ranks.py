"""Where live best scores stand among those of the builder's users."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class ScoreRanks:
    """The distribution of best scores of the users whom a build was measured with.

    A score's rank is the share of those users whose best score was lower, ties counting half. The ranks of users from
    the same distribution have a mean of 0.5, whatever its shape: it is the Mann-Whitney statistic. A lower mean says
    that scores have fallen.
    """

    def __init__(self, quantiles: Sequence[float]):
        """`quantiles` are at equal steps from the lowest to the highest score."""
        self._quantiles = [*quantiles]

    def rank(self, score: float) -> float:
        quantiles, steps = self._quantiles, len(self._quantiles) - 1
        low, high = bisect_left(quantiles, score), bisect_right(quantiles, score)
        if low < high:  # Several quantiles in a row may be this score.
            return (low + high - 1) / (2 * steps)
        if low in (0, len(quantiles)):
            return float(low > 0)
        below, above = quantiles[low - 1], quantiles[low]
        return (low - 1 + (score - below) / (above - below)) / steps
