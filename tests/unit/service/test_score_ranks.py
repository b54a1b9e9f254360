"""The rank of a score is the share of the builder's users whose best score was lower."""

import numpy as np
import pytest

from service.recommender.score_ranks import ScoreRanks

LEVELS = np.linspace(0.0, 1.0, 21)


def share_below(scores: np.ndarray, score: float) -> float:
    return float(((scores < score).sum() + 0.5 * (scores == score).sum()) / len(scores))


def ranks_of(scores: np.ndarray) -> ScoreRanks:
    return ScoreRanks(np.quantile(scores, LEVELS).tolist())


def test_a_rank_is_the_share_of_scores_below_within_a_twentieth() -> None:
    scores = np.random.default_rng(3).beta(8, 2, size=1000)
    ranks = ranks_of(scores)
    for score in [-1.0, *scores[:50], *np.linspace(0, 1, 40), 1.0]:
        assert ranks.rank(score) == pytest.approx(share_below(scores, score), abs=0.02)


def test_scores_that_many_users_share_count_half() -> None:
    scores = np.repeat([0.2, 0.6, 1.0], [30, 30, 40])
    ranks = ranks_of(scores)
    assert [ranks.rank(score) for score in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.125, 0.45, 0.8], abs=0.03)
    assert np.mean([ranks.rank(score) for score in scores]) == pytest.approx(0.5, abs=0.02)


def test_all_scores_alike_are_in_the_middle() -> None:
    ranks = ranks_of(np.ones(5))
    assert [ranks.rank(score) for score in (0.999999, 1.0)] == [0.0, 0.5]


@pytest.mark.parametrize("power", [1, 3])
def test_the_mean_rank_is_a_half_where_nothing_moved_and_falls_with_the_scores(power: int) -> None:
    scores = np.random.default_rng(4).beta(8, 2, size=2000) ** power
    ranks = ranks_of(scores[:1000])
    later = scores[1000:]
    assert np.mean([ranks.rank(score) for score in later]) == pytest.approx(0.5, abs=0.03)
    expected = np.mean([share_below(scores[:1000], score - 0.2) for score in later])
    assert np.mean([ranks.rank(score - 0.2) for score in later]) == pytest.approx(expected, abs=0.02)
    assert expected < 0.3
