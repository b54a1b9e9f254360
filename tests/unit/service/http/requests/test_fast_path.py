"""What is read quickly is what the schema reads, fault for fault."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from service.errors import BadBody, BadRequest, FailedUser, TooLarge
from service.http.requests import user_reader
from service.http.requests.schemas import user_schema
from service.http.requests.text import read_json
from service.http.requests.user_reader import UserReader, UserRow
from service.offline.record_batches import USER_COLUMNS
from service.recommender import User, UserBlock
from service.settings import Limits

LIMITS = Limits(default_k=7, max_k=50, max_batch=6)
READER = UserReader(3, LIMITS)
GOOD = '{"name":"ann","vector":[1,0.5,-2e-3]}'


def base64_of(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


USERS = {
    "plain": GOOD,
    "spaced": ' {\n "name" : "ann" , "vector" : [ 1 , 0 , 0 ] } ',
    "k": '{"name":"ann","vector":[1,2,3],"k":50}',
    "exclude": '{"name":"ann","vector":[1,2,3],"exclude":["a","b","a"]}',
    "exclude nothing": '{"name":"ann","vector":[1,2,3],"exclude":[]}',
    "unknown fields": '{"name":"ann","vector":[1,2,3],"likes":["tea"],"x":{"vector":[]}}',
    "repeated field": '{"name":"ann","vector":[],"vector":[1,2,3]}',
    "braces in name": '{"name":"},{","vector":[1,2,3]}',
    "true as a name": '{"name":"true","vector":[1,2,3]}',
    "surrogate": '{"name":"\\ud800","vector":[1,2,3]}',
    "tiny": '{"name":"ann","vector":[1e-300,0,0]}',
    "denormal": '{"name":"ann","vector":[5e-324,0,0]}',
    "huge": '{"name":"ann","vector":[1e300,1e300,0]}',
    "integers beyond 64 bits": '{"name":"ann","vector":[123456789012345678901234567890,0,0]}',
    "diversity zero": '{"name":"ann","vector":[1,2,3],"diversity":0}',
    "diversity true": '{"name":"ann","vector":[1,2,3],"diversity":true}',
    "no name": '{"vector":[1,2,3]}',
    "name null": '{"name":null,"vector":[1,2,3]}',
    "name a number": '{"name":1,"vector":[1,2,3]}',
    "no vector": '{"name":"ann"}',
    "vector null": '{"name":"ann","vector":null}',
    "vector an object": '{"name":"ann","vector":{}}',
    "vector a string": '{"name":"ann","vector":"abc"}',
    "base64": f'{{"name":"ann","vector":"{base64_of(1, 0.5, -2e-3)}"}}',
    "base64 with escapes": '{"name":"ann","vector":"' + base64_of(3.4028234e38, 1, 2).replace("/", "\\/") + '"}',
    "base64 of a denormal": f'{{"name":"ann","vector":"{base64_of(1e-40, 0, 0)}"}}',
    "base64 of zeros": f'{{"name":"ann","vector":"{base64_of(0, -0.0, 0)}"}}',
    "base64 of NaN": f'{{"name":"ann","vector":"{base64_of(1, np.nan, 3)}"}}',
    "base64 of infinity": f'{{"name":"ann","vector":"{base64_of(-np.inf, 2, 3)}"}}',
    "base64 too short": f'{{"name":"ann","vector":"{base64_of(1, 2)}"}}',
    "base64 too long": f'{{"name":"ann","vector":"{base64_of(1, 2, 3, 4)}"}}',
    "base64 of half a number": '{"name":"ann","vector":"AACAPwAAgD8AAIA="}',
    "base64 without padding": f'{{"name":"ann","vector":"{base64_of(1, 2).rstrip("=")}"}}',
    "base64 of URLs": '{"name":"ann","vector":"AACAPwAAgD8AAI_-"}',
    "base64 in lines": f'{{"name":"ann","vector":"{base64_of(1, 2, 3)}\\n"}}',
    "not ASCII": '{"name":"ann","vector":"AACAPwAAgD8AAI\u00e9A"}',
    "empty string": '{"name":"ann","vector":""}',
    "too short": '{"name":"ann","vector":[1,2]}',
    "too long": '{"name":"ann","vector":[1,2,3,4]}',
    "zeros": '{"name":"ann","vector":[0,-0.0,0]}',
    "a boolean": '{"name":"ann","vector":[1,true,3]}',
    "another": '{"name":"ann","vector":[1,2,false]}',
    "a string": '{"name":"ann","vector":[1,"2",3]}',
    "a null": '{"name":"ann","vector":[1,null,3]}',
    "a list": '{"name":"ann","vector":[1,[2],3]}',
    "NaN": '{"name":"ann","vector":[1,NaN,3]}',
    "1e400": '{"name":"ann","vector":[1,1e400,3]}',
    "k zero": '{"name":"ann","vector":[1,2,3],"k":0}',
    "k too large": '{"name":"ann","vector":[1,2,3],"k":51}',
    "k a float": '{"name":"ann","vector":[1,2,3],"k":5.0}',
    "k true": '{"name":"ann","vector":[1,2,3],"k":true}',
    "k null": '{"name":"ann","vector":[1,2,3],"k":null}',
    "exclude null": '{"name":"ann","vector":[1,2,3],"exclude":null}',
    "exclude a string": '{"name":"ann","vector":[1,2,3],"exclude":"a"}',
    "exclude a number": '{"name":"ann","vector":[1,2,3],"exclude":["a",1]}',
    "all wrong": '{"name":2,"vector":[1],"k":"x","exclude":{}}',
    "an array": "[]",
    "a number": "1",
    "null": "null",
}
BODIES = {"empty": "", "not JSON": "{", "two": GOOD + GOOD, "encoded twice": json.dumps(GOOD)}


def outcome(read: Any, *arguments: Any) -> Any:
    """What a call gives or raises, in a form that compares."""
    try:
        return comparable(read(*arguments))
    except (BadBody, TooLarge) as error:
        return type(error), str(error)
    except BadRequest as error:
        return error.faults


def comparable(read: Any) -> Any:
    if isinstance(read, Iterator):
        return [item for block in read for item in comparable(block)]
    if isinstance(read, UserBlock):
        vectors = iter(read.vectors)
        rows = [(item, next(vectors)) if isinstance(item, User) else item for item in read.items]
        assert next(vectors, None) is None
        return [*map(comparable, rows)]
    if isinstance(read, tuple):
        user, vector = read
        return user, vector.dtype, vector.tolist()
    return read


def slowly(value: Any, position: int) -> UserRow | FailedUser:
    try:
        return READER.read(value, f"/{position}")
    except BadRequest as error:
        name = value.get("name") if isinstance(value, dict) else None
        return FailedUser(name if isinstance(name, str) else None, error.faults[0])


@pytest.mark.parametrize("body", [*USERS.values(), *BODIES.values()], ids=[*USERS, *BODIES])
def test_a_body_is_read_as_the_schema_reads_it(body: str) -> None:
    text = body.encode()
    assert outcome(READER.read_user, text) == outcome(lambda: READER.read(read_json(text)))


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
@pytest.mark.parametrize("separator", [",", ", ", " ,\n"], ids=["tight", "spaced", "wide"])
def test_an_array_is_read_as_its_members_are(user: str, separator: str) -> None:
    text = f"[{separator.join([GOOD, user, GOOD])}]"
    members = read_json(text.encode())
    expected = [comparable(slowly(member, i)) for i, member in enumerate(members)]
    assert outcome(READER.read_array, text.encode()) == expected


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_lines_are_read_as_their_values_are(user: str) -> None:
    lines = [GOOD, " ".join(user.split()), GOOD]
    expected = [comparable(slowly(read_json(line.encode()), i)) for i, line in enumerate(lines)]
    assert outcome(READER.read_lines, "\n".join(lines).encode()) == expected


@pytest.mark.parametrize(
    "name", ["plain", "spaced", "k", "exclude", "exclude nothing", "unknown fields", "braces in name", "base64"]
)
def test_what_well_behaved_clients_send_is_read_without_the_schema(name: str) -> None:
    reader = UserReader(3, LIMITS)
    reader.read = None  # type: ignore[assignment, method-assign]
    assert isinstance(reader.read_user(USERS[name].encode())[0], User)
    [block] = reader.read_lines(" ".join(USERS[name].split()).encode())
    assert [*map(type, block.items)] == [User]
    if name not in ("unknown fields", "braces in name"):
        [block] = reader.read_array(f"[{USERS[name].strip()},{GOOD}]".encode())
        assert [*map(type, block.items)] == [User, User]


@pytest.mark.parametrize("odd", ["nan", "braces in name", "bad vector", "not a user"])
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4], ids=str)
def test_an_odd_member_among_many_is_read_in_its_place(monkeypatch: pytest.MonkeyPatch, at: int, odd: str) -> None:
    monkeypatch.setattr(user_reader, "MAX_USERS_PER_SEARCH", 2)
    texts = {"nan": GOOD.replace("0.5", "NaN"), "bad vector": GOOD.replace("1,", ""), "not a user": "7"}
    members = [GOOD.replace("ann", f"u{i}") for i in range(5)]
    members[at] = texts.get(odd) or USERS[odd].strip()
    expected = [comparable(slowly(read_json(member.encode()), i)) for i, member in enumerate(members)]
    assert outcome(READER.read_array, f"[{','.join(members)}]".encode()) == expected


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
@pytest.mark.parametrize("wrap", [str, json.dumps], ids=["plain", "in a string"])
def test_an_array_that_is_too_large_to_be_parsed_whole_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch, user: str, wrap: Callable[[str], str]
) -> None:
    text = f"[{GOOD}, {user} ,{GOOD}]"
    expected = [comparable(slowly(member, i)) for i, member in enumerate(read_json(text.encode()))]
    monkeypatch.setattr(user_reader, "fits", lambda text: False)
    monkeypatch.setattr(user_reader, "MAX_USERS_PER_SEARCH", 2)
    assert outcome(READER.read_array, wrap(text).encode()) == expected
    monkeypatch.setattr(user_reader, "fits", lambda text: len(text) < 40)  # the members, perhaps, and not the array
    assert outcome(READER.read_array, wrap(text).encode()) == expected


@pytest.mark.parametrize("users", [7, 8, 20])
@pytest.mark.parametrize("member", [GOOD, "{}", "7", USERS["braces in name"]])
def test_too_many_users_are_refused_before_all_are_read(
    monkeypatch: pytest.MonkeyPatch, users: int, member: str
) -> None:
    body = f"[{','.join([member] * users)}]".encode()
    assert outcome(READER.read_array, body)[0] is TooLarge
    monkeypatch.setattr(user_reader, "fits", lambda text: False)
    assert outcome(READER.read_array, body)[0] is TooLarge


@pytest.mark.parametrize("end", ["]]", ",]", "", ",{}", ",{]", "x]"], ids=repr)
def test_a_batch_that_ends_in_no_json_is_refused_whole(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(user_reader, "MAX_USERS_PER_SEARCH", 2)
    body = f"[{','.join([GOOD] * 5)}{end}".encode()
    assert outcome(READER.read_array, body) == outcome(read_json, body)
    assert outcome(READER.read_array, body)[0] is BadBody


def test_a_batch_is_counted_by_its_users_not_by_what_looks_like_their_ends() -> None:
    tricky = b'{"name":"},","vector":[1,2,3]}'
    assert [len(block.items) for block in READER.read_array(b"[" + b",".join([tricky] * 6) + b"]")] == [6]
    with pytest.raises(TooLarge, match=r"^the batch has 7 users, 6 are allowed$"):
        [*READER.read_array(b"[" + b",".join([GOOD.encode()] * 7) + b"]")]


def test_the_vectors_numbers_are_those_of_the_text() -> None:
    draw = np.random.default_rng(0)
    reader = UserReader(300, LIMITS)
    for scale in (1e-150, 1e-5, 1, 1e5, 1e150):
        numbers = (draw.normal(size=300) * scale).tolist()
        _, vector = reader.read_user(json.dumps({"name": "ann", "vector": numbers}).encode())
        assert vector.tolist() == numbers


@pytest.mark.parametrize("field", user_schema(3, LIMITS).fields)
def test_the_fast_path_looks_at_every_field_of_the_schema(field: str) -> None:
    unusual = json.dumps({**json.loads(GOOD), field: {}}).encode()
    assert READER.parse_fast([GOOD.encode(), unusual])[0][1] is None


def test_columns_are_read_for_every_field_of_the_schema() -> None:
    assert USER_COLUMNS.keys() == user_schema(3, LIMITS).fields.keys()
