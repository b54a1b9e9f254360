"""Reads what a call from Python gives: arrays and frames of users, and options as a request has them."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.language import BadFilter, FilterFault, Vocabulary
from retrieval.search.reranking.options import BadOption
from retrieval.vectors import BadVector, read_vector


class Arguments:
    """Reads the arguments of a call as the service reads requests, and collects their faults."""

    def __init__(self, dimension: int, vocabulary: Vocabulary):
        self._dimension, self._vocabulary = dimension, vocabulary
        self._faults: list[FilterFault] = []

    def by_fields(self, read: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
        return lambda value: read(value, self._vocabulary)

    def read(self, name: str, read: Callable[[Any], Any], value: Any) -> Any:
        """Return what `read` returns for a value as JSON would give it."""
        try:
            return read(_plain(value))
        except (BadOption, BadFilter) as error:
            self._faults += [FilterFault(each.code, each.detail, (name, *each.path)) for each in error.faults]
        return 1  # Nothing comes of it.

    def users(self, vectors: Any) -> tuple[list[Any], NDArray[np.float64]]:
        """Return users by name or number, and their vectors (n, d)."""
        names = None
        if "pandas" in sys.modules and isinstance(vectors, sys.modules["pandas"].DataFrame):
            if "vector" not in vectors:
                raise BadOption([FilterFault("missing", "has no column 'vector'", ("vectors",))])
            names, rows = vectors.get("name", vectors.index).tolist(), vectors["vector"].tolist()
        else:
            rows = [*vectors]
            if rows and not hasattr(rows[0], "__len__"):
                rows = [vectors]
        read = [self._read_vector(i, row) for i, row in enumerate(rows)]
        return names or [*range(len(read))], np.array(read).reshape(-1, self._dimension)

    def check(self) -> None:
        """Raise BadOption where anything is at fault."""
        if self._faults:
            raise BadOption(self._faults)

    def _read_vector(self, i: int, row: Any) -> NDArray[np.float64]:
        try:
            is_numeric = isinstance(row, np.ndarray) and row.dtype.kind in "fiu"
            return read_vector(row if is_numeric else _plain(row), self._dimension)
        except BadVector as error:
            for each in error.faults:
                path = ("vectors", i) if each.element is None else ("vectors", i, each.element)
                self._faults.append(FilterFault(each.code, each.detail, path))
        return np.ones(self._dimension)  # Nothing comes of it.


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: dicts, lists, and Python's numbers for NumPy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    is_list = isinstance(value, list | tuple | set | frozenset | np.ndarray)
    return [_plain(member) for member in value] if is_list else value
