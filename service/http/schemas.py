"""What a valid request is, as marshmallow fields whose errors are faults with codes."""

import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields
from numpy.typing import NDArray

from retrieval.records.lenient_json import BadJson
from retrieval.vectors import BadVector, VectorFault, json_type, read_vector
from service.errors import BadRequest, FailedUser, Fault, TooLarge
from service.http import payload
from service.recommender import Item, User
from service.settings import Limits

_MOST_ID_FAULTS = 20
_READ_AT_ONCE = 64  # users
_NOTHING: frozenset[str] = frozenset()
_SHORTEST, _LONGEST = 1e-100, 1e100  # largest magnitudes in a vector that is neither all zeros nor beyond range


class _Field(fields.Field):
    """A field that collects faults; their pointers are relative to the field until `UserReader` completes them."""

    default_error_messages = {  # noqa: RUF012 (marshmallow declares it)
        "required": [Fault("missing", "is missing", "")],
        "null": [Fault("null", "must not be null", "")],
    }


class Text(_Field):
    json_schema: ClassVar = {"type": "string"}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise _wrong_type("a string", value)
        return value


class Vector(_Field):
    """A list of numbers that `vectors.py` takes for a vector of the given dimension."""

    def __init__(self, dimension: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dimension = dimension

    @property
    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "array",
            "items": {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max},
            "minItems": self.dimension,
            "maxItems": self.dimension,
            "contains": {"not": {"const": 0}},
        }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> NDArray[np.float64]:
        try:
            return read_vector(value, self.dimension)
        except BadVector as error:
            raise ValidationError([_vector_fault(fault) for fault in error.faults]) from None


class Count(_Field):
    """A whole number from 1 to `most`."""

    def __init__(self, most: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.most = most

    @property
    def json_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": self.most}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        huge = type(value) is float and abs(value) >= 2**63  # how the JSON reader gives integers of many digits
        if type(value) is not int and not huge:
            raise _wrong_type("an integer", value)
        if not 1 <= value <= self.most:
            far = "a far smaller number" if value < 0 else "a far greater number"
            found = value if abs(value) < 10**18 else far
            raise ValidationError([Fault("range", f"must be from 1 to {self.most}, not {found}", "")])
        return value


class Ids(_Field):
    """A list of strings, as a set."""

    json_schema: ClassVar = {"type": "array", "items": {"type": "string"}}

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> frozenset[str]:
        return frozenset(_strings(value))


class OrderedIds(_Field):
    """A list of `least` to `most` strings, in order."""

    def __init__(self, least: int, most: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.least, self.most = least, most

    @property
    def json_schema(self) -> dict[str, Any]:
        return {**Ids.json_schema, "minItems": self.least, "maxItems": self.most}

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[str, ...]:
        ids = tuple(_strings(value))
        if not self.least <= len(ids) <= self.most:
            detail = f"must have from {self.least} to {self.most} product ids, not {len(ids)}"
            raise ValidationError([Fault("range", detail, "")])
        return ids


def load(schema: Schema, value: Any, what: str, pointer: str = "") -> dict[str, Any]:
    """The fields of the parsed JSON object at `pointer` of the body; raises BadRequest with every fault."""
    if not isinstance(value, dict):
        raise BadRequest([Fault("type", f"{what} must be an object, not {json_type(value)}", pointer)])
    try:
        return dict(schema.load(value))
    except ValidationError as error:
        by_field: dict[str, list[Fault]] = error.normalized_messages()  # type: ignore[no-untyped-call]
        raise BadRequest([_placed(fault, name, pointer) for name in by_field for fault in by_field[name]]) from None


def user_schema(dimension: int, limits: Limits) -> Schema:
    """What a user is to an index of this dimension; other fields are ignored."""
    shape: dict[str, fields.Field] = {
        "name": Text(required=True),
        "vector": Vector(dimension, required=True),
        "k": Count(limits.max_k, load_default=limits.default_k),
        "exclude": Ids(load_default=frozenset),
    }
    return Schema.from_dict(shape, name="User")(unknown=EXCLUDE)


class UserReader:
    """Reads users from request bodies.

    `read` defines what a valid user is. What every well-behaved client sends is read without it, several times faster,
    by `_plain_users`, which leaves everything else to it.
    """

    def __init__(self, dimension: int, limits: Limits):
        self._dimension, self._limits = dimension, limits
        self._floats, self._zeros = struct.Struct(f"{dimension}d"), bytes(8 * dimension)
        self._schema = user_schema(dimension, limits)

    def read_user(self, body: bytes) -> User:
        """The one user of a body. Raises BadBody, or BadRequest with every fault."""
        return self.read_plain_user(body) or self.read(payload.read_json(body))

    def read_plain_user(self, body: bytes) -> User | None:
        """The one user of a body, or None where `read_user` must have a look."""
        try:
            return self._plain_users([orjson.loads(body)], [body])[0]
        except orjson.JSONDecodeError:
            return None

    def read_array(self, body: bytes) -> Iterator[Item]:
        """The users of an array, one after the other.

        Raises BadBody, BadRequest where the body is no array, or TooLarge: perhaps only when users have been given.
        """
        texts, count = payload.split_array(body) or [], 0
        while count < len(texts) <= self._limits.max_batch:
            some = texts[count : count + _READ_AT_ONCE]
            try:
                values = [*map(orjson.loads, some)]
            except orjson.JSONDecodeError:  # one is no member
                break
            yield from self._read_all(values, some, count)
            count += len(some)
        if count and count == len(texts):
            return
        values = payload.read_json(body)
        if not isinstance(values, list):
            raise BadRequest([Fault("type", "a batch must be an array of users", "")])
        self._check_size(len(values))
        for i in range(count, len(values)):
            yield self.read_member(values[i], i)

    def read_lines(self, body: bytes) -> Iterator[Item]:
        """The users of an NDJSON body, of which a line that is not JSON fails alone. Raises TooLarge."""
        lines = payload.split_lines(body)
        self._check_size(len(lines))
        return self.read_members(lines)

    def read_members(self, lines: Sequence[bytes], first: int = 0) -> Iterator[Item]:
        """The users of any number of lines, the first of which is at position `first` of all."""
        for start in range(0, len(lines), _READ_AT_ONCE):
            some = lines[start : start + _READ_AT_ONCE]
            yield from self._read_all([*map(payload.read_line, some)], some, first + start)

    def read(self, value: Any, pointer: str = "") -> User:
        """The user in the parsed JSON at `pointer` of the body; raises BadRequest with every fault."""
        return User(**load(self._schema, value, "a user", pointer))

    def _read_all(self, values: Sequence[Any], texts: Sequence[bytes], first: int) -> Iterator[Item]:
        users = self._plain_users(values, texts)
        return (user or self.read_member(values[i], first + i) for i, user in enumerate(users))

    def _plain_users(self, values: Sequence[Any], texts: Sequence[bytes]) -> list[User | None]:
        """The user in each value, or None where `read` must have a look: at anything unusual, valid or not."""
        shapes = [*map(self._shape, values, texts)]
        packed = b"".join([shape[1] if shape else self._zeros for shape in shapes])
        vectors = np.frombuffer(packed).reshape(-1, self._dimension)
        return [
            User(shape[0], vector, *shape[2:]) if shape and is_plain else None
            for shape, vector, is_plain in zip(shapes, vectors, are_plain(vectors).tolist(), strict=True)
        ]

    def _shape(self, value: Any, text: bytes) -> tuple[str, bytes, int, frozenset[str]] | None:
        """The name, the vector as doubles, k and exclude, if they have the types of a valid user's; or None."""
        if type(value) is not dict or b"true" in text or b"false" in text:  # which would be packed as numbers
            return None
        name, numbers = value.get("name"), value.get("vector")
        k, exclude = value.get("k", self._limits.default_k), value.get("exclude", _NOTHING)
        if type(name) is not str or type(numbers) is not list or len(numbers) != self._dimension:
            return None
        if type(k) is not int or not 1 <= k <= self._limits.max_k:
            return None
        if exclude is not _NOTHING and (type(exclude) is not list or not set(map(type, exclude)) <= {str}):
            return None
        try:
            return name, self._floats.pack(*numbers), k, frozenset(exclude)
        except (struct.error, OverflowError):
            return None

    def read_member(self, value: Any, position: int) -> Item:
        """The user in the parsed JSON at this position of a batch, or the first fault found."""
        if isinstance(value, BadJson):
            return FailedUser(None, Fault("not_json", f"the line is {value}", f"/{position}"))
        try:
            return self.read(value, f"/{position}")
        except BadRequest as error:
            name = value.get("name") if isinstance(value, dict) else None
            return FailedUser(name if isinstance(name, str) else None, error.faults[0])

    def _check_size(self, users: int) -> None:
        if users > self._limits.max_batch:
            raise TooLarge(f"the batch has {users} users, {self._limits.max_batch} are allowed")


def are_plain(vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows (n,) of (n, d) are valid vectors at first sight: no NaN, and of an ordinary length."""
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    return (largest > _SHORTEST) & (largest < _LONGEST)


def _strings(value: Any) -> list[str]:
    if type(value) is not list:
        raise _wrong_type("a list of product ids", value)
    others = [i for i, member in enumerate(value) if not isinstance(member, str)]
    if others:
        faults = [Fault("type", f"must be a string, not {json_type(value[i])}", f"/{i}") for i in others]
        raise ValidationError(faults[:_MOST_ID_FAULTS])
    return value


def _placed(fault: Fault, name: str, pointer: str) -> Fault:
    """The fault of a field, or of one of its members, as the client sees it."""
    member = fault.pointer.replace("/", " element ")
    return Fault(fault.code, f"{name}{member} {fault.detail}", f"{pointer}/{name}{fault.pointer}")


def _wrong_type(expected: str, value: Any) -> ValidationError:
    found = value if type(value) is float else json_type(value)
    return ValidationError([Fault("type", f"must be {expected}, not {found}", "")])


def _vector_fault(fault: VectorFault) -> Fault:
    return Fault(fault.code, fault.detail, "" if fault.element is None else f"/{fault.element}")
