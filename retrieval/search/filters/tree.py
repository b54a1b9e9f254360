"""The typed tree of a filter, in a canonical form: filters that differ in order or spelling alone are equal."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Value = str | int | float | bool
Order = Literal["$gt", "$gte", "$lt", "$lte"]


@dataclass(frozen=True, slots=True)
class OneOf:
    """Holds for a product with one of these values in the field."""

    field: str
    values: frozenset[Value]


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds for a product with a number in the field that is greater or less than the operand, or equal to it."""

    field: str
    order: Order
    operand: int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """Holds for a product with any value in the field."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    filter: "Filter"


@dataclass(frozen=True, slots=True)
class Every:
    """Holds where all its filters hold: of no filters, for every product."""

    filters: frozenset["Filter"]


@dataclass(frozen=True, slots=True)
class Some:
    """Holds where one of its filters holds."""

    filters: frozenset["Filter"]


Filter = OneOf | Compare | Exists | Not | Every | Some


def fields_of(tree: Filter) -> set[str]:
    """Return the names of the fields that a filter is over."""
    match tree:
        case Not(inner):
            return fields_of(inner)
        case Every(members) | Some(members):
            return {name for member in members for name in fields_of(member)}
        case OneOf(field) | Compare(field) | Exists(field):
            return {field}


def complement(inner: Filter) -> Filter:
    """Return the filter that holds where the other does not."""
    return inner.filter if isinstance(inner, Not) else Not(inner)


def every(filters: Iterable[Filter]) -> Filter:
    """Return the filter that holds where all of them hold."""
    return _joined(Every, filters)


def some(filters: Iterable[Filter]) -> Filter:
    """Return the filter that holds where one of them holds."""
    return _joined(Some, filters)


def _joined(kind: type[Every] | type[Some], filters: Iterable[Filter]) -> Filter:
    """Return filters joined once, without joins of the same kind among them; one alone stands for itself."""
    members: set[Filter] = set()
    for member in filters:
        members.update(member.filters if isinstance(member, kind) else (member,))
    return members.pop() if len(members) == 1 else kind(frozenset(members))
