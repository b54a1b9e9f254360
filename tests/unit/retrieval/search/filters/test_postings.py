"""Bitmaps tell their members, and the groups that these are in, however many there are."""

import numpy as np
import pytest

from retrieval.search.filters.postings import count_by_group, members_of, pack

SHARES = (0.0, 0.01, 0.2, 0.5, 0.8, 0.99, 1.0)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("count", [1, 8, 61, 1000])
def test_a_bitmap_holds_its_members_in_rising_order(count: int, share: float) -> None:
    chosen = np.random.default_rng(count).random(count) < share
    assert members_of(pack(chosen)).tolist() == [i for i in range(count) if chosen[i]]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("groups", [1, 7, 400])
def test_members_are_counted_by_group_from_themselves_or_from_the_others(groups: int, share: float) -> None:
    draw = np.random.default_rng(groups)
    group_of = draw.integers(0, groups, 300).astype(np.uint16)
    chosen = draw.random(len(group_of)) < share
    sizes = np.bincount(group_of, minlength=groups)
    expected = [int(chosen[group_of == group].sum()) for group in range(groups)]
    assert count_by_group(pack(chosen), group_of, sizes).tolist() == expected
