"""Reads the options of whoever asks for lists of products, from parsed JSON."""

from collections.abc import Iterator
from typing import Any

from retrieval.search.filters.language import FilterFault, Vocabulary, no_field_fault
from retrieval.search.reranking.fields import ALL_FIELDS
from retrieval.search.reranking.limits import MaxPer
from retrieval.vectors import MAX_FAULTS, json_type

MAX_NAMES, MAX_LIMITS = 1000, 64  # of fields to show, and of fields with a limit
_MAX_LIMIT = 2**53  # No catalogue has as many products.
_MAX_CHARACTERS_SHOWN = 60
_MAX_SHOWN_INTEGER = 10**18


class BadOption(ValueError):
    """An option that does not fit, with every fault found, up to twenty of them; paths lead from the option on.

    `further` ones are not listed.
    """

    def __init__(self, faults: list[FilterFault], further: int = 0):
        self.faults, self.further = faults[:MAX_FAULTS], further + max(0, len(faults) - MAX_FAULTS)
        sentences = [f"{spoken(fault.path)} {fault.detail}" for fault in self.faults]
        if self.further:
            sentences.append(f"{self.further} further fault{'s are' if self.further > 1 else ' is'} not listed")
        super().__init__("; ".join(sentences))


def spoken(path: tuple[str | int, ...]) -> str:
    """Return a path as sentences have it."""
    steps = [f" element {step}" if isinstance(step, int) else f".{step}" for step in path]
    return "".join(steps).removeprefix(".")


def bad(code: str, detail: str) -> BadOption:
    """Return the error of an option with one fault."""
    return BadOption([FilterFault(code, detail, ())])


def wrong_type(expected: str, value: Any) -> BadOption:
    return bad("type", f"must be {expected}, not {value if type(value) is float else json_type(value)}")


def read_count(maximum: int, value: Any) -> int:
    """Return a whole number from 1 to `maximum`."""
    if not _is_integer(value):
        raise wrong_type("an integer", value)
    if not 1 <= value <= maximum:
        far = "a far smaller number" if value < 0 else "a far greater number"
        raise bad("range", f"must be from 1 to {maximum}, not {value if abs(value) < _MAX_SHOWN_INTEGER else far}")
    return int(value)


def read_ids(value: Any) -> list[str]:
    """Return the texts of product ids, which are integers or strings as in a catalogue."""
    if type(value) is not list:
        raise wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if type(member) not in (str, int)]
    if others:
        details = [(i, f"must be a string or an integer, not {json_type(value[i])}") for i in others[:MAX_FAULTS]]
        raise BadOption([FilterFault("type", detail, (i,)) for i, detail in details], len(others) - len(details))
    return [*map(str, value)]


def read_id_set(value: Any) -> frozenset[str]:
    return frozenset(read_ids(value))


def read_number(minimum: int, maximum: int, value: Any) -> float:
    """Return a number from `minimum` to `maximum`."""
    if type(value) not in (int, float):
        raise wrong_type("a number", value)
    if not minimum <= value <= maximum:
        raise bad("range", f"must be from {minimum} to {maximum}")
    return float(value)


def read_max_per(value: Any, vocabulary: Vocabulary) -> MaxPer:
    """Return how many products may have the same value of each field."""
    if type(value) is not dict:
        raise wrong_type("an object of fields with a number each", value)
    if not 1 <= len(value) <= MAX_LIMITS:
        code = "range" if value else "empty"
        raise bad(code, f"must have from 1 to {MAX_LIMITS} fields, not {len(value)}")
    faults = [fault for name, limit in value.items() for fault in _limit_faults(vocabulary, name, limit)]
    if faults:
        raise BadOption(faults)
    return tuple(sorted((name, int(min(limit, _MAX_LIMIT))) for name, limit in value.items()))


def read_field_names(value: Any, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return names of fields without repetition, "*" among them or not."""
    if type(value) is not list:
        raise wrong_type("a list of names of fields", value)
    if not 1 <= len(value) <= MAX_NAMES:
        code = "range" if value else "empty"
        raise bad(code, f"must have from 1 to {MAX_NAMES} names of fields, not {len(value)}")
    faults = [fault for i, name in enumerate(value) for fault in _name_faults(vocabulary, name, i)]
    if faults:
        raise BadOption(faults)
    return tuple(dict.fromkeys(value))


def read_field_name(value: str, vocabulary: Vocabulary) -> str:
    """Return the name of a field that a product has, or "*"."""
    try:
        return read_field_names([value], vocabulary)[0]
    except BadOption as error:
        raise bad(error.faults[0].code, error.faults[0].detail) from error


def _is_integer(value: Any) -> bool:
    # The JSON reader gives integers of many digits as floats.
    return type(value) is int or (type(value) is float and abs(value) >= 2**63)


def _limit_faults(vocabulary: Vocabulary, name: str, limit: Any) -> Iterator[FilterFault]:
    field = vocabulary.filterable.get(name)
    if field is None:
        yield no_field_fault(vocabulary, name, (name,))
    elif field.element != "keyword":
        yield FilterFault("type", f"limits keywords, and {name!r} is of type {field.type}", (name,))
    elif not _is_integer(limit):
        found = limit if type(limit) is float else json_type(limit)
        yield FilterFault("type", f"must be an integer, not {found}", (name,))
    elif limit < 1:
        yield FilterFault("range", f"must be at least 1, not {limit}", (name,))


def _name_faults(vocabulary: Vocabulary, name: Any, i: int) -> Iterator[FilterFault]:
    if not isinstance(name, str):
        yield FilterFault("type", f"must be a string, not {json_type(name)}", (i,))
    elif name != ALL_FIELDS and name not in vocabulary.names:
        yield FilterFault("unknown_field", f"is a field of no product: {name[:_MAX_CHARACTERS_SHOWN]!r}", (i,))
