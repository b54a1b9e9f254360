"""Masks over products, and what a search under one must answer."""

import numpy as np

from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.ranking import SIGNS, Neighbours, RowGroups
from tests.support.oracle import SCORE_ERROR


def maker_of(groups: RowGroups) -> MaskMaker:
    return MaskMaker(groups, groups.row_of(np.arange(groups.product_count)))


def mask_over(groups: RowGroups, positions: np.ndarray | list[int]) -> Mask:
    chosen = np.zeros(groups.product_count, np.bool_)
    chosen[positions] = True
    return maker_of(groups).mask_of(pack(chosen))


def check_among(
    sides: tuple[Neighbours, Neighbours], cosines: np.ndarray, k: int, positions: np.ndarray | list[int]
) -> None:
    """Assert that each user got the k best and worst of the products at some positions, in order, by cosines (u, n).

    Products whose exact scores are closer than SCORE_ERROR may stand in for each other; nothing else may.
    """
    positions = np.asarray(positions, np.int64)
    for sign, found in zip(SIGNS.values(), sides, strict=True):
        assert found.positions.shape == (len(cosines), min(k, len(positions)))
        assert np.isin(found.positions, positions).all()
        assert all(len(set(of_user)) == len(of_user) for of_user in found.positions.tolist())
        of_found = np.take_along_axis(cosines, found.positions, axis=1)
        np.testing.assert_allclose(found.scores, of_found, rtol=0, atol=SCORE_ERROR)
        expected = np.sort(sign * cosines[:, positions], axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(sign * found.scores, expected, rtol=0, atol=SCORE_ERROR)
        for scores, of_user in zip((-sign * found.scores).tolist(), found.positions.tolist(), strict=True):
            ranks = [*zip(scores, of_user, strict=True)]
            assert ranks == sorted(ranks)
