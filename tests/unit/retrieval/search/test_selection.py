"""FAISS finds rows of the mask, in lists that hold any, and nothing else."""

import gc
import math

import faiss
import numpy as np
import pytest

from retrieval.search import selection
from retrieval.search.candidates import Candidates, CodeScan
from retrieval.search.filters.masks import Mask
from retrieval.search.filters.postings import complement_of, count_by_group, count_of
from retrieval.search.kinds import scanned_index
from retrieval.search.selection import Selector, unevenness_of
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import faiss_index, group_identical
from tests.support.masks import maker_of, mask_over

COUNT, LISTS = 1203, 16  # The last byte of a bitmap is not full.
DRAW = np.random.default_rng(0)
UNITS, USERS = (unit_vectors(DRAW.normal(size=(count, 40))) for count in (COUNT, 6))
GROUPS = group_identical(UNITS)[1]
KINDS = ["Tiers8x1+32x1", f"Tiers8x1+32x1,IVF{LISTS}", f"IVF{LISTS},SQ8"]
ONE_LIST = SideSettings(SearchSettings(20, nprobe=1), SearchSettings(20, nprobe=1))


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest) -> faiss.Index:
    return faiss_index(UNITS, request.param)


def found_by(index: faiss.Index, mask: Mask, settings: SideSettings = ONE_LIST) -> np.ndarray:
    return Candidates(index, settings).find(USERS, 10, mask)


def lists_of(index: faiss.Index) -> np.ndarray:
    """The list (n,) of each row."""
    _, lists = scanned_index(index).quantizer.search(transformed(index, UNITS), 1)
    return lists[:, 0]


def transformed(index: faiss.Index, vectors: np.ndarray) -> np.ndarray:
    return CodeScan(index).transformed(vectors)


def test_only_rows_of_the_mask_are_found_whatever_their_bit(index: faiss.Index) -> None:
    for first in range(8):
        rows = np.arange(first, COUNT, 8)
        found = found_by(index, mask_over(GROUPS, rows))
        assert np.isin(found, [-1, *rows]).all()
        assert (found >= 0).any(axis=1).all()


def test_no_row_after_the_last_one_is_found(index: faiss.Index) -> None:
    mask = maker_of(GROUPS).mask_of(complement_of(mask_over(GROUPS, [0]).products, COUNT))
    everywhere = SideSettings(*[SearchSettings(COUNT, nprobe=LISTS)] * 2)
    assert np.sort(found_by(index, mask, everywhere), axis=1)[:, 1:].tolist() == [[*range(1, COUNT)]] * 2 * len(USERS)


def test_what_is_not_found_is_minus_one(index: faiss.Index) -> None:
    found = found_by(index, mask_over(GROUPS, [5, 700]), SideSettings(*[SearchSettings(20, nprobe=LISTS)] * 2))
    assert np.sort(found, axis=1).tolist() == [[-1] * 18 + [5, 700]] * 2 * len(USERS)


def test_the_lists_that_are_searched_hold_a_row_of_the_mask(index: faiss.Index) -> None:
    """Each side finds its rows in one list, however far from the query it is."""
    of_row = lists_of(index)
    for number in np.unique(of_row):
        rows = np.flatnonzero(of_row == number)[:9]
        assert (
            np.sort(found_by(index, mask_over(GROUPS, rows)), axis=1)[:, -len(rows) :].tolist() == [rows.tolist()] * 12
        )


@pytest.mark.parametrize("index", KINDS[1:], indirect=True)
def test_lists_without_a_row_of_a_large_mask_are_not_searched(index: faiss.Index) -> None:
    """Of a large mask, what it does not hold is counted: here, the lists nearest to two of the queries."""
    of_row, nearest = lists_of(index), found_by(index, mask_over(GROUPS, np.arange(COUNT)))[[0, 6], 0]
    rows = np.flatnonzero(~np.isin(of_row, of_row[nearest]))
    assert 2 * len(rows) > COUNT
    found = found_by(index, mask_over(GROUPS, rows))
    assert (found >= 0).any(axis=1).all()
    assert np.isin(found, [-1, *rows]).all()


def test_more_lists_than_hold_a_row_are_not_searched(index: faiss.Index) -> None:
    rows = np.flatnonzero(lists_of(index) == 0)
    found = found_by(index, mask_over(GROUPS, rows), SideSettings(*[SearchSettings(COUNT, nprobe=LISTS)] * 2))
    assert np.sort(found, axis=1)[:, -len(rows) :].tolist() == [rows.tolist()] * 2 * len(USERS)
    assert (np.sort(found, axis=1)[:, : -len(rows)] == -1).all()


def scores_by_codes(index: faiss.Index, nprobe: int) -> np.ndarray:
    """The scores (n, COUNT) of all rows in the lists that each user's search visits, and minus infinity of others."""
    scan = CodeScan(index)
    scores, rows = scan._scanned.search(scan.transformed(USERS), COUNT, params=faiss.SearchParametersIVF(nprobe=nprobe))
    of_rows = np.full((len(USERS), COUNT + 1), -np.inf)
    np.put_along_axis(of_rows, rows, scores, axis=1)  # Row -1 is the one behind the last.
    return of_rows[:, :COUNT]


@pytest.mark.parametrize("nprobe", [2, LISTS])
@pytest.mark.parametrize("left_out", ["one row", "at random", "the nearest"])
@pytest.mark.parametrize("index", KINDS[1:], indirect=True)
def test_of_a_mask_of_nearly_all_rows_the_first_by_their_codes_are_found(
    index: faiss.Index, monkeypatch: pytest.MonkeyPatch, left_out: str, nprobe: int
) -> None:
    """Where more than expected are left out, too: FAISS tests the rows then."""
    monkeypatch.setattr(Selector, "may_drop", lambda *_: True)
    rows: np.ndarray = {
        "one row": np.array([np.argmax(UNITS @ USERS[0])]),
        "at random": np.random.default_rng(7).choice(COUNT, 100, replace=False),
        "the nearest": np.argsort(-(UNITS @ USERS[0]))[:100],
    }[left_out]
    mask = mask_over(GROUPS, np.setdiff1d(np.arange(COUNT), rows))
    scan = CodeScan(index)
    found = scan.find(scan.transformed(USERS), 30, SearchSettings(30, nprobe=nprobe), 10, mask)
    assert not np.isin(found, rows).any()
    scores = scores_by_codes(index, nprobe)
    held = scores.copy()
    held[:, rows] = -np.inf
    np.testing.assert_array_equal(np.take_along_axis(scores, found, axis=1), -np.sort(-held, axis=1)[:, :30])


@pytest.mark.parametrize(("nprobe", "tests_rows"), [(LISTS // 2 - 1, True), (LISTS // 2, False)])
@pytest.mark.parametrize("index", KINDS[1:], indirect=True)
def test_rows_are_tested_where_a_search_visits_few(
    index: faiss.Index, monkeypatch: pytest.MonkeyPatch, nprobe: int, tests_rows: bool
) -> None:
    monkeypatch.setattr(selection, "_MIN_ROWS_TO_DROP", COUNT / 2)
    monkeypatch.setattr(selection, "MAX_UNEVENNESS", 1.0)
    asked: list[int] = []
    parameters = Selector.parameters

    def noting(self: Selector, settings: SearchSettings, mask: Mask) -> faiss.SearchParametersIVF:
        asked.append(settings.nprobe)
        return parameters(self, settings, mask)

    monkeypatch.setattr(Selector, "parameters", noting)
    scan, mask = CodeScan(index), mask_over(GROUPS, np.delete(np.arange(COUNT), np.arange(0, COUNT, 100)))
    scan.find(scan.transformed(USERS), 30, SearchSettings(30, nprobe=nprobe), 10, mask)
    assert bool(asked) == tests_rows


@pytest.mark.parametrize("index", KINDS[1:], indirect=True)
def test_few_are_dropped_of_a_mask_of_nearly_all_rows_of_each_list(
    index: faiss.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_MIN_ROWS_TO_DROP", 0)
    selector, of_row, settings = Selector(scanned_index(index)), lists_of(index), SearchSettings(nprobe=LISTS)
    draw = np.random.default_rng(8)
    assert selector.may_drop(settings, mask_over(GROUPS, np.flatnonzero(draw.random(COUNT) < 0.95)))
    assert not selector.may_drop(settings, mask_over(GROUPS, np.flatnonzero(draw.random(COUNT) < 0.85)))
    assert not selector.may_drop(settings, mask_over(GROUPS, np.flatnonzero(of_row > 0)))


def test_parameters_keep_what_faiss_reads_alive(index: faiss.Index) -> None:
    """FAISS's selectors point to bitmaps of ours, and its parameters to selectors."""
    scanned, rows = scanned_index(index), np.arange(0, COUNT, 5)
    selector, settings = Selector(scanned), SearchSettings(20, nprobe=LISTS)
    parameters = selector.parameters(settings, mask_over(GROUPS, rows))
    del selector
    gc.collect()
    overwritten = [np.full(-(-COUNT // 8), 255, np.uint8) for _ in range(2000)]
    _, found = scanned.search(transformed(index, USERS), 20, params=parameters)
    assert np.isin(found, rows).all(), len(overwritten)


def test_what_is_kept_for_a_mask_ends_with_it(index: faiss.Index) -> None:
    selector, mask = Selector(scanned_index(index)), mask_over(GROUPS, [1, 2, 3])
    selector.parameters(SearchSettings(), mask)
    assert len(selector._selections) == 1
    del mask
    gc.collect()
    assert len(selector._selections) == 0


@pytest.mark.parametrize("removed", [0, 1, 60, 500, 700])
def test_a_mask_made_of_another_has_the_lists_and_unevenness_of_its_rows(index: faiss.Index, removed: int) -> None:
    selector, maker = Selector(scanned_index(index)), maker_of(GROUPS)
    parent = mask_over(GROUPS, np.flatnonzero(lists_of(index)[GROUPS.row_of(np.arange(COUNT))] < 0.7 * LISTS))
    positions = np.random.default_rng(6).permutation(parent.positions())[:removed]
    left = maker.without(parent, positions)
    for mask in (left, maker.mask_of(left.products, parent), maker.without(left, left.positions()[:5])):
        alone = maker.mask_of(mask.products)
        assert selector.unevenness(mask) == selector.unevenness(alone)
        for nprobe in (1, LISTS):
            found = [
                Candidates(index, SideSettings(*[SearchSettings(20, nprobe=nprobe)] * 2)).find(USERS, 10, each).tolist()
                for each in (mask, alone)
            ]
            assert found[0] == found[1]


def test_a_mask_made_of_another_is_not_counted_anew(index: faiss.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def noting(rows: np.ndarray, group_of: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        counted.append(count_of(rows))
        return count_by_group(rows, group_of, sizes)

    monkeypatch.setattr(selection, "count_by_group", noting)
    selector, maker, parent = Selector(scanned_index(index)), maker_of(GROUPS), mask_over(GROUPS, np.arange(900))
    left = maker.without(parent, np.arange(0, 900, 50))
    for mask in (parent, left, maker.without(left, np.arange(3)), maker.mask_of(left.products, parent)):
        selector.unevenness(mask)
    chooses_lists = scanned_index(index).nlist > 1
    assert len(counted) == (4 if chooses_lists else 0)
    assert all(count < 20 for count in counted[1:])


def test_a_warm_index_knows_the_list_of_each_row(index: faiss.Index) -> None:
    candidates = Candidates(index, ONE_LIST)
    candidates.warm()
    selector = candidates._scan._selector
    assert selector
    assert ("_list_sizes" in vars(selector)) == (scanned_index(index).nlist > 1)


@pytest.mark.parametrize("kind", ["HNSW16", "PQ8x4fs", "SQ8"])
def test_kinds_that_do_not_keep_to_a_selection_take_no_mask(kind: str) -> None:
    """A graph may ignore it, codes without lists refuse it, and others test every row."""
    assert not Candidates(faiss_index(UNITS, kind), ONE_LIST).takes_masks


def test_a_share_of_rows_has_the_settings_of_its_own(index: faiss.Index) -> None:
    def both(count: int) -> SideSettings:
        return SideSettings(SearchSettings(count), SearchSettings(count))

    candidates = Candidates(index, both(20), [FilteredSettings(0.1, both(50)), FilteredSettings(0.5, both(90))])
    masks = [mask_over(GROUPS, np.arange(matched)) for matched in (1, 120, 121, 601, 602, COUNT)]
    assert [candidates.count_for(10, mask) for mask in masks] == [50, 50, 90, 90, 20, 20]
    assert candidates.count_for(10) == 20


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 1.0])
def test_rows_at_random_are_as_even_as_may_be(share: float) -> None:
    draw = np.random.default_rng(5)
    sizes = draw.integers(0, 300, 200)
    assert abs(np.mean([unevenness_of(draw.binomial(sizes, share), sizes) for _ in range(100)])) < 0.003


def test_the_unevenness_is_the_share_of_rows_that_chance_does_not_put_elsewhere() -> None:
    sizes, counts = np.array([40_000, 20_000, 20_000, 0]), np.array([30_000, 10_000, 0, 0])
    by_chance = math.sqrt(2 / math.pi * 20_000 * 0.5) + 2 * math.sqrt(2 / math.pi * 10_000 * 0.5)
    assert unevenness_of(counts, sizes) == pytest.approx((20_000 - by_chance) / 80_000)


@pytest.mark.parametrize("counts", [[90, 0, 10], [10, 10, 10], [0, 0, 1], [0, 0, 0]])
def test_what_a_mask_leaves_out_is_as_uneven_as_a_mask_of_it(counts: list[int]) -> None:
    sizes: np.ndarray = np.array([100, 100, 300])
    assert unevenness_of(sizes - np.array(counts), sizes) == pytest.approx(unevenness_of(np.array(counts), sizes))


def test_rows_of_some_lists_have_settings_of_their_own() -> None:
    def both(count: int) -> list[FilteredSettings]:
        return [FilteredSettings(1.0, SideSettings(SearchSettings(count), SearchSettings(count)))]

    index = faiss_index(UNITS, KINDS[1])
    rows = {"even": np.arange(0, COUNT, 2), "uneven": np.flatnonzero(lists_of(index) < LISTS // 2)}
    masks = {name: mask_over(GROUPS, of_rows) for name, of_rows in rows.items()}
    for uneven, expected in ((both(90), [50, 90]), ([], [50, 50])):
        candidates = Candidates(index, ONE_LIST, both(50), uneven)
        assert [candidates.count_for(10, mask) for mask in masks.values()] == expected
        assert [candidates.is_uneven(mask) for mask in masks.values()] == [False, True]
    one_list = Candidates(faiss_index(UNITS, KINDS[0]), ONE_LIST)
    assert not one_list.is_uneven(masks["uneven"])
