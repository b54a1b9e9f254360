"""Lists the values that a field has in a catalogue, and how many products have each."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.postings import Postings, rank_of
from retrieval.search.filters.tree import Value
from retrieval.search.folded_texts import fold

_MAX_WHOLE = 2**53  # Up to here, each whole float is written as the integer that it equals.

Shown = Callable[[NDArray[np.integer]], NDArray[np.bool_]]  # which of some products are looked at


@dataclass(frozen=True)
class ValueCounts:
    """The lists of a field, and how many of the products that are looked at have each of its values (v,)."""

    postings: Postings
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class ValueCount:
    value: Value
    products: int


@dataclass(frozen=True)
class FieldValues:
    """Values of a field, those of the most products first and else in rising order, of `found` distinct ones.

    `min` and `max` are the least and the greatest of a field of numbers, and None for another or where there is none.
    """

    name: str
    type: str
    found: int
    values: list[ValueCount]
    min: Value | None = None
    max: Value | None = None


def list_values(facts: FieldFacts, parts: Sequence[ValueCounts], text: str, limit: int) -> FieldValues:
    """Return up to `limit` values of a field, of which the lists are in parts; those of texts contain the text.

    The first part may be as large as a catalogue; the values of the others are looked at one by one.
    """
    if not parts:
        return FieldValues(facts.name, facts.type, 0, [])
    postings, counts, added = _join(parts)
    ranks = postings.ranks_containing(text) if text else np.arange(len(counts))
    ranks = ranks[counts[ranks] > 0]
    first = ranks[np.argsort(-counts[ranks], kind="stable")[:limit]].tolist()
    stored = [(postings.values[rank], int(counts[rank])) for rank in first]
    further = [(value, count) for value, count in added.items() if not text or fold(text) in fold(value.decode())]
    values = sorted(stored + further, key=lambda each: (-each[1], each[0]))[:limit]
    listed = [ValueCount(_value(facts, value), count) for value, count in values]
    ends = [postings.values[rank] for rank in (*ranks[:1].tolist(), *ranks[-1:].tolist())] + [*added]
    numbers = [_value(facts, end) for end in ends] if facts.element == "number" else []
    least, greatest = min(numbers, default=None), max(numbers, default=None)
    return FieldValues(facts.name, facts.type, len(ranks) + len(further), listed, least, greatest)


def _join(parts: Sequence[ValueCounts]) -> tuple[Postings, NDArray[np.int64], Counter[Any]]:
    """Return the first part with the counts of the others, and the counts of the values that it lacks."""
    postings, counts, added = parts[0].postings, parts[0].counts.copy(), Counter[Any]()
    for part in parts[1:]:
        for rank in np.flatnonzero(part.counts).tolist():
            value, count = part.postings.values[rank], int(part.counts[rank])
            own_rank = rank_of(postings.values, value)
            if own_rank is None:
                added[value] += count
            else:
                counts[own_rank] += count
    return postings, counts, added


def _value(facts: FieldFacts, stored: Any) -> Any:
    """Return a value as JSON has it; a whole number is an integer, however its list is stored."""
    if facts.element == "keyword":
        return stored.decode()
    if facts.element == "boolean":
        return bool(stored)
    return int(stored) if abs(stored) <= _MAX_WHOLE and stored == int(stored) else stored
