"""A catalogue with fields, and files of changes to it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogues import mixtures, sample_products

_CATEGORIES = 32
_VECTOR_DECIMALS = 5
KINDS = ("replaced", "added", "changed", "deleted")

Row = dict[str, Any]


def add_fields(path: Path) -> None:
    """Give products of an NPZ file what shops change: a price, whether it is in stock, and a category."""
    with np.load(path) as arrays:
        products = dict(arrays)
    count = len(products["ids"])
    draw = np.random.default_rng(4)
    products["price"] = draw.integers(100, 10_000, count) / 100
    products["in_stock"] = draw.random(count) < 0.9
    products["category"] = draw.integers(0, _CATEGORIES, count).astype(str)
    np.savez(path, allow_pickle=False, **products)


@dataclass
class Changes:
    """Draws changes to a catalogue of p0, p1 and so on; no product is changed twice."""

    products: int
    directory: Path
    draw: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def __post_init__(self) -> None:
        self._untouched = self.draw.permutation(self.products)
        self._rows, self._added, self._files = sample_products(), 0, 0

    def write(self, **counts: int) -> Path:
        """Write a file of so many products that are `replaced`, `added`, `changed` and `deleted`; return it."""
        rows = [row for kind in KINDS for row in getattr(self, f"_{kind}_rows")(counts.get(kind, 0))]
        path = self.directory / f"changes {self._files}.jsonl"
        self._files += 1
        path.write_text("".join(f"{json.dumps(rows[i])}\n" for i in self.draw.permutation(len(rows))))
        return path

    def write_mixed(self, count: int) -> Path:
        """Write a file of so many changes, as many of each kind."""
        return self.write(**dict.fromkeys(KINDS, count // len(KINDS)))

    def _replaced_rows(self, count: int) -> list[Row]:
        return self._products(self._take(count))

    def _added_rows(self, count: int) -> list[Row]:
        first = self.products + self._added
        self._added += count
        return self._products([f"p{number}" for number in range(first, first + count)])

    def _changed_rows(self, count: int) -> list[Row]:
        prices = (self.draw.integers(100, 10_000, count) / 100).tolist()
        pairs = zip(self._take(count), prices, strict=True)
        return [{"id": identifier, "set": {"price": price, "in_stock": price < 50}} for identifier, price in pairs]

    def _deleted_rows(self, count: int) -> list[Row]:
        return [{"id": identifier, "delete": True} for identifier in self._take(count)]

    def _take(self, count: int) -> list[str]:
        taken, self._untouched = self._untouched[:count], self._untouched[count:]
        assert len(taken) == count, "the catalogue has no product left that was not changed"
        return [f"p{number}" for number in taken]

    def _products(self, ids: list[str]) -> list[Row]:
        vectors = mixtures(self._rows, len(ids), seed=int(self.draw.integers(2**31)))
        numbers = np.round(vectors.astype(np.float64), _VECTOR_DECIMALS).tolist()
        fields = {"price": 9.5, "in_stock": True, "category": "7"}
        pairs = zip(ids, numbers, strict=True)
        return [{"id": identifier, "name": identifier, **fields, "vector": vector} for identifier, vector in pairs]
