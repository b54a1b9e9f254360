"""Lists of a side: limits by value, then diversity, then k, by as few searches as it takes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.search.filters.tree import Filter, OneOf, Some
from retrieval.search.reranking import request
from retrieval.search.reranking.diversity import pick_diverse
from retrieval.search.reranking.limits import ProductValues, ValueCounts, Values
from retrieval.search.reranking.lists import Ranked, make_list
from retrieval.search.reranking.request import ListOptions
from tests.support.list_oracle import ListOracle
from tests.support.oracle import unit


class Shelf:
    """Products in the order of a side, of which a search finds the first ones that a filter does not let through."""

    def __init__(self, fields: list[dict[str, Any]], sign: int = 1):
        self.fields, self.sign = fields, sign
        self.scores = sign * np.linspace(0.9, -0.9, len(fields)).round(6)
        self.depths: list[int] = []
        self.read = 0

    def search(self, depth: int, without: Filter | None = None) -> Ranked:
        self.depths.append(depth)
        left = [i for i, fields in enumerate(self.fields) if without is None or not self._matches(fields, without)]
        found = np.array(left[:depth], np.int64)
        return Ranked(found, self.scores[found], len(found) < depth)

    def values_of(self, positions: Sequence[int], names: tuple[str, ...]) -> Iterator[Values]:
        for values in ProductValues(self.fields.__getitem__).of(positions, names):
            self.read += 1
            yield values

    def vectors_of(self, positions: np.ndarray) -> np.ndarray:
        raise AssertionError("no vectors are needed")

    def list_of(self, **options: Any) -> list[int]:
        wanted = ListOptions(**options)
        made = make_list(self.search(wanted.depth), self.sign, wanted, self, self.search)
        assert made.scores.tolist() == self.scores[made.positions].tolist()
        return made.positions.tolist()

    def _matches(self, fields: dict[str, Any], tree: Filter) -> bool:
        if isinstance(tree, Some):
            return any(self._matches(fields, member) for member in tree.filters)
        assert isinstance(tree, OneOf)
        value = fields.get(tree.field)
        return not tree.values.isdisjoint(value if isinstance(value, list) else [value])


VALUE = st.one_of(st.none(), st.sampled_from("abc"))
VALUES = st.one_of(VALUE, st.lists(VALUE, max_size=3))


@given(
    st.lists(st.fixed_dictionaries({"x": VALUES, "y": st.sampled_from("pqr")}), max_size=40),
    st.sampled_from([(("x", 1),), (("x", 2), ("y", 3)), (("y", 1),)]),
    st.integers(1, 45),
    st.sampled_from([0, 4]),
    st.sampled_from([1, -1]),
)
def test_a_limited_list_is_what_a_walk_through_all_products_picks(
    fields: list[dict[str, Any]], max_per: tuple[tuple[str, int], ...], k: int, spare: int, sign: int
) -> None:
    shelf = Shelf(fields, sign)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "_SPARE_PER_MATCH", spare)
        found = shelf.list_of(k=k, max_per=max_per)
    assert found == ListOracle(np.empty((0, 2)), fields).limited([*range(len(fields))], dict(max_per))[:k]
    assert len(shelf.depths) <= 2 + np.log2(40) / 2


def test_a_list_that_is_full_at_once_reads_no_further_products() -> None:
    shelf = Shelf([{"x": str(i)} for i in range(100)])
    assert shelf.list_of(k=5, max_per=(("x", 1),)) == [0, 1, 2, 3, 4]
    assert (shelf.depths, shelf.read) == ([20], 5)


def test_a_search_that_goes_deeper_leaves_out_what_is_full_and_looks_further_each_time() -> None:
    fields: list[dict[str, Any]] = [{"x": "a"}] * 5000 + [{"x": str(i // 300)} for i in range(5000)]
    shelf = Shelf(fields)
    assert shelf.list_of(k=4, max_per=(("x", 1),)) == [0, 5000, 5300, 5600]
    assert shelf.depths == [16, 1 + 16, 2 + 64, 3 + 256]


def test_a_product_that_an_approximate_search_finds_late_stands_where_its_score_puts_it() -> None:
    shelf = Shelf([{"x": "a"}, {"x": "b"}, {"x": "a"}, {"x": "c"}])
    first = Ranked(np.array([0, 2]), shelf.scores[[0, 2]])
    made = make_list(first, 1, ListOptions(3, max_per=(("x", 1),)), shelf, shelf.search)
    assert made.positions.tolist() == [0, 1, 3]
    late = make_list(
        Ranked(np.array([3]), shelf.scores[[3]]), 1, ListOptions(2, max_per=(("x", 1),)), shelf, shelf.search
    )
    assert late.positions.tolist() == [0, 3]


def test_the_values_of_a_list_count_once_each_and_null_is_none() -> None:
    products: list[dict[str, Any]] = [
        *({"x": ["a", "a", None]}, {"x": ["a", "b"]}, {"x": ["b", "a"]}, {"x": ["b"]}),
        *({"x": []}, {"x": None}, {}, {"x": [None]}),
    ]
    values, counts = ProductValues(products.__getitem__), ValueCounts((("x", 2),))
    picked = [*map(counts.pick, values.of(range(len(products)), ("x",)))]
    assert picked == [True, True, False, True, True, True, True, True]
    assert counts.full() == OneOf("x", frozenset("ab"))


def test_a_product_that_is_not_picked_counts_for_nothing() -> None:
    counts = ValueCounts((("x", 1), ("y", 1)))
    assert counts.pick(["a", "p"])
    assert not counts.pick(["b", "p"])
    assert counts.pick(["b", "q"])


def test_the_values_of_a_product_are_read_once() -> None:
    products, read = {7: {"x": "a", "y": {"z": ["b"]}}}, []

    def product_at(position: int) -> dict[str, Any]:
        read.append(position)
        return products[position]

    values = ProductValues(product_at)
    for names, expected in ((("x", "y.z"), [["a"], ["b"]]), (("x", "y.z"), [["a"], ["b"]]), (("y.z",), [["b"]])):
        [found] = values.of([7], names)
        assert [[*of_field] for of_field in found] == expected
    assert read == [7, 7]


@pytest.mark.parametrize(
    ("options", "wanted", "depth"),
    [
        (ListOptions(10), 10, 10),
        (ListOptions(10, diversity=0.1), 100, 100),
        (ListOptions(300, diversity=0.1), 2000, 2000),
        (ListOptions(2500, diversity=0.1), 2500, 2500),
        (ListOptions(10, max_per=(("x", 1),)), 10, 40),
        (ListOptions(1000, max_per=(("x", 1),)), 1000, 1064),
    ],
    ids=str,
)
def test_as_many_products_are_looked_for_as_a_list_is_likely_to_take(
    options: ListOptions, wanted: int, depth: int
) -> None:
    assert (options.wanted, options.depth) == (wanted, depth)


@pytest.mark.parametrize(
    ("k", "diversity", "work"),
    [(10, 0.0, 10), (1000, 0.0, 1000), (1, 0.1, 10), (10, 0.1, 100), (100, 0.1, 2000), (1000, 0.1, 40_000)],
)
def test_diversity_counts_as_the_matches_that_take_its_time(k: int, diversity: float, work: int) -> None:
    assert ListOptions(k, max_per=(("x", 1),), diversity=diversity).work == work


@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(1, 60), st.sampled_from([0.05, 0.3, 0.9, 1.0]))
def test_diverse_picks_are_those_of_plain_python(seed: int, count: int, k: int, diversity: float) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, 8))
    vectors[::4] = vectors[0]  # Equal vectors tie, unless their scores differ.
    relevance = np.sort(draw.integers(-9, 10, count) / 10)[::-1]
    expected = ListOracle(vectors, []).diverse([*range(count)], relevance.tolist(), k, diversity)
    units = unit(vectors).astype(np.float32)
    assert pick_diverse(units, relevance, k, diversity).tolist() == expected


def test_of_no_products_none_is_picked() -> None:
    assert pick_diverse(np.empty((0, 3), np.float32), np.empty(0), 5, 0.5).tolist() == []
