"""How Milvus keeps the fields that products are filtered by: typed columns.

Milvus 2.3 knows no null, so each type of column has a value that stands for none, which no product may have there. A
list of numbers has columns for its least and its greatest element too: one of them compares as any element does.
"""

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pymilvus import DataType

from retrieval.artifact.fields.writer import MAX_LIST_ELEMENTS, MAX_TEXT_BYTES
from retrieval.search.filters.facts import FieldFacts

TEXT_OF_NONE = "\uffff"  # Unicode says that this is no character.
_CUT_AT = "\0"  # Milvus's index of texts takes this for their end.
_MAX_NAME_LENGTH = 100
_GREATEST = sys.float_info.max

Value = str | int | float


@dataclass(frozen=True)
class ColumnType:
    """A type of Milvus, and the value in it that stands for `none`; numbers are from `least` to `greatest`."""

    data_type: DataType
    none: Value
    least: Any = None
    greatest: Any = None

    def fit(self, value: Any) -> Value | None:
        """Return a value as Milvus keeps it, or None where it keeps no such value: no product has it then."""
        if isinstance(value, str):
            return value if _is_kept(value) else None
        if not self.least <= value <= self.greatest:
            return None
        fitted: Value = value + 0.0 if self.data_type is DataType.DOUBLE else int(value)  # Adding 0 makes 0.0 of -0.0.
        return fitted if fitted == value else None


TYPES = {
    "keyword": ColumnType(DataType.VARCHAR, TEXT_OF_NONE),
    "boolean": ColumnType(DataType.INT8, -128, 0, 1),  # Milvus 2.3 makes no index of its own booleans.
    "integer": ColumnType(DataType.INT64, -(2**63), 1 - 2**63, 2**63 - 1),
    "fraction": ColumnType(DataType.DOUBLE, -_GREATEST, math.nextafter(-_GREATEST, 0), _GREATEST),
}


@dataclass(frozen=True)
class FieldColumns:
    """The columns of a filterable field, which are called after `column`; `type` is a key of TYPES."""

    column: str
    type: str
    is_list: bool

    @property
    def column_type(self) -> ColumnType:
        return TYPES[self.type]

    @property
    def least(self) -> str:
        """The column of a product's only or its least number."""
        return f"{self.column}_least" if self.is_list else self.column

    @property
    def greatest(self) -> str:
        """The column of a product's only or its greatest number."""
        return f"{self.column}_greatest" if self.is_list else self.column

    @property
    def schema(self) -> list[dict[str, Any]]:
        """The columns, as arguments of pymilvus's `add_field`."""
        data_type = self.column_type.data_type
        length = {"max_length": MAX_TEXT_BYTES} if self.type == "keyword" else {}
        if not self.is_list:
            return [{"field_name": self.column, "datatype": data_type, **length}]
        array = {"datatype": DataType.ARRAY, "element_type": data_type, "max_capacity": MAX_LIST_ELEMENTS}
        ends = [] if self.type == "keyword" else [self.least, self.greatest]
        return [
            {"field_name": self.column, **array, **length},
            *({"field_name": e, "datatype": data_type} for e in ends),
        ]

    def row(self, value: Any) -> dict[str, Any]:
        """Return what the columns hold of a product with this value, which is None or [] where it has none."""
        elements = [each for each in (value if self.is_list else [value]) or () if each is not None]
        kept: list[Any] = [self.column_type.fit(each) for each in elements] or [self.column_type.none]
        if not self.is_list:
            return {self.column: kept[0]}
        ends = {} if self.type == "keyword" else {self.least: min(kept), self.greatest: max(kept)}
        return {self.column: kept, **ends}


def columns_of(number: int, facts: FieldFacts, values: Iterable[Value]) -> FieldColumns:
    """Return the columns of a field with these distinct values; those of no two numbers have the same name."""
    column = f"f{number}_{re.sub('[^0-9A-Za-z]', '_', facts.name)[:_MAX_NAME_LENGTH]}"
    number_type = "integer" if all(isinstance(value, int) for value in values) else "fraction"
    kind = number_type if facts.element == "number" else facts.element
    return FieldColumns(column, kind, facts.type.startswith("list"))


def reason_not_kept(columns: FieldColumns, values: Iterable[Value]) -> str:
    """Return why Milvus does not keep one of the distinct values of a field, or "" where it keeps all."""
    lost = next((value for value in values if columns.column_type.fit(value) is None), None)
    if isinstance(lost, str):
        return "it has a text with the character U+0000, or one that is U+FFFF, which Milvus does not keep"
    return "" if lost is None else f"it has the number {lost}, which Milvus does not keep"


def is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogate, which no catalogue holds and no request to Milvus can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_kept(text: str) -> bool:
    """Tell whether Milvus keeps a text that a catalogue's filterable field may have."""
    is_kept = is_unicode(text) and text != TEXT_OF_NONE and _CUT_AT not in text
    return is_kept and len(text.encode()) <= MAX_TEXT_BYTES
