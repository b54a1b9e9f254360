"""Reads what a call from Python gives: arrays and frames of users, and options as a request has them."""

import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.language import BadFilter, FilterFault, Path, Vocabulary
from retrieval.search.reranking.options import BadOption, bad
from retrieval.vectors import MAX_FAULTS, BadVector, json_type, read_vector

_JSON_TYPES = {str, int, float, bool, type(None)}
_TEXTS = (str, bytes, bytearray, memoryview)


class Arguments:
    """Reads the arguments of a call as the service reads requests, and collects their faults."""

    def __init__(self, dimension: int, vocabulary: Vocabulary):
        self._dimension, self._vocabulary = dimension, vocabulary
        self._faults: list[FilterFault] = []
        self._further = 0

    def by_fields(self, read: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
        return lambda value: read(value, self._vocabulary)

    def read(self, name: str, read: Callable[[Any], Any], value: Any) -> Any:
        """Return what `read` returns for a value as JSON would give it."""
        try:
            return read(_plain(value))
        except BadOption as error:
            self._note(error.faults, (name,), error.further)
        except BadFilter as error:
            self._note(error.faults, (name,))
        return 1  # Nothing comes of it.

    def users(self, vectors: Any) -> tuple[list[Any], NDArray[np.float64]]:
        """Return users by name or number, and their vectors (n, d)."""
        names, rows = None, []
        try:
            if _is_frame(vectors):
                names = vectors.index.tolist() if "name" not in vectors else _column(vectors, "name")
                rows = _column(vectors, "vector")
            else:
                rows = _rows(vectors)
        except BadOption as error:
            self._note(error.faults, ("vectors",))
        read = [self._read_vector(i, row) for i, row in enumerate(rows)]
        return names or [*range(len(read))], np.array(read).reshape(-1, self._dimension)

    def check(self) -> None:
        """Raise BadOption where anything is at fault."""
        if self._faults:
            raise BadOption(self._faults, self._further)

    def _read_vector(self, i: int, row: Any) -> NDArray[np.float64]:
        try:
            is_numeric = isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "fiu"
            return read_vector(row if is_numeric else _plain(row), self._dimension)
        except BadVector as error:
            paths: list[Path] = [() if each.element is None else (each.element,) for each in error.faults]
            faults = [FilterFault(each.code, each.detail, path) for each, path in zip(error.faults, paths, strict=True)]
            self._note(faults, ("vectors", i))
        return np.ones(self._dimension)  # Nothing comes of it.

    def _note(self, faults: list[FilterFault], path: Path, further: int = 0) -> None:
        """Keep the first faults found, at this path, and count the others."""
        room = MAX_FAULTS - len(self._faults)
        self._faults += [FilterFault(each.code, each.detail, (*path, *each.path)) for each in faults[:room]]
        self._further += max(0, len(faults) - room) + further


def _rows(vectors: Any) -> list[Any]:
    """Return the vector of each user: the only one where there are numbers."""
    dimensions = vectors.ndim if isinstance(vectors, np.ndarray) else 1
    if dimensions not in (1, 2):
        raise bad("type", f"must have one dimension or two, not {dimensions}")
    if not isinstance(vectors, Iterable) or isinstance(vectors, (Mapping, *_TEXTS)):
        found = "None" if vectors is None else json_type(vectors)
        raise bad("type", f"must be an array of numbers, a row a user, or a frame with a column 'vector', not {found}")
    rows = [*vectors]
    return [rows] if rows and isinstance(rows[0], Number | np.generic) else rows


def _column(frame: Any, name: str) -> list[Any]:
    count = [*frame.columns].count(name)
    if count != 1:
        raise bad("type", f"has {count or 'no'} column{'s' if count else ''} {name!r}")
    return frame[name].tolist()


def _is_frame(value: Any) -> bool:
    return "pandas" in sys.modules and isinstance(value, sys.modules["pandas"].DataFrame)


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: dicts, lists of what is iterated over, and Python's numbers for NumPy's."""
    if type(value) is list and {*map(type, value)} <= _JSON_TYPES:
        return value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(member) for name, member in value.items()}
    is_list = isinstance(value, Iterable) and not isinstance(value, _TEXTS) and not _is_frame(value)
    return [_plain(member) for member in value] if is_list else value
