"""A small build whose products have fields, and what a request with options must be answered."""

from pathlib import Path
from typing import Any

import numpy as np

from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from tests.support.catalogues import products_of, write_lines
from tests.support.filter_oracle import RandomFilters, matching
from tests.support.oracle import Oracle

DIMENSION = 6
USER = [0.3, -1.0, 0.2, 0.9, -0.4, 0.1]


class FilteredProducts:
    """Products with random fields of every type, of which every fifth has the vector of an earlier one."""

    def __init__(self, count: int = 90, seed: int = 5):
        draw = np.random.default_rng(seed)
        self.vectors = draw.normal(size=(count, DIMENSION))
        self.vectors[4::5] = self.vectors[draw.integers(0, 4, len(self.vectors[4::5]))]
        self.fields = RandomFilters(seed).products(count)
        self.rows = [{**row, **more} for row, more in zip(products_of(self.vectors), self.fields, strict=True)]

    def build(self, directory: Path, **options: Any) -> Build:
        source = write_lines(directory / "products.jsonl", self.rows)
        build(BuildRequest(products=source, out=directory / "artifacts", allow_low_recall=True, **options))
        return open_current(directory / "artifacts")

    def check(
        self,
        answer: dict[str, Any],
        user: list[float],
        k: int = 10,
        query: dict[str, Any] | None = None,
        exclude: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> None:
        """Assert that both sides are exact NumPy's over the products that a filter and `exclude` leave, in order."""
        matched = matching(self.fields, query or {})
        assert answer.get("matched") == (None if query is None else len(matched))
        kept = [position for position in matched if f"p{position}" not in exclude]
        nth = {f"p{position}": i for i, position in enumerate(kept)}
        for side in ("best", "worst"):
            assert {match["id"] for match in answer[side]} <= nth.keys()
            found = [nth[match["id"]] for match in answer[side]]
            scores = [match["score"] for match in answer[side]]
            if kept:
                Oracle(self.vectors[kept]).check(np.array(user), side, found, scores, k)
            else:
                assert found == []
