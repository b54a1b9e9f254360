"""Deltas: a base and the changes since answer as a build of the same products does, byte for byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.changes.update import UpdateRequest, update
from index_builder.pipeline import BuildRequest, build
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from retrieval.vectors import unit_vectors
from tests.support.catalogues import write_lines
from tests.support.changes import ChangedProducts, RandomChanges
from tests.support.filter_oracle import RandomFilters
from tests.support.filtered import DIMENSION, FilteredProducts

USERS = unit_vectors(np.random.default_rng(7).normal(size=(6, DIMENSION)))


def answers(build: Build, k: int, query: dict[str, Any] | None = None, exclude: list[str] | None = None) -> list[Any]:
    """Everything that each user is answered, both sides, and how many products match."""
    mask = None if query is None and exclude is None else build.filters.mask(build.filters.parse(query or {}))
    matched = mask and mask.matched
    if mask and exclude:
        positions = build.products.positions(exclude)
        mask = build.filters.without(mask, positions[positions >= 0])
    found = build.index.search(USERS, k, mask)
    return [matched] + [
        [
            [(build.products[place], score) for place, score in zip(*of_user, strict=True)]
            for of_user in zip(each.positions.tolist(), each.scores.tolist(), strict=True)
        ]
        for each in found
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_a_pair_answers_what_a_build_of_the_same_products_does(tmp_path: Path, seed: int, storage: Any) -> None:
    start = FilteredProducts(seed=seed)
    root = tmp_path / "artifacts"
    start.build(tmp_path, index="Flat", storage=storage)
    expected, changes, filters = ChangedProducts(start.rows), RandomChanges(DIMENSION, seed), RandomFilters(seed)
    for step in range(4):
        lines = changes.lines(expected.products, 25)
        expected.apply(lines)
        update(UpdateRequest(update=write_lines(tmp_path / f"changes {step}", lines), out=root))
        source = write_lines(tmp_path / "whole", expected.products)
        build(
            BuildRequest(products=source, out=tmp_path / "other", index="Flat", storage=storage, allow_low_recall=True)
        )
        pair, whole = open_current(root), open_current(tmp_path / "other")
        assert pair.manifest.products == whole.manifest.products == len(expected.products)
        assert {each.name: each for each in pair.manifest.filterable} == {
            each.name: each for each in whole.manifest.filterable
        }
        for k in (1, 10, 1000):
            assert answers(pair, k) == answers(whole, k)
        for query in [filters.filter() for _ in range(20)]:
            assert answers(pair, 10, query) == answers(whole, 10, query)
        excluded = [product["id"] for product in expected.products[::3]]
        assert answers(pair, 10, None, excluded) == answers(whole, 10, None, excluded)
