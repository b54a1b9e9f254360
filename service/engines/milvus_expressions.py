"""Filters as expressions of Milvus, with the meaning that they have as masks."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from retrieval.search.filters.tree import Compare, Every, Exists, Filter, Not, OneOf, Order, Some, Value
from service.engines.milvus_cluster import POSITION
from service.engines.milvus_columns import ColumnType, FieldColumns, is_unicode

EVERY_PRODUCT, NO_PRODUCT = f"{POSITION} >= 0", f"{POSITION} < 0"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})


def expression_of(tree: Filter, fields: Mapping[str, FieldColumns]) -> str:
    """Return the expression of a filter over fields with these columns; equal filters have the same one."""
    match tree:
        case OneOf(name, values):
            return _one_of(fields[name], values)
        case Compare(name, order, operand):
            return _compare(fields[name], order, operand)
        case Exists(name):
            return _exists(fields[name])
        case Not(inner):
            return f"not ({expression_of(inner, fields)})"
        case Some(members):
            return _join(" or ", (expression_of(member, fields) for member in members))
        case Every(members):
            return _join(" and ", (expression_of(member, fields) for member in members)) or EVERY_PRODUCT


def either_text(column: str, texts: Iterable[str]) -> str:
    """Return the expression that holds where a column has one of some texts, and perhaps where it has another."""
    return f"{column} in [{', '.join(map(_literal, filter(is_unicode, texts)))}]"


def both_hold(one: str, other: str) -> str:
    """Return the expression that holds where both do, of which an empty one always does."""
    return f"({one}) and ({other})" if one and other else one or other


def _one_of(field: FieldColumns, values: Iterable[Value]) -> str:
    fitted = [each for each in map(field.column_type.fit, values) if each is not None]
    return _contains(field, sorted(fitted)) if fitted else NO_PRODUCT


def _contains(field: FieldColumns, values: Iterable[Any]) -> str:
    literals = f"[{', '.join(map(_literal, values))}]"
    return f"array_contains_any({field.column}, {literals})" if field.is_list else f"{field.column} in {literals}"


def _exists(field: FieldColumns) -> str:
    if field.type == "keyword":
        return f"not ({_contains(field, [field.column_type.none])})"
    return f"{field.greatest} >= {_literal(field.column_type.least)}"


def _compare(field: FieldColumns, order: Order, operand: float) -> str:
    kept = field.column_type
    low, high = _range(kept, order, operand)
    if low > high:
        return NO_PRODUCT
    if order in ("$gt", "$gte"):
        return f"{field.greatest} >= {_literal(low)}"
    return f"({field.least} >= {_literal(low)}) and ({field.least} <= {_literal(high)})"


def _range(kept: ColumnType, order: Order, operand: float) -> tuple[Any, Any]:
    """Return the least and the greatest number of a type that is so ordered to an operand of any size."""
    is_float = isinstance(kept.greatest, float)
    if order in ("$gt", "$gte"):
        bound = _float_above(operand, order == "$gt") if is_float else _integer_above(operand, order == "$gt")
        return max(bound, kept.least), kept.greatest
    bound = -_float_above(-operand, order == "$lt") if is_float else -_integer_above(-operand, order == "$lt")
    return kept.least, min(bound, kept.greatest)


def _integer_above(operand: float, is_strict: bool) -> int:
    """Return the least integer that is not less than an operand, or is greater."""
    return math.floor(operand) + 1 if is_strict else math.ceil(operand)


def _float_above(operand: float, is_strict: bool) -> float:
    """Return the least float that is not less than an operand, which may be an integer of any size, or is greater."""
    try:
        bound = float(operand)
    except OverflowError:
        return math.inf if operand > 0 else -math.inf
    is_too_low = bound < operand or (is_strict and bound == operand)  # Python compares integers and floats exactly.
    return math.nextafter(bound, math.inf) if is_too_low else bound


def _join(operator: str, members: Iterable[str]) -> str:
    return operator.join(f"({member})" for member in sorted(members))


def _literal(value: Any) -> str:
    return f'"{value.translate(_ESCAPES)}"' if isinstance(value, str) else repr(value)
