"""What a build knows of the fields that its products can be filtered by."""

from dataclasses import dataclass
from typing import Literal

FieldType = Literal["keyword", "number", "boolean", "list of keyword", "list of number"]


@dataclass(frozen=True)
class FieldFacts:
    """A filterable field: how many distinct `values` it has, and the share of products that have one."""

    name: str
    type: FieldType
    values: int
    coverage: float

    @property
    def element(self) -> str:
        """The type of one value: "keyword", "number" or "boolean"."""
        return self.type.removeprefix("list of ")
