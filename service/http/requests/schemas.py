"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load
from marshmallow.exceptions import SCHEMA
from numpy.typing import NDArray

from retrieval.records.lenient_json import BadJson, loads
from retrieval.search.filters.language import BadFilter, Vocabulary, parse_filter
from retrieval.search.filters.tree import Filter, fields_of
from retrieval.search.reranking.limits import MaxPer
from retrieval.search.reranking.options import (
    BadOption,
    read_count,
    read_field_names,
    read_id_set,
    read_ids,
    read_max_per,
    read_number,
    wrong_type,
)
from retrieval.vectors import BadVector, json_type, read_vector
from service.errors import BadRequest, CannotFilter, Fault
from service.settings import Limits

VECTOR_DTYPE = np.dtype("<f4")  # Base64 holds numbers of this type.
_MAX_DIGITS = 18
_MESSAGES: dict[str, Any] = {
    "required": [Fault("missing", "is missing", "")],
    "null": [Fault("null", "must not be null", "")],
    "invalid": [Fault("type", "must be a list", "")],
}


class Field(fields.Field):
    """A field whose value is what `read` returns for the parsed JSON.

    `read` raises BadOption, BadFilter, or ValidationError with a list of faults: their pointers are relative to the
    field until `load` completes them.
    """

    default_error_messages = _MESSAGES

    def __init__(self, read: Callable[[Any], Any], **options: Any):
        super().__init__(**options)
        self._read = read

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        try:
            return self._read(value)
        except (BadOption, BadFilter) as error:
            raise ValidationError([Fault(each.code, each.detail, each.pointer) for each in error.faults]) from error


class Array(fields.List):
    """An array of objects of one schema."""

    default_error_messages = _MESSAGES

    def __init__(self, members: Schema, **options: Any):
        super().__init__(Object(members), **options)


class Object(fields.Nested):
    default_error_messages = _MESSAGES


class _RequestSchema(Schema):
    error_messages = {"type": Fault("type", "must be an object", "")}  # type: ignore[dict-item]

    class Meta:
        unknown = EXCLUDE


class _NullableSchema(_RequestSchema):
    @pre_load
    def drop_nulls(self, value: Any, **_: Any) -> Any:
        if not isinstance(value, dict):
            return value
        is_needed = {name: field.required for name, field in self.fields.items()}
        return {name: member for name, member in value.items() if member is not None or is_needed.get(name)}


def schema(**members: fields.Field) -> Schema:
    """Return the schema of an object of which unknown members are ignored."""
    return _RequestSchema.from_dict(members)()


def nullable_schema(**members: fields.Field) -> Schema:
    """Return the same of an object whose members may be null as well as absent, but for the required ones."""
    return _NullableSchema.from_dict(members)()


def option_fields(limits: Limits, vocabulary: Vocabulary | None) -> dict[str, fields.Field]:
    """Return the options of whoever asks for matches of products with these fields, or with none (`SearchEngine`)."""
    return {
        "k": Field(partial(read_count, limits.max_k), load_default=limits.default_k),
        "exclude": Field(read_id_set, load_default=frozenset),
        "filter": Field(partial(read_by_fields, vocabulary, "filter; leave the filter out", read_filter)),
        "min_score": Field(partial(read_number, -1, 1)),
        "max_score": Field(partial(read_number, -1, 1)),
        "max_per": Field(partial(read_by_fields, vocabulary, "limit values; leave max_per out", read_limits)),
        "diversity": Field(partial(read_diversity, vocabulary)),
        "fields": Field(partial(read_by_fields, vocabulary, "show fields; leave them out", read_shown_fields)),
        "explain": Field(partial(read_explain, vocabulary)),
    }


def unwrap_option(value: Any) -> Any:
    """Return the value of an option that came as JSON in a text; any other value, and a text of none, as it is."""
    with suppress(BadJson, UnicodeEncodeError):
        return loads(value.encode()) if isinstance(value, str) else value
    return value


def user_schema(dimension: int, limits: Limits, vocabulary: Vocabulary | None = None) -> Schema:
    """Return what a user is to an index of this dimension, over products with these fields."""
    return schema(
        name=Field(read_text, required=True),
        vector=Field(partial(read_user_vector, dimension), required=True),
        **option_fields(limits, vocabulary),
    )


def load(request: Schema, value: Any, subject: str, pointer: str = "") -> dict[str, Any]:
    """Return the fields of the parsed JSON object at `pointer` of the body; raises BadRequest with every fault."""
    if not isinstance(value, dict):
        raise BadRequest([Fault("type", f"{subject} must be an object, not {json_type(value)}", pointer)])
    try:
        return dict(request.load(value))
    except ValidationError as error:
        faults = error.normalized_messages()  # type: ignore[no-untyped-call]
        raise BadRequest([*_complete(faults, "", pointer)]) from error


def _complete(found: Any, path: str, pointer: str) -> Iterator[Fault]:
    """Yield the faults in marshmallow's tree of them, with whole pointers and sentences."""
    if isinstance(found, list):
        for fault in found:
            member = "".join(map(_spoken, fault.pointer.split("/")[1:]))
            yield Fault(fault.code, f"{path}{member} {fault.detail}", pointer + fault.pointer)
        return
    for key, below in found.items():
        if key == SCHEMA:  # the object itself
            yield from _complete(below, path, pointer)
        else:
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
            yield from _complete(below, path + step, f"{pointer}/{key}")


def _spoken(step: str) -> str:
    """Return a step of a JSON pointer as sentences have it."""
    return f" element {step}" if step.isdigit() else "." + step.replace("~1", "/").replace("~0", "~")


def read_kind(kind: type, expected: str, value: Any) -> Any:
    """Return a value of the Python type `kind`, which errors call `expected`."""
    if not isinstance(value, kind):
        raise wrong_type(expected, value)
    return value


read_text = partial(read_kind, str, "a string")


def read_digits(text: str) -> int | None:
    """Return the number that a text of digits means; None for any other text, and for a number beyond 18 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def read_user_vector(dimension: int, value: Any) -> NDArray[np.float64]:
    """Return what `retrieval.vectors` takes for a vector, as float64 (d,): a list of numbers, or base64 of float32."""
    if isinstance(value, str):
        return _decode_vector(dimension, value)
    try:
        return read_vector(value, dimension)
    except BadVector as error:
        pointers = ["" if fault.element is None else f"/{fault.element}" for fault in error.faults]
        faults = [Fault(fault.code, fault.detail, where) for fault, where in zip(error.faults, pointers, strict=True)]
        raise ValidationError(faults) from error


def _decode_vector(dimension: int, text: str) -> NDArray[np.float64]:
    """Do what `read_user_vector` does with base64, whose numbers no pointer can name."""
    size = dimension * VECTOR_DTYPE.itemsize
    try:
        decoded = a2b_base64(text, strict_mode=True)
    except ValueError as error:
        expected = f"must be a list of numbers, or base64 of {dimension} little-endian float32"
        raise invalid("vector_type", expected) from error
    if len(decoded) != size:
        numbers, rest = divmod(len(decoded), VECTOR_DTYPE.itemsize)
        found = f"{len(decoded)} bytes, {size}" if rest else f"{numbers} numbers, {dimension}"
        raise invalid("vector_dimension", f"has {found} are expected")
    try:
        return read_vector(np.frombuffer(decoded, VECTOR_DTYPE), dimension)
    except BadVector as error:
        details = [f.detail if f.element is None else f"element {f.element} {f.detail}" for f in error.faults]
        faults = [Fault(fault.code, detail, "") for fault, detail in zip(error.faults, details, strict=True)]
        raise ValidationError(faults) from error


def read_by_fields(
    vocabulary: Vocabulary | None, ability: str, read: Callable[[Any, Vocabulary], Any], value: Any
) -> Any:
    """Return what `read` does with the fields of products. Raises CannotFilter where the engine has none."""
    if vocabulary is None:
        raise CannotFilter(f"this engine does not {ability}")
    return read(value, vocabulary)


def read_filter(value: Any, vocabulary: Vocabulary) -> Filter:
    """Return a filter. Raises CannotFilter where the engine does not filter by one of its fields."""
    tree = parse_filter(value, vocabulary)
    _check_supported(vocabulary, fields_of(tree))
    return tree


def read_limits(value: Any, vocabulary: Vocabulary) -> MaxPer:
    """Return limits by value. Raises CannotFilter where the engine cannot read the fields, or filter by one."""
    _check_shown(vocabulary, "limit values")
    limits = read_max_per(value, vocabulary)
    _check_supported(vocabulary, [name for name, _ in limits])
    return limits


def read_shown_fields(value: Any, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return names of fields. Raises CannotFilter where the engine shows none."""
    _check_shown(vocabulary, "show fields")
    return read_field_names(value, vocabulary)


def _check_supported(vocabulary: Vocabulary, fields: Iterable[str]) -> None:
    if problem := vocabulary.problem_with(fields):
        raise CannotFilter(f"this engine does not filter by {problem}")


def _check_shown(vocabulary: Vocabulary, ability: str) -> None:
    if vocabulary.unshown:
        raise CannotFilter(f"this engine does not {ability}: {vocabulary.unshown}")


def read_diversity(vocabulary: Vocabulary | None, value: Any) -> float:
    """Return a number from 0, which is off, to 1. Raises CannotFilter where an engine cannot tell products apart."""
    diversity = read_number(0, 1, value)
    if diversity and (vocabulary is None or not vocabulary.diversifies):
        raise CannotFilter("this engine does not diversify; leave diversity out")
    return diversity


def read_explain(vocabulary: Vocabulary | None, value: Any) -> bool:
    """Return a boolean. Raises CannotFilter where an engine without fields would have to explain."""
    wants = bool(read_kind(bool, "a boolean", value))
    if wants and vocabulary is None:
        raise CannotFilter("this engine does not explain its searches; leave explain out")
    return wants


def read_some_ids(min_ids: int, max_ids: int, value: Any) -> tuple[str, ...]:
    """Return `min_ids` to `max_ids` strings, in order."""
    ids = tuple(read_ids(value))
    if not min_ids <= len(ids) <= max_ids:
        raise invalid("range", f"must have from {min_ids} to {max_ids} product ids, not {len(ids)}")
    return ids


def invalid(code: str, detail: str) -> ValidationError:
    """Return the error of a value with one fault."""
    return ValidationError([Fault(code, detail, "")])


OPTIONS = frozenset(option_fields(Limits(), None))
