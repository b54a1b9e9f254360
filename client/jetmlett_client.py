"""A client of the matching service. It needs nothing but the standard library.

with Client("http://localhost:5000") as client:
    answer = client.infer(User("mike", vector))
    for result in client.batch(users):  # Answer or UserError, in order
        ...
"""

import json
import random
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import count
from math import isfinite
from typing import Any, Self
from urllib.parse import urlsplit

_TOO_MANY, _UNAVAILABLE = 429, 503
_CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)  # RemoteDisconnected is one of them.
_MAX_SHOWN_CHARACTERS = 200  # An answer that is no problem is cut to so many.


@dataclass(frozen=True, slots=True)
class User:
    """A user to find matches for: `vector` is (d,), a list or an array; k of None is the service's default.

    The ids in `exclude` may be integers where the catalogue's are. The others are the options of a request: only
    products that match the `filter` are found, no best match scores less than `min_score` and no worst one more than
    `max_score`, at most as many have the same value of a field as `max_per` says ({"brand": 2}), it counts by
    `diversity` (0 to 1) that they are unlike each other, each is shown with the `fields` of these names (["*"] for
    all), and the answer says with `explain` how it was found.
    """

    name: str
    vector: Iterable[float]
    k: int | None = None
    exclude: Sequence[str | int] = ()
    filter: Mapping[str, Any] | None = None
    min_score: float | None = None
    max_score: float | None = None
    fields: Sequence[str] = ()
    explain: bool = False
    max_per: Mapping[str, int] | None = None
    diversity: float | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A product, its cosine similarity to the user, and the fields that it has of those that the user wanted to see."""

    id: str
    name: str
    score: float
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A user's matches: `best` from the highest score down, `worst` from the lowest up; `build` is the build's id.

    With `diversity`, they stand in the order in which they were picked. `matched` is how many products the filter lets
    through, `explain` how the matches were found, if wanted.
    """

    name: str
    best: tuple[Match, ...]
    worst: tuple[Match, ...]
    build: str
    matched: int | None = None
    explain: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request; `pointer` is the JSON pointer to it."""

    code: str
    detail: str
    pointer: str


@dataclass(frozen=True, slots=True)
class UserError:
    """Why a user of a batch has no answer; the fault's pointer starts with the user's position in the whole batch."""

    name: str | None
    error: Fault


class ClientError(Exception):
    """Base of what the client raises about requests."""


class NoAnswer(ClientError):
    """The service could not be reached, took too long, or broke off its answer."""


class Refused(ClientError):
    """The service answered with a problem; `body` is the answer as it came."""

    def __init__(self, status: int, title: str, detail: str, faults: tuple[Fault, ...], body: str):
        super().__init__(f"{status} {title}: {detail}")
        self.status, self.title, self.detail, self.faults, self.body = status, title, detail, faults, body


class Client:
    """Keeps connections open between requests; threads may share it, each request having a connection to itself."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        embedding_model: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: float = 0.1,
        longest_wait: float = 30.0,
        max_users: int = 10_000,
        max_matches: int = 1_000_000,
        max_body_bytes: int = 64 * 2**20,
        default_k: int = 10,
        float32: bool = False,
    ):
        """`timeout`, `backoff` (doubled with each try) and `longest_wait` (between two tries) are in seconds.

        `max_users` to `default_k` are the service's limits, by which batches are split: users, matches a side (users x
        k, more with diversity), bytes in a request, and the k of users without one. Raises ValueError for a bad one.

        `embedding_model` is what made the users' vectors: a service over another one's products refuses them (422).

        Vectors that float32 holds exactly, such as NumPy's of that type, are sent as base64, which both sides handle
        several times faster; `float32` rounds all others to it too, which may change the sixth decimal of a score.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        if min(max_users, max_matches, max_body_bytes, default_k) < 1 or retries < 0:
            raise ValueError("limits must be at least 1, and retries at least 0")
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        headers = {"Authorization": api_key and f"Bearer {api_key}", "X-Embedding-Model": embedding_model}
        self._headers = {name: value for name, value in headers.items() if value}
        self._timeout, self._retries, self._backoff, self._longest_wait = timeout, retries, backoff, longest_wait
        self._max_users, self._max_matches, self._max_body_bytes = max_users, max_matches, max_body_bytes
        self._default_k, self._float32 = default_k, float32
        self._idle: list[HTTPConnection] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no request is using; a later request opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def infer(self, user: User) -> Answer:
        """Return a user's matches. Raises NoAnswer, or Refused: with the faults, where the user is not valid (422)."""
        body, build = self._send("POST", "/infer", _encode(user, self._float32))
        return _answer(_parse(body), build)

    def batch(self, users: Iterable[User]) -> Iterator[Answer | UserError]:
        """Yield an answer or error for each user, in order, in as many requests as the limits ask for.

        Requests are sent as the results are taken. Raises NoAnswer or Refused, after the results of earlier requests.
        """
        first = 0
        for bodies in self._parts(users):
            body, build = self._send("POST", "/batch", b"[" + b",".join(bodies) + b"]")
            results = _parse(body)
            if not isinstance(results, list) or len(results) != len(bodies):
                raise NoAnswer(f"the answer to a batch of {len(bodies)} users does not have as many members")
            for position, result in enumerate(results, first):
                yield _user_error(result, position) if "error" in result else _answer(result, build)
            first += len(bodies)

    def index(self) -> dict[str, Any]:
        """Return id, products, dimension, kind and recall of the build that answers. Raises NoAnswer or Refused."""
        index: dict[str, Any] = _parse(self._send("GET", "/index")[0])
        return index

    def is_ready(self) -> bool:
        """Tell whether the service answers and takes requests, without retries."""
        try:
            return self._exchange("GET", "/health/ready", None)[0].status == 200
        except NoAnswer:
            return False

    def _parts(self, users: Iterable[User]) -> Iterator[list[bytes]]:
        """Yield the users' JSON, in lists within the limits. A user who alone exceeds one is sent all the same."""
        bodies: list[bytes] = []
        matches = size = 0
        for user in users:
            body, work = _encode(user, self._float32), _work_of(user, self._default_k)
            matches, size = matches + work, size + len(body) + 1
            too_many = len(bodies) == self._max_users or matches > self._max_matches or size >= self._max_body_bytes
            if bodies and too_many:
                yield bodies
                bodies, matches, size = [], work, len(body) + 1
            bodies.append(body)
        if bodies:
            yield bodies

    def _send(self, method: str, path: str, body: bytes | None = None) -> tuple[bytes, str]:
        """Return the body of a 200 and the build that answered; retry where that may help, as all requests can be."""
        for tried in count():
            wait = random.uniform(0.5, 1.0) * self._backoff * 2**tried  # noqa: S311 (spreads clients, hides nothing)
            failure: ClientError
            try:
                response, found = self._exchange(method, path, body)
            except _CutOff as error:
                failure = error
            else:
                if response.status == 200:
                    return found, response.headers.get("X-Index-Version", "")
                failure = _refused(response, found)
                if response.status not in (_TOO_MANY, _UNAVAILABLE):
                    raise failure
                wait += _retry_after(response.headers)
            if tried == self._retries or wait > self._longest_wait:
                raise failure
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _exchange(self, method: str, path: str, body: bytes | None) -> "_Exchange":
        """Send one request. A kept connection that turns out to be closed is replaced by a new one, once."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._exchange_on(connection, method, path, body)
            except _Unanswered:
                self.close()  # The others are as old.
        new = self._connect(self._host, self._port, timeout=self._timeout)
        return self._exchange_on(new, method, path, body)

    def _exchange_on(self, connection: HTTPConnection, method: str, path: str, body: bytes | None) -> "_Exchange":
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        reusable = False
        try:
            response = _response(connection, method, self._prefix + path, body, headers)
            found = response.read()
            reusable = not response.will_close
        except (*_CLOSED, HTTPException) as error:
            raise _CutOff(f"the answer broke off ({error!r})") from error
        except OSError as error:
            raise NoAnswer(str(error)) from error
        finally:
            if not reusable:
                connection.close()
        if reusable:
            with self._lock:
                self._idle.append(connection)
        return response, found


_Exchange = tuple[HTTPResponse, bytes]  # an answer with its headers, and its body


class _CutOff(NoAnswer):
    """The connection was lost before the answer's end."""


class _Unanswered(_CutOff):
    """The connection was lost before the answer's beginning."""


def _response(
    connection: HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> HTTPResponse:
    """Return the answer with its headers read. Raises _Unanswered, or what `http.client` does."""
    if connection.sock is None:
        connection.connect()
    try:
        with suppress(*_CLOSED):  # A server may answer, and close, before the body has arrived.
            connection.request(method, target, body, dict(headers))
        return connection.getresponse()
    except _CLOSED as error:
        raise _Unanswered(f"the connection was closed without an answer ({error!r})") from error


def _work_of(user: User, default_k: int) -> int:
    """Return as how many matches a side the service counts a user: k, and more with diversity."""
    k = max(0, default_k if user.k is None else int(user.k))
    pool = max(k, min(10 * k, 2000))
    return max(pool, k * pool // 50) if user.diversity else k


def _encode(user: User, rounds: bool) -> bytes:
    tolist = getattr(user.vector, "tolist", None)  # NumPy's arrays have one.
    numbers = tolist() if tolist else list(user.vector)
    members: dict[str, Any] = {"name": user.name, "vector": _base64(numbers, rounds) or numbers}
    for option in ("k", "filter", "min_score", "max_score", "max_per", "diversity"):
        if (value := getattr(user, option)) is not None:
            members[option] = value
    if len(user.exclude):
        members["exclude"] = [*map(str, user.exclude)]
    if len(user.fields):
        members["fields"] = list(user.fields)
    if user.explain:
        members["explain"] = True
    return json.dumps(members, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: NumPy's integers are integers, its arrays lists, and what is left numbers."""
    if isinstance(value, Mapping):
        return dict(value)
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist else float(value)


def _base64(numbers: list[Any], rounds: bool) -> str | None:
    """Return numbers as base64 of float32, or None where that is not what they are; the service then judges them."""
    layout = struct.Struct(f"<{len(numbers)}f")
    try:
        packed = layout.pack(*numbers)
    except (struct.error, OverflowError):
        return None
    floats = layout.unpack(packed)
    if bool in map(type, numbers) or not isfinite(sum(floats)):
        return None
    is_same = floats == tuple(numbers)
    is_near = rounds and all(
        abs(given - each) <= abs(given) * 2**-24 for given, each in zip(numbers, floats, strict=True)
    )
    return b64encode(packed).decode() if is_same or is_near else None


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise NoAnswer(f"the answer is not JSON ({error})") from error


def _answer(fields: Mapping[str, Any], build: str) -> Answer:
    best, worst = (tuple(Match(**match) for match in fields[side]) for side in ("best", "worst"))
    return Answer(fields["name"], best, worst, build, fields.get("matched"), fields.get("explain"))


def _user_error(fields: Mapping[str, Any], position: int) -> UserError:
    fault = Fault(**fields["error"])
    member = "/".join([str(position), *fault.pointer.split("/")[2:]])
    return UserError(fields["name"], Fault(fault.code, fault.detail, f"/{member}"))


def _refused(response: HTTPResponse, body: bytes) -> Refused:
    text = body.decode(errors="replace")
    try:
        problem = json.loads(text)
        faults = tuple(Fault(**fault) for fault in problem.get("errors", ()))
        return Refused(response.status, problem["title"], problem["detail"], faults, text)
    except (ValueError, KeyError, TypeError, AttributeError):  # The answer may be a proxy's.
        return Refused(response.status, response.reason, text[:_MAX_SHOWN_CHARACTERS], (), text)


def _retry_after(headers: Message) -> float:
    """Return the seconds, from a number or a date; 0 where there is neither."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
