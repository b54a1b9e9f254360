"""The further fields of products that matches are shown with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.reranking.fields import pick_fields
from service.engines.base import FieldEngine

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
