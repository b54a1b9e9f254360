"""A user's name comes back as it was sent."""

import json

import pytest

from tests.support.api import Api, array, user_json, user_text


@pytest.mark.parametrize(
    "name",
    ["", " ", "a\x00b", "\x1f\x7f", "😀 Zoë", "\u2028", 'quo"te\\', "\ufeff", "مرحبا", "a\nb", "x" * 2**20],
    ids=lambda name: ascii(name)[:16],
)
def test_a_name_is_echoed(api: Api, name: str) -> None:
    answer = api.infer(user_json(name=name)).json
    assert answer["name"] == name
    assert {**answer, "name": "ann"} == api.infer(user_json()).json


def test_an_unescaped_name_is_echoed_as_utf8(api: Api) -> None:
    assert api.infer(user_text(name='"😀"')).body.startswith('{"name":"😀","best":['.encode())


@pytest.mark.parametrize("escape", [rb"\ud800", rb"a\udfffb", rb"\udc00\ud800"])
def test_a_lone_surrogate_is_echoed_as_its_escape(api: Api, escape: bytes) -> None:
    body = api.infer(user_text(name=f'"{escape.decode()}"')).body
    expected = api.infer(user_json()).body
    assert body == expected.replace(b'"ann"', b'"' + escape + b'"')


def test_a_lone_surrogate_costs_nobody_else_in_the_batch_a_byte(api: Api) -> None:
    odd, failing = user_text(name=r'"\ud800"'), user_text(name=r'"\ud801"', k="0")
    batch = api.batch(array([user_json(name="é"), odd, failing]), errors=1)
    assert batch.body.startswith(b"[" + api.infer(user_json(name="é")).body + b"," + api.infer(odd).body + b",")
    assert json.loads(batch.body)[2] == {
        "name": "\ud801",
        "error": {"code": "range", "detail": "k must be from 1 to 1000, not 0", "pointer": "/2/k"},
    }
