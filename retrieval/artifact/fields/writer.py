"""Finds the fields that products can be filtered by, and writes their inverted lists."""

import difflib
import math
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.fields.lists import (
    BITMAPS,
    CONTENT,
    CONTENT_STARTS,
    DIRECTORY,
    FILTERABLE,
    NAMES,
    NOT_FILTERABLE,
    NUMBERS,
    PRODUCTS,
    STARTS,
    ArrayWriter,
    Places,
)
from retrieval.artifact.fields.values import Column, InexactNumbers, column_of
from retrieval.errors import BadCatalogue
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.postings import blocks_of

# Why a field is not filterable, though no value of it is at fault.
NO_VALUE = "has no value in any product"
INEXACT = "holds integers that 64 bits do not hold, or not together with its fractions"
MAX_FIELDS, MAX_TEXT_BYTES, MAX_LIST_ELEMENTS, MAX_LEVELS = 1000, 256, 100, 8
_SPOOL = "fields.spool"  # A scratch file, which is not published.
_MAX_BUFFERED_VALUES = 2**17
_MAX_CHARACTERS_SHOWN = 60
_TYPES = {str: "keyword", int: "number", float: "number", bool: "boolean", dict: "object", list: "list"}
_LISTS_OF = ("keyword", "number")


@dataclass(frozen=True)
class FieldReport:
    """The filterable fields, why others are not, and how many fields were not looked at beyond MAX_FIELDS."""

    filterable: list[FieldFacts]
    not_filterable: dict[str, str]
    further: int = 0


class FieldWriter:
    """Collects the fields of products, in bounded memory: what is to be sorted waits in a scratch file."""

    def __init__(self, directory: Path, chosen: Collection[str] | None = None):
        """Make filterable the `chosen` fields, or, where it is None, all that can be."""
        self._directory, self._chosen = directory, chosen
        self._names: set[str] = set()
        self._fields: dict[str, _Field] = {}
        self._spool = (directory / _SPOOL).open("w+b")
        self._count = self._buffered = 0

    def append(self, identifier: str, fields: dict[str, Any]) -> None:
        """Add the further fields of the next product, as parsed JSON."""
        for path, value in members(fields):
            name = ".".join(path)
            self._names.add(name)
            field = self._fields.get(name) or self._new_field(name, path)
            if field and not field.reason:
                field.add(self._count, identifier, path, value)
                self._buffered += len(value) if type(value) is list else 1
        self._count += 1
        if self._buffered >= _MAX_BUFFERED_VALUES:
            for field in self._fields.values():
                field.flush(self._spool)
            self._buffered = 0

    def close(self) -> None:
        self._spool.close()
        (self._directory / _SPOOL).unlink()

    def finish(self) -> FieldReport:
        """Write the files of the fields; none where no product has any.

        Raises BadCatalogue where a chosen field cannot be filtered by.
        """
        self._check_chosen()
        if not self._names:
            return FieldReport([], {})
        facts: list[FieldFacts] = []
        with closing(ArrayWriter(self._directory)) as arrays:
            names = arrays.append(**text_arrays(sorted(name.encode() for name in self._names)))
            filterable: dict[str, Places] = {}
            for name, field in self._fields.items():
                column = field.column(self._spool)
                if column is not None:
                    filterable[name] = arrays.append(**posting_arrays(column, self._count))
                    facts.append(FieldFacts(name, field.type, len(column.values), field.count / self._count))
        self._check_chosen()  # Only as numbers come together it shows whether they can be compared exactly.
        reasons = {name: field.reason for name, field in self._fields.items() if field.reason}
        found = {NAMES: names, FILTERABLE: filterable, NOT_FILTERABLE: reasons}
        (self._directory / DIRECTORY).write_bytes(orjson.dumps(found))
        return FieldReport(facts, reasons, len(self._names) - len(self._fields) if self._chosen is None else 0)

    def _new_field(self, name: str, path: tuple[str, ...]) -> "_Field | None":
        if name not in self._chosen if self._chosen is not None else len(self._fields) == MAX_FIELDS:
            return None
        self._fields[name] = _Field(path)
        return self._fields[name]

    def _check_chosen(self) -> None:
        for name in self._chosen or ():
            if name not in self._names:
                nearest = difflib.get_close_matches(name, self._names, 1)
                hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
                raise BadCatalogue(f"--filterable {name}: no product has such a field{hint}")
            if reason := self._fields[name].reason:
                raise BadCatalogue(f"--filterable {name}: {reason}")


class NotFilterable(Exception):
    """Why a value cannot be filtered by."""


class _Field:
    """The values of one field; `reason` says why it is not filterable, if it is not."""

    def __init__(self, path: tuple[str, ...]):
        self._path = path
        self.type: Any = ""
        self.reason = "begins with $, as operators do" if path[0].startswith("$") else ""
        self.count = 0
        self._products: list[int] = []
        self._values: list[Any] = []
        self._chunks: list[tuple[int, int]] = []  # where they begin in the scratch file, and their bytes

    def add(self, product: int, identifier: str, path: tuple[str, ...], value: Any) -> None:
        try:
            if path != self._path:
                raise NotFilterable("is the name of a field and of one within an object")
            found = type_of(value)
            if not found:
                return
            if self.type and found != self.type:
                raise NotFilterable(f"mixes {self.type} and {found}")
        except NotFilterable as error:
            self.reason = f"{error}, first in product {identifier[:_MAX_CHARACTERS_SHOWN]!r}"
            self._products, self._values, self._chunks = [], [], []
            return
        self.type = found
        self.count += 1
        self._products.append(product)
        self._values.append(value)

    def flush(self, spool: BinaryIO) -> None:
        if self._products:
            chunk = orjson.dumps([self._products, self._values])
            self._chunks.append((spool.seek(0, 2), len(chunk)))
            spool.write(chunk)
            self._products, self._values = [], []

    def column(self, spool: BinaryIO) -> Column | None:
        """Return all values, or None and set `reason`."""
        if not self.reason and not self.count:
            self.reason = NO_VALUE
        if self.reason:
            return None
        self.flush(spool)
        try:
            return column_of(self._read_chunks(spool), self.type)
        except InexactNumbers:
            self.reason = INEXACT
            return None

    def _read_chunks(self, spool: BinaryIO) -> Iterator[tuple[list[int], list[Any]]]:
        for start, size in self._chunks:
            spool.seek(start)
            products, values = orjson.loads(spool.read(size))
            yield products, values


def members(fields: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys that lead to each member that is not null, and to those of objects in it, and its value."""
    for key, value in fields.items():
        if value is None or (type(value) is float and not math.isfinite(value)):
            continue  # The products table keeps what is not finite as null.
        path = (*above, key)
        yield path, value
        if type(value) is dict and len(path) < MAX_LEVELS:
            yield from members(value, path)


def type_of(value: Any) -> str:
    """Return the type of a value as filters see it; "" for an empty list, which is no value.

    Raises NotFilterable.
    """
    kind = _TYPES[type(value)]
    if kind == "list":
        elements = [each for each in value if each is not None and (type(each) is not float or math.isfinite(each))]
        kinds = {*map(_type_of_member, elements)}
        if len(kinds) > 1:
            raise NotFilterable("holds lists of mixed types")
        if len(elements) > MAX_LIST_ELEMENTS:
            raise NotFilterable(f"holds a list of {len(elements)} elements ({MAX_LIST_ELEMENTS} at most)")
        return f"list of {kinds.pop()}" if kinds else ""
    if kind == "object":
        raise NotFilterable("holds objects, whose own fields have dotted names")
    if kind == "keyword":
        _check_length(value)
    return kind


def _type_of_member(value: Any) -> str:
    kind = _TYPES[type(value)]
    if kind not in _LISTS_OF:
        raise NotFilterable(f"holds lists of {kind}s")
    if kind == "keyword":
        _check_length(value)
    return kind


def _check_length(text: str) -> None:
    size = len(text.encode()) if 4 * len(text) > MAX_TEXT_BYTES else 0
    if size > MAX_TEXT_BYTES:
        raise NotFilterable(f"holds a string of {size} bytes ({MAX_TEXT_BYTES} at most)")


def text_arrays(texts: list[bytes]) -> dict[str, NDArray[Any]]:
    """Return the arrays of texts, one behind the other."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return {CONTENT: np.frombuffer(b"".join(texts), np.uint8), CONTENT_STARTS: _smallest(ends)}


def posting_arrays(column: Column, product_count: int) -> dict[str, Any]:
    """Return the arrays of a field's inverted lists."""
    order = np.argsort(column.ranks, kind="stable")
    ranks, products = column.ranks[order], column.products[order]
    is_new = np.ones(len(ranks), np.bool_)  # A list may hold a value twice.
    is_new[1:] = (ranks[1:] != ranks[:-1]) | (products[1:] != products[:-1])
    numbered = _smallest(products[is_new])
    starts = np.searchsorted(ranks[is_new], np.arange(len(column.values) + 1))
    values = column.values
    return {
        **(text_arrays(values) if isinstance(values, list) else {NUMBERS: values}),
        STARTS: _smallest(starts),
        PRODUCTS: numbered,
        BITMAPS: blocks_of(numbered, product_count),
    }


def _smallest(numbers: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Return numbers in four bytes each, or in eight where they need them."""
    return numbers.astype(np.uint32 if numbers.max(initial=0) < 2**32 else np.uint64)
