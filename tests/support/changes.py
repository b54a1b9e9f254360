"""Random changes of a catalogue, what is left of one after them, product by product, and what builds answer."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import Updated, UpdateRequest, update
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from retrieval.vectors import unit_vectors
from tests.support.catalogues import write_lines
from tests.support.filter_oracle import RandomFilters

Product = dict[str, Any]
_USERS, _SEED = 6, 7


class ChangedProducts:
    """Products in catalogue order, which changes are made to as the lines of a file say."""

    def __init__(self, products: list[Product]):
        self.by_id = {product["id"]: product for product in products}

    @property
    def products(self) -> list[Product]:
        return [*self.by_id.values()]

    def apply(self, lines: list[Product]) -> None:
        """Make changes: what is replaced or changed keeps its place, and what is new comes last."""
        for line in lines:
            identifier = line["id"]
            if line.get("delete"):
                del self.by_id[identifier]
            elif "set" in line:
                changed = {**self.by_id[identifier], **line["set"]}
                removed = [name for name, value in line["set"].items() if value is None]
                self.by_id[identifier] = {name: value for name, value in changed.items() if name not in removed}
            else:
                self.by_id[identifier] = line


class RandomChanges:
    """Draws lines of files of changes from one seed. Vectors of other products come again and again."""

    def __init__(self, dimension: int, seed: int):
        self._draw, self._dimension = random.Random(seed), dimension
        self._vectors = np.random.default_rng(seed)
        self._fields = RandomFilters(seed)
        self._count = 0
        self._gone: list[str] = []

    def lines(self, products: list[Product], count: int) -> list[Product]:
        """Return so many changes of different products; ids that were deleted before may come back."""
        chosen = self._draw.sample(products, count)
        lines = [self._change(product, products) for product in chosen]
        self._gone += [line["id"] for line in lines if "delete" in line]
        return lines

    def _change(self, product: Product, products: list[Product]) -> Product:
        kind = self._draw.choice(["add", "replace", "set", "set", "delete"])
        if kind == "delete":
            return {"id": product["id"], "delete": True}
        [fields] = self._fields.products(1)
        if kind == "set":
            members = {**fields, "name": f"renamed {self._draw.randrange(9)}", "shop": None}
            names = self._draw.sample([*members], self._draw.randint(1, len(members)))
            return {"id": product["id"], "set": {name: members[name] for name in names}}
        identifier = product["id"] if kind == "replace" else self._new_id()
        return {"id": identifier, "name": f"new {self._draw.randrange(9)}", "vector": self._vector(products), **fields}

    def _new_id(self) -> str:
        if self._gone and self._draw.random() < 0.5:
            return self._gone.pop(self._draw.randrange(len(self._gone)))
        self._count += 1
        return f"n{self._count}"

    def _vector(self, products: list[Product]) -> list[float]:
        if self._draw.random() < 0.5:
            return self._draw.choice(products)["vector"]
        return self._vectors.normal(size=self._dimension).tolist()


def change(directory: Path, lines: list[dict[str, Any]]) -> Updated:
    """Update the artifacts in a directory with the lines of a file."""
    return update(UpdateRequest(update=write_lines(directory / "changes.jsonl", lines), out=directory / "artifacts"))


def build_whole(directory: Path, products: list[dict[str, Any]], **options: Any) -> Build:
    """Build all products beside the artifacts in a directory."""
    source, root = write_lines(directory / "whole.jsonl", products), directory / "whole"
    build(BuildRequest(products=source, out=root, index="Flat", allow_low_recall=True, **options))
    return open_current(root)


def answers(build: Build, k: int, query: dict[str, Any] | None = None, exclude: list[str] | None = None) -> list[Any]:
    """Return all that each user is answered on both sides, behind the number of products that match."""
    mask = None if query is None and exclude is None else build.filters.mask(build.filters.parse(query or {}))
    matched = mask and mask.matched
    if mask and exclude:
        mask = build.filters.without(mask, build.products.positions(exclude))
    users = np.random.default_rng(_SEED).normal(size=(_USERS, build.manifest.dimension))
    sides = build.index.search(unit_vectors(users), k, mask)
    return [
        matched,
        *([matches(build, *user) for user in zip(side.positions, side.scores, strict=True)] for side in sides),
    ]


def matches(build: Build, positions: NDArray[np.int64], scores: NDArray[np.float64]) -> list[Any]:
    return [(build.products[place], score) for place, score in zip(positions.tolist(), scores.tolist(), strict=True)]
