"""Recall under filters is measured as exact NumPy says, and kept share by share."""

import gc
import weakref
from collections.abc import Callable
from math import ceil

import faiss
import numpy as np
import pytest

from index_builder.tuning import filtered
from index_builder.tuning.filtered import DISLIKED, LIKED, PRODUCTS, RANDOM, SHARES, FilterGrid
from index_builder.tuning.recall import summarise
from retrieval.artifact.manifest import FilteredRecall
from retrieval.search.candidates import Candidates
from retrieval.search.filters.masks import Mask
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, RowGroups
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, group_identical

COUNT, USERS = 1600, 90
DRAW = np.random.default_rng(0)
VECTORS = DRAW.normal(loc=0.2, size=(COUNT, 24))
VECTORS[5::6] = VECTORS[3::6][: len(VECTORS[5::6])]  # Some share a row.
UNITS, PEOPLE = unit_vectors(VECTORS), unit_vectors(DRAW.normal(loc=0.1, size=(USERS, 24)))
FIRST, GROUPS = group_identical(UNITS)
PLAIN = SideSettings(SearchSettings(20, 1.0, 1), SearchSettings(24, 1.0, 1))

Make = Callable[[list[FilteredSettings], list[FilteredSettings]], ProductIndex]


@pytest.fixture(scope="module")
def coarse() -> faiss.Index:
    """Codes so coarse that they leave out much of what they should find."""
    return faiss_index(UNITS[FIRST], "Tiers8x4+16x4")


@pytest.fixture
def make(coarse: faiss.Index, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make codes be scanned wherever fewer rows are looked for than match."""
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    return lambda filtered, uneven: ProductIndex(coarse, GROUPS, PLAIN, filtered=filtered, uneven=uneven)


def grid(target: float = 0.9) -> FilterGrid:
    return FilterGrid(ProductIndex(faiss_index(UNITS[FIRST]), GROUPS, SideSettings()), PEOPLE, target)


@pytest.mark.parametrize("share", SHARES)
def test_each_user_is_given_a_share_of_the_products(share: float) -> None:
    for products in PRODUCTS:
        groups = grid()._groups(products, share)
        assert sorted(user for group in groups for user in group.users.tolist()) == [*range(USERS)]
        for group in groups:
            same_row = 3  # Products of one vector are equally near.
            assert 0 <= group.mask.matched - max(1, round(share * COUNT)) < same_row
            assert group.positions.tolist() == group.mask.positions().tolist()


def test_liked_products_are_nearer_to_their_users_than_random_ones_and_disliked_ones_farther() -> None:
    disliked, random, liked = (
        np.mean([(PEOPLE[group.users] @ UNITS[group.positions].T).mean() for group in grid()._groups(products, 0.1)])
        for products in (DISLIKED, RANDOM, LIKED)
    )
    assert disliked < random - 0.05
    assert random < liked - 0.05


@pytest.mark.parametrize("scores_at_once", [40, 7_000, 2**22])
def test_the_last_matches_are_those_that_numpy_finds(monkeypatch: pytest.MonkeyPatch, scores_at_once: int) -> None:
    monkeypatch.setattr(filtered, "MAX_SCORES", scores_at_once)
    some, cosines = grid(), PEOPLE.astype(np.float64) @ UNITS.astype(np.float64).T
    for (products, share), of_sides in some._kth_scores.items():
        for group in some._groups(products, share):
            among = np.sort(cosines[group.users][:, group.mask.positions()], axis=1)
            k = min(10, among.shape[1])
            expected = among[:, -k], -among[:, k - 1]
            np.testing.assert_allclose(of_sides[:, group.users], expected, rtol=0, atol=1e-6)


def test_a_cell_is_measured_as_numpy_measures_it(make: Make) -> None:
    index, some = make([], []), grid()
    for share in SHARES[2:]:
        for products in PRODUCTS:
            cell = some._measure(index, products, share)
            assert (cell.products, cell.share, cell.path) == (products, share, "candidates")
            for sign, side, measured in ((1, 0, cell.best), (-1, 1, cell.worst)):
                groups = some._groups(products, share)
                shares = [recall_of(index, PEOPLE[group.users], group.mask, sign, side) for group in groups]
                # A score may lie so close to the tolerance that rounding it decides.
                assert measured.mean == pytest.approx(np.concatenate(shares).mean(), abs=2 / (10 * USERS))
                assert (measured.k, measured.users) == (10, USERS)
                assert measured.mean < 0.95


def recall_of(index: ProductIndex, users: np.ndarray, mask: Mask, sign: int, side: int) -> np.ndarray:
    """The share of ten products (u,) whose own cosine reaches the exact tenth of those that match."""
    cosines = sign * users.astype(np.float64) @ UNITS.astype(np.float64).T
    tenth = np.sort(cosines[:, mask.positions()], axis=1)[:, -10, None]
    found = np.take_along_axis(cosines, index.search(users, 10, mask)[side].positions, axis=1)
    return np.minimum((found >= tenth - 1e-5).sum(axis=1), 10) / 10


def test_a_share_that_misses_gets_more_candidates_until_it_reaches_the_target(make: Make) -> None:
    settings, _, cells = grid(target=0.9).settle(make, PLAIN)
    assert len(cells) == len(SHARES) * len(PRODUCTS)
    assert all(min(cell.best.lower_bound, cell.worst.lower_bound) >= 0.9 for cell in cells)
    assert [each.max_share for each in settings] == pytest.approx([10**-2.5, 10**-1.5, 0.05**0.5, 0.495**0.5, 1.0])
    assert settings[0].search == PLAIN  # So few products are scored one by one.
    assert settings[3].search.best.candidates > PLAIN.best.candidates
    assert "candidates" in {cell.path for cell in cells}


def test_a_share_that_no_candidates_do_for_is_scanned_exactly(make: Make) -> None:
    settings, _, cells = grid(target=0.9999).settle(make, PLAIN)
    assert {cell.path for cell in cells if cell.share == 0.5} == {"exact"}
    assert max(settings[3].search.best.candidates, settings[3].search.worst.candidates) == GROUPS.row_count
    assert all(cell.best.mean == cell.worst.mean == 1.0 for cell in cells if cell.path == "exact")


def test_settings_go_by_the_rows_that_products_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    a_vector = 10  # products
    index, rows = faiss_index(UNITS[FIRST], "Tiers8x4+16x4"), len(FIRST)
    products = np.arange(rows * a_vector).reshape(a_vector, rows).T  # Those of a row are far apart in the catalogue.
    groups = RowGroups(np.arange(rows + 1) * a_vector, products.ravel())
    some = FilterGrid(ProductIndex(faiss_index(UNITS[FIRST]), groups, SideSettings()), PEOPLE, 0.99)
    indexes: list[ProductIndex] = []

    def make(filtered: list[FilteredSettings], uneven: list[FilteredSettings]) -> ProductIndex:
        assert len(indexes) < 100, "no end in sight"
        indexes.append(ProductIndex(index, groups, PLAIN, filtered=filtered, uneven=uneven))
        return indexes[-1]

    filtered, uneven, cells = some.settle(make, PLAIN)
    served = ProductIndex(index, groups, PLAIN, filtered=filtered, uneven=uneven)
    assert cells == [some._measure(served, products, share) for share in SHARES for products in PRODUCTS]
    assert all(min(cell.best.lower_bound, cell.worst.lower_bound) >= 0.99 for cell in cells if cell.path != "exact")
    # A hundredth of the products has a tenth of the rows, and half of them nearly all.
    assert filtered[0].search == PLAIN
    assert filtered[2].search.best.candidates > PLAIN.best.candidates
    assert filtered[4].search.best.candidates > PLAIN.best.candidates


def test_a_grid_is_freed_once_it_is_measured() -> None:
    some = grid()
    some._groups(RANDOM, 0.1)
    known = weakref.ref(some)
    del some
    gc.collect()
    assert known() is None


def test_settings_that_do_are_not_repeated(make: Make) -> None:
    settings, _, cells = grid(target=0.1).settle(make, PLAIN)
    assert settings == []
    assert {cell.path for cell in cells if cell.share > 0.05} == {"candidates"}


@pytest.mark.parametrize("side", SIDES)
def test_as_many_candidates_more_are_taken_as_the_users_need(make: Make, side: str) -> None:
    index, some, cell, settings = make([], []), grid(target=0.95), (RANDOM, 0.5), SearchSettings(20, 1.0, 1)
    [group] = some._groups(*cell)
    sign, number = (1, 0) if side == "best" else (-1, 1)
    for step in range(1, 10):
        count = ceil(20 * 1.25**step)
        deeper = ProductIndex(index.index, GROUPS, SideSettings(*[SearchSettings(count, 1.0, 1)] * 2))
        if summarise(recall_of(deeper, PEOPLE, group.mask, sign, number), 10).lower_bound >= 0.95:
            break
    assert count > 40
    raised = some._raised(index, side, settings, [(cell, group)])
    assert raised == SearchSettings(count, count / 20, 1)
    few = grid(target=0.99999)._raised(index, side, settings, [(cell, group)])  # No users show it, whatever is found.
    assert few == SearchSettings(150, 7.5, 1)


def test_lists_are_visited_where_what_is_missed_is_not_in_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    index = ProductIndex(faiss_index(UNITS[FIRST], "Tiers24x1,IVF24"), GROUPS, PLAIN)
    some, cell = grid(target=0.95), (RANDOM, 0.5)
    groups = [(cell, group) for group in some._groups(*cell)]
    assert some._raised(index, "best", SearchSettings(20, 2.0, 5), groups) == SearchSettings(20, 2.0, 7)
    with_lists = some._raised(index, "best", SearchSettings(10, 2.0, 24), groups)
    assert (with_lists.nprobe, with_lists.per_match) == (24, 2.0 * with_lists.candidates / 10)
    assert 10 < with_lists.candidates < 75


def test_uneven_masks_get_settings_that_even_ones_do_not_pay_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    index = faiss_index(UNITS[FIRST], "Tiers24x1,IVF24")
    plain, some = SideSettings(SearchSettings(60, 1.0, 16), SearchSettings(60, 1.0, 16)), grid(target=0.95)

    def make(filtered: list[FilteredSettings], uneven: list[FilteredSettings]) -> ProductIndex:
        return ProductIndex(index, GROUPS, plain, filtered=filtered, uneven=uneven)

    filtered, uneven, cells = some.settle(make, plain)
    assert len(filtered) == len(SHARES)
    assert [each.max_share for each in uneven] == [1.0]
    assert filtered[3].search.best == plain.best
    assert uneven[0].search.best.nprobe > plain.best.nprobe
    served = make(filtered, uneven)
    for cell in cells:
        assert cell == some._measure(served, cell.products, cell.share)
        assert min(cell.best.lower_bound, cell.worst.lower_bound) >= 0.95


def test_known_settings_are_measured_once_and_kept_where_they_do(make: Make) -> None:
    some = grid(target=0.9)
    filtered, uneven, cells = some.settle(make, PLAIN)
    measured = []

    def noting(*settings: list[FilteredSettings]) -> ProductIndex:
        measured.append(settings)
        return make(*settings)

    assert some.settle(noting, PLAIN, filtered, uneven) == (filtered, uneven, cells)
    assert measured == [(filtered, uneven)]


def test_where_all_lists_are_visited_more_candidates_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidates, "picked_rows", lambda self, depth, mask, _codes: self.count_for(depth, mask))
    index = ProductIndex(faiss_index(UNITS[FIRST], "Tiers24x1,IVF24"), GROUPS, PLAIN)
    some, cell = grid(target=0.99999), (RANDOM, 0.5)  # No users show it.
    groups = [(cell, group) for group in some._groups(*cell)]
    assert some._raised(index, "best", SearchSettings(20, 2.0, 22), groups) == SearchSettings(20, 2.0, 24)
    assert some._raised(index, "best", SearchSettings(20, 2.0, 24), groups) == SearchSettings(150, 15.0, 24)


def test_only_those_settings_are_raised_that_a_group_was_searched_with(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, some, cell = make([], []), grid(target=0.9), (LIKED, 0.5)
    searched, scanned, *_ = some._groups(*cell)
    monkeypatch.setattr(some, "_groups", lambda *_: [searched, scanned])
    monkeypatch.setattr(index, "path", lambda _, mask: "exact" if mask is scanned.mask else "candidates")
    monkeypatch.setattr(filtered, "_key", lambda _, mask: 2.0 if mask is scanned.mask else 0.5)
    missing = FilteredRecall(*cell, "candidates", summarise(np.full(9, 0.5), 10), summarise(np.ones(200), 10))
    assert some._missed(index, {cell: missing}) == {(0.5, "best"): [(cell, searched)]}
