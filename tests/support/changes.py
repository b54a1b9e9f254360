"""Random changes of a catalogue, and what is left of one after them: in plain Python, product by product."""

import random
from typing import Any

import numpy as np

from tests.support.filter_oracle import RandomFilters

Product = dict[str, Any]


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
