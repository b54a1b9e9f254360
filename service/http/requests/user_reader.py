"""Reads the users of request bodies into blocks: their options, and their vectors as one matrix."""

import struct
from binascii import a2b_base64
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.records.lenient_json import BadJson, LongJson, iterate_array, loads
from retrieval.search.filters.language import Vocabulary
from service.errors import BadBody, BadRequest, CannotFilter, FailedUser, Fault, TooLarge
from service.http.requests.misspelt import find_misspelt
from service.http.requests.schemas import OPTIONS, VECTOR_DTYPE, load, user_schema
from service.http.requests.text import fits, parse_json, read_json, unwrap
from service.recommender import MAX_USERS_PER_SEARCH, User, UserBlock
from service.settings import Limits

_COMMA = ord(",")
_LINE_ENDS = (b'}\n{"', b'}\r\n{"')  # between users of JSON lines, and nowhere in a JSON value
_MAX_GROUP_BYTES = 2**20  # Texts that are parsed together take so many, which bounds their values.
_MAX_BLANK_LINES = 1_000_000
_EMPTY: frozenset[str] = frozenset()
_SLOW_OPTIONS = OPTIONS - {"k", "exclude"}  # which the fast path leaves to `read`
# A vector whose largest number lies between these is for certain neither zero nor out of range.
_MIN_MAGNITUDE, _MAX_MAGNITUDE = 1e-100, 1e100

UserRow = tuple[User, NDArray[np.float64]]  # A user and their vector (d,).


class UserReader:
    """Reads users of one dimension.

    `read` defines what a valid user is. What every well-behaved client sends is read without it, several times faster,
    by the fast path, which leaves everything else to it.
    """

    def __init__(self, dimension: int, limits: Limits, vocabulary: Vocabulary | None = None):
        """Read users who filter and show products by the fields of a vocabulary, if there is one."""
        self._dimension, self._limits = dimension, limits
        self._doubles, self._zeros = struct.Struct(f"{dimension}d"), bytes(8 * dimension)
        self._schema = user_schema(dimension, limits, vocabulary)

    def read_user(self, body: bytes) -> UserRow:
        """Return the one user of a body. Raises BadBody, or BadRequest with every fault."""
        value = read_json(body)
        [user], vectors = self._parse_fast([value])
        return (user, vectors[0]) if user else self.read(value)

    def parse_fast(self, bodies: Sequence[bytes]) -> tuple[list[User | None], NDArray[np.float64]]:
        """Return the user of each body, None for one that `read_user` must look at, and the vectors of the others."""
        values = []
        for body in bodies:
            try:
                values.append(orjson.loads(body) if fits(body) else None)
            except orjson.JSONDecodeError:
                values.append(None)
        return self._parse_fast(values)

    def read_array(self, body: bytes) -> Iterator[UserBlock]:
        """Yield the users of an array; raises BadBody, BadRequest or TooLarge, perhaps only after some blocks."""
        text, max_users, count = unwrap(body), self._limits.max_batch, 0
        if text.removeprefix(BOM_UTF8).lstrip().startswith(b"{") and any(end in text for end in _LINE_ENDS):
            raise BadBody("the body is not JSON but JSON lines, which need Content-Type: application/x-ndjson")
        texts = _split_array(text, max_users + 2) or []
        for some in _group_texts(texts):
            values = [*map(_read_text, some)]
            if BadJson in map(type, values):  # A text is no member: the guess of where members end was wrong.
                break
            if len(texts) <= max_users:
                yield self._read_block(values, count)
            count += len(some)
        if not count or count < len(texts):
            yield from self._read_odd_array(text, count if len(texts) <= max_users else 0)
        self._check_size(count, is_exact=count < max_users + 2)

    def _read_odd_array(self, text: bytes, first: int) -> Iterator[UserBlock]:
        """Yield the users from position `first` on of an array: parsed whole if that is small, or else one by one."""
        if fits(text) or not text.removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            value = parse_json(text)
            if not isinstance(value, list):
                raise BadRequest([Fault("type", "a batch must be an array of users", "")])
            self._check_size(len(value))
            members = iter(value)
        else:
            members = iterate_array(text)
        try:
            rest = islice(members, first, None)
            while some := [*islice(rest, MAX_USERS_PER_SEARCH)]:
                self._check_size(first + len(some), is_exact=False)
                yield collect_block(
                    [self.read_member(value, i) for i, value in enumerate(some, first)], self._dimension
                )
                first += len(some)
        except LongJson as error:
            raise TooLarge(f"the body is {error}") from error
        except BadJson as error:
            raise BadBody(f"the body is {error}") from error

    def read_lines(self, body: bytes) -> Iterator[UserBlock]:
        """Return the users of an NDJSON body, of which a line that is not JSON fails alone. Raises TooLarge."""
        if body.count(b"\n") > self._limits.max_batch + _MAX_BLANK_LINES:
            raise TooLarge(f"the batch has more than {self._limits.max_batch} lines and {_MAX_BLANK_LINES} blank ones")
        lines = split_lines(body)
        self._check_size(len(lines))
        return self.read_some_lines(lines)

    def read_some_lines(self, lines: Sequence[bytes], first: int = 0) -> Iterator[UserBlock]:
        """Yield the users of any number of lines, the first of which is at position `first` of all."""
        for some in _group_texts(lines):
            yield self._read_block([*map(_read_text, some)], first)
            first += len(some)

    def read(self, value: Any, pointer: str = "") -> UserRow:
        """Return the user in the parsed JSON at `pointer` of the body; raises BadRequest with every fault."""
        fields = load(self._schema, value, "a user", pointer)
        vector = fields.pop("vector")
        return User(**fields, ignored=find_misspelt(value)), vector

    def read_member(self, value: Any, position: int) -> UserRow | FailedUser:
        """Return the user in the parsed JSON at this position of a batch, or the first fault found."""
        if isinstance(value, BadJson):
            return FailedUser(None, Fault("not_json", f"the line is {value}", f"/{position}"))
        try:
            return self.read(value, f"/{position}")
        except BadRequest as error:
            return FailedUser(_name_of(value), error.faults[0])
        except CannotFilter as error:
            return FailedUser(_name_of(value), Fault("not_implemented", str(error), f"/{position}"))

    def _read_block(self, values: Sequence[Any], first: int) -> UserBlock:
        users, vectors = self._parse_fast(values)
        if len(vectors) == len(users):
            return UserBlock(users, vectors)  # type: ignore[arg-type]  # none of them is None
        rows, members = iter(vectors), enumerate(zip(users, values, strict=True), first)
        read = [(user, next(rows)) if user else self.read_member(value, i) for i, (user, value) in members]
        return collect_block(read, self._dimension)

    def _parse_fast(self, values: Sequence[Any]) -> tuple[list[User | None], NDArray[np.float64]]:
        """Return the user in each value, None for anything unusual, valid or not, and the vectors of the others."""
        parsed = [*map(self._parse_fields, values)]
        packed = b"".join([fields[1] if fields else self._zeros for fields in parsed])
        vectors = np.frombuffer(packed).reshape(-1, self._dimension)
        in_range = in_safe_range(vectors)
        may_be_boolean = (vectors == 0.0) | (vectors == 1.0)  # A boolean has been packed as one of these.
        if may_be_boolean.any():
            for row in np.flatnonzero(in_range & may_be_boolean.any(axis=1)).tolist():
                in_range[row] = bool not in map(type, values[row]["vector"])
        users = [fields[0] if fields and fits else None for fields, fits in zip(parsed, in_range.tolist(), strict=True)]
        return users, vectors if in_range.all() else vectors[in_range]

    def _parse_fields(self, value: Any) -> tuple[User, bytes] | None:
        """Return a user, and the vector as doubles, if all fields have the types of a valid user's."""
        if type(value) is not dict:
            return None
        if not _SLOW_OPTIONS.isdisjoint(value):
            return None
        name, packed = value.get("name"), self._pack(value.get("vector"))
        k, exclude = value.get("k", self._limits.default_k), value.get("exclude", _EMPTY)
        if type(name) is not str or packed is None:
            return None
        has_others = len(value) > 2 + ("k" in value) + ("exclude" in value)
        if has_others and find_misspelt(value):
            return None
        if type(k) is not int or not 1 <= k <= self._limits.max_k:
            return None
        if exclude is not _EMPTY and (type(exclude) is not list or not set(map(type, exclude)) <= {str}):
            return None
        return User(k, frozenset(exclude), name=name), packed

    def _pack(self, vector: Any) -> bytes | None:
        """Return the doubles of a list of numbers, among which booleans count, or of base64; None for anything else."""
        with suppress(ValueError, struct.error, OverflowError):
            if type(vector) is list:
                return self._doubles.pack(*vector)
            if type(vector) is str:
                floats = np.frombuffer(a2b_base64(vector, strict_mode=True), VECTOR_DTYPE)
                return floats.astype(np.float64).tobytes() if len(floats) == self._dimension else None
        return None

    def _check_size(self, users: int, is_exact: bool = True) -> None:
        if users > self._limits.max_batch:
            count = users if is_exact else f"{users} or more"
            raise TooLarge(f"the batch has {count} users, {self._limits.max_batch} are allowed")


# The build that was served before is let go as soon as another is.
reader_for = lru_cache(maxsize=1)(UserReader)


def collect_block(rows: Sequence[UserRow | FailedUser], dimension: int) -> UserBlock:
    """Return users and those who could not be read as one block."""
    items = [row if isinstance(row, FailedUser) else row[0] for row in rows]
    vectors = [row[1] for row in rows if not isinstance(row, FailedUser)]
    return UserBlock(items, np.stack(vectors) if vectors else np.empty((0, dimension)))


def in_safe_range(vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which rows (n,) of (n, d) are valid vectors at first sight: no NaN, and of an ordinary length."""
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    return (largest > _MIN_MAGNITUDE) & (largest < _MAX_MAGNITUDE)


def _name_of(value: Any) -> str | None:
    """Return the name of a user at fault, if it is one."""
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def split_lines(body: bytes) -> list[bytes]:
    """Return the lines of an NDJSON body without the blank ones."""
    return [line for line in body.split(b"\n") if line.strip()]


def _group_texts(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield texts in order: as many together as are searched at once, or fewer long ones, which bounds their values."""
    group: list[bytes] = []
    size = 0
    for text in texts:
        size += len(text)
        if group and (len(group) == MAX_USERS_PER_SEARCH or size > _MAX_GROUP_BYTES):
            yield group
            group, size = [], len(text)
        group.append(text)
    if group:
        yield group


def _read_text(text: bytes) -> Any:
    """Return the value of a text, or the BadJson in its place."""
    try:
        return loads(text) if fits(text) else BadJson("larger, or of more values, than one user may bring")
    except BadJson as error:
        return error


def _split_array(body: bytes, max_texts: int) -> list[bytes] | None:
    """Return the texts of the members of an array of objects, or None where the body does not look like a plain one.

    No more than the first `max_texts` are looked at. Where a member ends is guessed from the first brace. The texts
    before the first that is not JSON are members for certain, as there is one way to read an array; what follows them
    is not known.
    """
    body = body.strip()
    if not (body.startswith(b"[{") and body.endswith(b"}]")):
        return None
    texts: list[bytes] = []
    start = 1
    while (end := body.find(b"}", start) + 1) < len(body) - 1:
        if body[end] != _COMMA:
            return None
        texts.append(body[start:end])
        if len(texts) == max_texts:
            return texts
        start = end + 1
    return [*texts, body[start:end]]
