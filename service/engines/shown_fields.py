"""The further fields of products that matches are shown with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import FieldEngine

ALL_FIELDS = "*"
_PRODUCTS_AT_ONCE = 16  # One may have fields of a megabyte.


@dataclass(frozen=True, slots=True)
class ShownFields:
    """The fields of these `names` of each product (m,); they are read as they are iterated over, and not kept."""

    engine: FieldEngine
    positions: NDArray[np.int64]
    names: Sequence[str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.positions), _PRODUCTS_AT_ONCE):
            products = self.engine.fields_of(self.positions[start : start + _PRODUCTS_AT_ONCE])
            yield from (pick_fields(product, self.names) for product in products)

    def part(self, part: slice) -> "ShownFields":
        return ShownFields(self.engine, self.positions[part], self.names)


def pick_fields(product: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of these names, "*" for all but id and name, that a product has; null is none.

    A name with dots leads into objects, unless it is a key itself.
    """
    further = {name: value for name, value in product.items() if name not in ("id", "name")}
    found = further if ALL_FIELDS in names else {name: _look_up(further, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _look_up(node: Any, name: str) -> Any:
    """Return the value at a dotted name; keys may have dots themselves."""
    if not isinstance(node, dict):
        return None
    if name in node:
        return node[name]
    steps = name.split(".")
    heads = [".".join(steps[:length]) for length in range(1, len(steps))]
    found = (_look_up(node[head], name[len(head) + 1 :]) for head in heads if head in node)
    return next((value for value in found if value is not None), None)
