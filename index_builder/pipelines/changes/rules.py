"""The rules that the fields of changed products keep: a field has values of one type, as filters compare them."""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from index_builder.catalogue import BadRow
from retrieval.artifact.fields.writer import INEXACT, MAX_FIELDS, NO_VALUE, NotFilterable, members, type_of
from retrieval.search.filters.facts import FieldType
from retrieval.search.filters.postings import Numbers, Postings

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_MAX_EXACT_INTEGER = 2**53

KeyPath = tuple[str, ...]


class FieldRules:
    """Types of fields: those of the products in use, and then those that new fields come with.

    `types` has those of the filterable fields. Nothing is asked of the values of others.
    """

    def __init__(
        self,
        types: Mapping[str, FieldType],
        reasons: Mapping[str, str],
        postings: Callable[[str], list[Postings]],
        path_of: Callable[[str], KeyPath | None],
        chosen: Collection[str] | None,
    ):
        """`reasons` say why fields are not filterable; `postings` returns the lists there are of a field so far.

        `path_of` returns the keys that lead to a filterable field of a dotted name, where a product has it. Of new
        fields only the `chosen` ones become filterable, or, where it is None, all that can be.
        """
        self.types = dict(types)
        self._postings, self._path_of, self._chosen = postings, path_of, chosen
        self._free = {name for name, reason in reasons.items() if reason != NO_VALUE}
        self._paths: dict[str, KeyPath] = {}
        self._numbers: dict[str, _NumberRule] = {}

    def check(self, fields: dict[str, Any]) -> None:
        """Raise BadRow where a product cannot be filtered by one of its fields as others can."""
        for path, value in members(fields):
            name = ".".join(path)
            if name in self.types:
                self._check_value(name, path, value)
            elif name not in self._free and self.takes(name):
                self._add_field(name, path, value)

    def takes(self, name: str) -> bool:
        """Return whether a field that comes new may become filterable."""
        return self._chosen is None or name in self._chosen

    def _check_value(self, name: str, path: KeyPath, value: Any) -> None:
        if "." in name and self._paths.setdefault(name, self._path_of(name) or path) != path:
            raise BadRow(f"{name} is the name of a field and of one within an object")
        expected = self.types[name]
        try:
            found = type_of(value)
        except NotFilterable as reason:
            raise BadRow(f"{name} is a field to filter by, of type {expected}, and {reason}") from reason
        if found and found != expected:
            raise BadRow(f"{name} must be of type {expected}, as in other products, not {found}")
        if found and expected.endswith("number"):
            self._check_numbers(name, value if type(value) is list else [value])

    def _check_numbers(self, name: str, values: list[Any]) -> None:
        rule = self._numbers.get(name)
        if rule is None:
            rule = self._numbers[name] = _NumberRule()
            for postings in self._postings(name):
                if isinstance(postings.values, Numbers):
                    rule.learn(postings.values)
        for value in values:
            if value is not None and math.isfinite(value) and not rule.takes(value):
                raise BadRow(f"{name} is a field to filter by, and {INEXACT}")

    def _add_field(self, name: str, path: KeyPath, value: Any) -> None:
        """Take the first value of a new field, which decides whether it can be filtered by, and its type."""
        try:
            found: Any = type_of(value)
        except NotFilterable:
            found = None
        if found is None or path[0].startswith("$") or len(self.types) + len(self._free) >= MAX_FIELDS:
            self._free.add(name)
        elif found:
            self.types[name] = found
            self._paths[name] = path
            self._check_value(name, path, value)


class _NumberRule:
    """Whether the numbers of a field are all integers of 64 bits, and whether floats hold all of them exactly."""

    def __init__(self) -> None:
        self._are_whole = self._are_exact_floats = True

    def learn(self, values: Numbers) -> None:
        """Take the numbers that products have already."""
        numbers = np.asarray(values.numbers)
        if numbers.dtype.kind == "f":
            self._are_whole = False
        elif len(numbers) and max(-int(numbers[0]), int(numbers[-1])) > _MAX_EXACT_INTEGER:
            self._are_exact_floats &= all(float(number) == number for number in numbers.tolist())

    def takes(self, number: int | float) -> bool:
        """Return whether a number can be compared exactly with all so far, and take it if so."""
        are_whole = self._are_whole and int(number) == number and _MIN_INTEGER <= number <= _MAX_INTEGER
        are_exact_floats = self._are_exact_floats and abs(number) <= sys.float_info.max and float(number) == number
        if are_whole or are_exact_floats:
            self._are_whole, self._are_exact_floats = are_whole, are_exact_floats
        return are_whole or are_exact_floats
