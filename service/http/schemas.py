"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from marshmallow import EXCLUDE, Schema, ValidationError, fields
from marshmallow.exceptions import SCHEMA
from numpy.typing import NDArray

from retrieval.records.lenient_json import BadJson, LongJson, loads, loads_string, take_array, value_bytes
from retrieval.search.filters.language import MAX_VALUES, BadFilter, Vocabulary, parse_filter
from retrieval.search.filters.tree import Filter
from retrieval.vectors import BadVector, json_type, read_vector
from service.errors import BadBody, BadRequest, CannotFilter, Fault, TooLarge
from service.recommender import ALL_FIELDS
from service.settings import Limits

# Of a text that is parsed at once, and of what it may become in memory: 800,000 empty objects. While it is parsed, for
# up to 0.1 s, no other thread of the process runs. Longer bodies are read in parts: lines, users, rows of a tensor.
MAX_TEXT_BYTES, MAX_VALUE_BYTES = 4 * 2**20, 64 * 2**20
_SMALL_BYTES = 2**19  # Texts up to here fit for certain.
_MAX_ID_FAULTS, _MAX_CHARACTERS_SHOWN = 20, 60
_MAX_SHOWN_INTEGER = 10**18
_MESSAGES: dict[str, Any] = {
    "required": [Fault("missing", "is missing", "")],
    "null": [Fault("null", "must not be null", "")],
    "invalid": [Fault("type", "must be a list", "")],
}


class Field(fields.Field):
    """A field whose value is what `read` returns for the parsed JSON.

    `read` raises ValidationError with a list of faults, whose pointers are relative to the field until `load` completes
    them.
    """

    default_error_messages = _MESSAGES

    def __init__(self, read: Callable[[Any], Any], **options: Any):
        super().__init__(**options)
        self._read = read

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return self._read(value)


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


def schema(**members: fields.Field) -> Schema:
    """Return the schema of an object of which unknown members are ignored."""
    return _RequestSchema.from_dict(members)()


def option_fields(limits: Limits, vocabulary: Vocabulary | None) -> dict[str, fields.Field]:
    """Return the options of whoever asks for matches of products with these fields, or with none (`SearchEngine`)."""
    return {
        "k": Field(partial(read_count, limits.max_k), load_default=limits.default_k),
        "exclude": Field(read_id_set, load_default=frozenset),
        "filter": Field(partial(read_filter, vocabulary)),
        "min_score": Field(read_score),
        "max_score": Field(read_score),
        "fields": Field(partial(read_field_names, vocabulary)),
    }


def user_schema(dimension: int, limits: Limits, vocabulary: Vocabulary | None = None) -> Schema:
    """Return what a user is to an index of this dimension, over products with these fields."""
    return schema(
        name=Field(read_text, required=True),
        vector=Field(partial(read_user_vector, dimension), required=True),
        **option_fields(limits, vocabulary),
    )


def read_json(body: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Return the value of a JSON body; a JSON string that holds JSON is decoded once more.

    Raises BadBody, or TooLarge where the value may take more than `max_bytes` of memory.
    """
    return parse_json(unwrap(body), max_bytes)


def parse_json(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> Any:
    """Do what `read_json` does with a text that holds the value itself."""
    if len(text) > MAX_TEXT_BYTES:
        raise TooLarge(f"the body has a value of {len(text):,} bytes, {MAX_TEXT_BYTES:,} are allowed")
    if not fits(text, max_bytes):
        raise TooLarge(f"the body holds more values than fit in the {max_bytes:,} bytes of memory allowed")
    try:
        return loads(text)
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def read_json_and_array(body: bytes, name: str, max_bytes: int) -> tuple[Any, list[Any]]:
    """Do what `read_json` does, but return apart what the array `name` holds in a body too long to be parsed at once.

    The array is empty in the value then.
    """
    text, members = unwrap(body), list[Any]()
    if len(text) > MAX_TEXT_BYTES and value_bytes(text) <= max_bytes:
        try:
            text, members = take_array(text, name)
        except BadJson as error:
            raise BadBody(f"the body is {error}") from error
    return parse_json(text, max_bytes), members


def unwrap(body: bytes) -> bytes:
    """Return the text in a body that is a JSON string, and any other body as it is. Raises BadBody or TooLarge."""
    if not body or body.isspace():
        raise BadBody("the body is empty, JSON is expected")
    if not body.removeprefix(BOM_UTF8).lstrip().startswith(b'"'):
        return body if len(body) <= MAX_TEXT_BYTES else body.strip()
    try:
        return loads_string(body)
    except LongJson as error:
        raise TooLarge(f"the body is {error}") from error
    except BadJson as error:
        raise BadBody(f"the body is {error}") from error


def fits(text: bytes, max_bytes: int = MAX_VALUE_BYTES) -> bool:
    """Tell whether a JSON text may be parsed at once, and its value is sure to take at most `max_bytes` of memory."""
    return len(text) <= _SMALL_BYTES or (len(text) <= MAX_TEXT_BYTES and value_bytes(text) <= max_bytes)


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
        raise _wrong_type(expected, value)
    return value


read_text = partial(read_kind, str, "a string")


def read_count(most: int, value: Any) -> int:
    """Return a whole number from 1 to `most`."""
    is_huge = type(value) is float and abs(value) >= 2**63  # how the JSON reader gives integers of many digits
    if type(value) is not int and not is_huge:
        raise _wrong_type("an integer", value)
    if not 1 <= value <= most:
        far = "a far smaller number" if value < 0 else "a far greater number"
        raise invalid("range", f"must be from 1 to {most}, not {value if abs(value) < _MAX_SHOWN_INTEGER else far}")
    return int(value)


def read_user_vector(dimension: int, value: Any) -> NDArray[np.float64]:
    """Return a list of numbers that `retrieval.vectors` takes for a vector, as float64 (d,)."""
    try:
        return read_vector(value, dimension)
    except BadVector as error:
        places = ["" if fault.element is None else f"/{fault.element}" for fault in error.faults]
        faults = [Fault(fault.code, fault.detail, place) for fault, place in zip(error.faults, places, strict=True)]
        raise ValidationError(faults) from error


def read_ids(value: Any) -> list[str]:
    if type(value) is not list:
        raise _wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if not isinstance(member, str)][:_MAX_ID_FAULTS]
    if others:
        raise ValidationError([Fault("type", f"must be a string, not {json_type(value[i])}", f"/{i}") for i in others])
    return value


def read_id_set(value: Any) -> frozenset[str]:
    return frozenset(read_ids(value))


def read_filter(vocabulary: Vocabulary | None, value: Any) -> Filter:
    """Return a filter over the fields. Raises CannotFilter where the engine has none."""
    if vocabulary is None:
        raise CannotFilter("this engine does not filter; leave the filter out")
    try:
        return parse_filter(value, vocabulary)
    except BadFilter as error:
        raise ValidationError([Fault(each.code, each.detail, each.pointer) for each in error.faults]) from error


def read_score(value: Any) -> float:
    """Return a number from -1 to 1."""
    if type(value) not in (int, float):
        raise _wrong_type("a number", value)
    if not -1 <= value <= 1:
        raise invalid("range", "must be from -1 to 1")
    return float(value)


def read_field_names(vocabulary: Vocabulary | None, value: Any) -> tuple[str, ...]:
    """Return names of fields without repetition, "*" among them or not. Raises CannotFilter where there are none."""
    if vocabulary is None:
        raise CannotFilter("this engine does not show fields; leave them out")
    if type(value) is not list:
        raise _wrong_type("a list of names of fields", value)
    if not 1 <= len(value) <= MAX_VALUES:
        code = "range" if value else "empty"
        raise invalid(code, f"must have from 1 to {MAX_VALUES} names of fields, not {len(value)}")
    faults = [fault for i, name in enumerate(value) for fault in _name_faults(vocabulary, name, i)]
    if faults:
        raise ValidationError(faults[:_MAX_ID_FAULTS])
    return tuple(dict.fromkeys(value))


def _name_faults(vocabulary: Vocabulary, name: Any, i: int) -> Iterator[Fault]:
    if not isinstance(name, str):
        yield Fault("type", f"must be a string, not {json_type(name)}", f"/{i}")
    elif name != ALL_FIELDS and name not in vocabulary.names:
        yield Fault("unknown_field", f"is a field of no product: {name[:_MAX_CHARACTERS_SHOWN]!r}", f"/{i}")


def read_some_ids(least: int, most: int, value: Any) -> tuple[str, ...]:
    """Return `least` to `most` strings, in order."""
    ids = tuple(read_ids(value))
    if not least <= len(ids) <= most:
        raise invalid("range", f"must have from {least} to {most} product ids, not {len(ids)}")
    return ids


def invalid(code: str, detail: str) -> ValidationError:
    """Return the error of a value with one fault."""
    return ValidationError([Fault(code, detail, "")])


def _wrong_type(expected: str, value: Any) -> ValidationError:
    return invalid("type", f"must be {expected}, not {value if type(value) is float else json_type(value)}")
