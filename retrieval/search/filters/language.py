"""Reads a filter from parsed JSON: a subset of the query language that Mongo, Pinecone and Chroma share.

filter    := {field: condition, …, "$and": [filter, …], "$or": [filter, …], "$not": filter}    all members hold
condition := value | {operator: operand, …}                                                    all operators hold
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.tree import (
    Compare,
    Exists,
    Filter,
    OneOf,
    Order,
    Value,
    complement,
    every,
    some,
)
from retrieval.vectors import json_type

MAX_LEVELS, MAX_CONDITIONS, MAX_VALUES = 8, 64, 1000
EVERYTHING = every(())
LEFT_OUT = "the build leaves it out; name it in --filterable"
_MAX_FAULTS, _MAX_CHARACTERS_COMPARED = 20, 60
_TYPES = {"keyword": ((str,), "a string"), "number": ((int, float), "a number"), "boolean": ((bool,), "a boolean")}
_JOINS = {"$and": every, "$or": some}
_LOGICAL = (*_JOINS, "$not")
_ORDERS = get_args(Order)
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_ORDERS, "$exists")

Path = tuple[str | int, ...]
_Member = TypeVar("_Member")


@dataclass(frozen=True)
class FilterFault:
    """One thing wrong with a filter: `path` leads to it, and `detail` is a sentence that begins with the path."""

    code: str
    detail: str
    path: Path

    @property
    def pointer(self) -> str:
        """The JSON pointer to what is at fault, from the filter on."""
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in self.path)


class BadFilter(ValueError):
    """A filter that does not fit, with every fault found, up to twenty of them."""

    def __init__(self, faults: list[FilterFault]):
        super().__init__("; ".join(f"filter{fault.pointer} {fault.detail}" for fault in faults))
        self.faults = faults


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The fields of a build: the filterable ones, why others are not filterable, and the names of all.

    `unsupported` are filterable ones by which an engine cannot filter all the same, and why, and `unshown` is why it
    shows no fields, if it does not; `diversifies` tells whether it can pick products unlike each other. It equals
    itself alone, so that what is kept for a build can be found by it.
    """

    filterable: Mapping[str, FieldFacts]
    reasons: Mapping[str, str]
    names: Collection[str]
    unsupported: Mapping[str, str] = field(default_factory=dict)
    unshown: str = ""
    diversifies: bool = True

    def problem_with(self, fields: Iterable[str]) -> str:
        """Return by which of some fields an engine cannot filter, and why, or "" where it can by all of them."""
        names = sorted(self.unsupported.keys() & {*fields})
        return f"{names[0]!r}: {self.unsupported[names[0]]}" if names else ""


def parse_filter(value: Any, vocabulary: Vocabulary) -> Filter:
    """Return the tree of a filter given as parsed JSON. Raises BadFilter."""
    parser = _Parser(vocabulary)
    tree = parser.read_filter(value, (), 1)
    if parser.conditions > MAX_CONDITIONS:
        parser.fault("range", f"has more than {MAX_CONDITIONS} conditions", ())
    if parser.faults:
        raise BadFilter(parser.faults[:_MAX_FAULTS])
    return tree


def no_field_fault(known: Vocabulary, name: str, path: Path) -> FilterFault:
    """Return the fault of a name that is not that of a filterable field."""
    if name in known.reasons or name in known.names:
        return FilterFault("not_filterable", f"is not filterable: {known.reasons.get(name, LEFT_OUT)}", path)
    return FilterFault("unknown_field", f"is no field of this build{_nearest(name, known.filterable)}", path)


class _Parser:
    """Collects the faults of one filter. Where a part is at fault, what is returned for it has no meaning."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self.faults: list[FilterFault] = []
        self.conditions = 0

    def fault(self, code: str, detail: str, path: Path) -> Filter:
        self.faults.append(FilterFault(code, detail, path))
        return EVERYTHING

    def read_filter(self, value: Any, path: Path, level: int) -> Filter:
        if type(value) is not dict:
            return self._wrong_type("an object", value, path)
        if level > MAX_LEVELS:
            return self.fault("too_deep", f"is nested deeper than {MAX_LEVELS} levels", path)
        if not value:
            self.conditions += 1  # An empty filter in a list is work too.
        members = (self._read_member(name, value[name], (*path, name), level) for name in value)
        return every([*_while(self._may_go_on, members)])

    def _may_go_on(self) -> bool:
        return self.conditions <= MAX_CONDITIONS and len(self.faults) < _MAX_FAULTS

    def _read_member(self, name: str, operand: Any, path: Path, level: int) -> Filter:
        if name == "$not":
            return complement(self.read_filter(operand, path, level + 1))
        if name in _JOINS:
            members = self._read_list(operand, path, "filters")
            read = (self.read_filter(member, (*path, i), level + 1) for i, member in enumerate(members))
            return _JOINS[name]([*_while(self._may_go_on, read)])
        if name.startswith("$"):
            return self._unknown_operator(name, _LOGICAL, path)
        self.conditions += 1
        field = self._vocabulary.filterable.get(name)
        if field:
            return self._read_condition(field, operand, path)
        self.faults.append(no_field_fault(self._vocabulary, name, path))
        return EVERYTHING

    def _read_condition(self, field: FieldFacts, condition: Any, path: Path) -> Filter:
        if type(condition) is not dict:
            return OneOf(field.name, frozenset(self._read_values(field, [(condition, path)])))
        if not condition:
            return self.fault("empty", "must have an operator or be a value", path)
        read = (self._read_operator(field, name, condition[name], (*path, name)) for name in condition)
        return every([*_while(self._may_go_on, read)])

    def _read_operator(self, field: FieldFacts, name: str, operand: Any, path: Path) -> Filter:
        if name in ("$eq", "$ne", "$in", "$nin"):
            is_list = name in ("$in", "$nin")
            operands = self._read_list(operand, path, "values") if is_list else [operand]
            places = [(each, (*path, i) if is_list else path) for i, each in enumerate(operands)]
            chosen = OneOf(field.name, frozenset(self._read_values(field, places)))
            return complement(chosen) if name in ("$ne", "$nin") else chosen
        if name in _ORDERS:
            if field.element != "number":
                return self.fault("type", f"compares numbers, and {field.name!r} is of type {field.type}", path)
            return every([Compare(field.name, name, value) for value in self._read_values(field, [(operand, path)])])  # type: ignore[arg-type]
        if name == "$exists":
            if type(operand) is not bool:
                return self._wrong_type("a boolean", operand, path)
            return Exists(field.name) if operand else complement(Exists(field.name))
        return self._unknown_operator(name, _OPERATORS, path)

    def _read_values(self, field: FieldFacts, places: Iterable[tuple[Any, Path]]) -> list[Value]:
        """Return the values that fit the field; the others are faults."""
        types, expected = _TYPES[field.element]
        values: list[Value] = []
        for value, path in places:
            if type(value) not in types:
                self._wrong_type(expected, value, path)
            elif type(value) is float and not math.isfinite(value):
                self.fault("not_finite", f"is not finite: {value}", path)
            else:
                values.append(value)
        return values

    def _read_list(self, value: Any, path: Path, members: str) -> list[Any]:
        if type(value) is not list:
            self._wrong_type(f"a list of {members}", value, path)
        elif not value:
            self.fault("empty", "must not be empty", path)
        elif len(value) > MAX_VALUES:
            self.fault("range", f"must have at most {MAX_VALUES} {members}, not {len(value)}", path)
        else:
            return value
        return []

    def _wrong_type(self, expected: str, value: Any, path: Path) -> Filter:
        if value is None:
            return self.fault("null", 'must not be null ("$exists" tells whether there is a value)', path)
        return self.fault("type", f"must be {expected}, not {json_type(value)}", path)

    def _unknown_operator(self, name: str, known: Collection[str], path: Path) -> Filter:
        nearest = _nearest(name if name.startswith("$") else f"${name}", known)
        return self.fault("unknown_operator", f"is no operator here{nearest}", path)


def _while(may_go_on: Callable[[], bool], members: Iterable[_Member]) -> Iterable[_Member]:
    """Yield members, which are read as they are taken, for as long as the reader may go on."""
    for member in members:
        yield member
        if not may_go_on():
            return


def _nearest(name: str, known: Collection[str]) -> str:
    if not known:
        return ", which has none to filter by"
    pairs = _letter_pairs(name[:_MAX_CHARACTERS_COMPARED])
    nearest = max(known, key=lambda each: len(pairs & _letter_pairs(each)) / (1 + len(_letter_pairs(each))))
    return f"; the nearest is {nearest!r}"


def _letter_pairs(name: str) -> set[str]:
    """Return what names are compared by: difflib takes a hundred times as long, and many may be wrong in a batch."""
    padded = f" {name.casefold()} "
    return {padded[i : i + 2] for i in range(len(padded) - 1)}
