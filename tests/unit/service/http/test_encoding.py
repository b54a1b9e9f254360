"""Answers to bytes."""

import json
import tracemalloc

import numpy as np
import pytest

from service.errors import FailedUser, Fault
from service.http.encoding import write_answers, write_array, write_lines, write_points, write_products, write_similar
from service.recommender import Matches, Recommendation

NAMES = ["Éclair", '\\"score":0.5},', "\n, \u2028", "Tea"]


def prefixes(positions: np.ndarray) -> list[bytes]:
    return [
        json.dumps({"id": f"p{i}", "name": NAMES[i]}, ensure_ascii=False, separators=(",", ":"))[:-1].encode()
        for i in positions
    ]


def matches(**scores: float) -> Matches:
    """Matches of products `p0` to `p3`."""
    return Matches(np.array([int(name[1:]) for name in scores], np.int64), np.array([*scores.values()]))


NOBODY = matches()
ANN = Recommendation("ann", matches(p0=0.5), NOBODY)
ANN_BYTES = '{"name":"ann","best":[{"id":"p0","name":"Éclair","score":0.5}],"worst":[]}'.encode()


def test_an_answer_is_written_as_compact_utf8_in_the_order_of_its_fields() -> None:
    assert write_answers(prefixes, [ANN]) == [ANN_BYTES]


def test_every_match_keeps_its_own_score_whatever_its_name_holds() -> None:
    sides = [matches(p3=1.0, p1=0.25, p2=-0.000001), matches(p2=-1.0, p0=0.0)]
    [written] = write_answers(prefixes, [Recommendation("ann", *sides)])
    assert json.loads(written) == {
        "name": "ann",
        "best": [
            {"id": "p3", "name": NAMES[3], "score": 1.0},
            {"id": "p1", "name": NAMES[1], "score": 0.25},
            {"id": "p2", "name": NAMES[2], "score": -0.000001},
        ],
        "worst": [{"id": "p2", "name": NAMES[2], "score": -1.0}, {"id": "p0", "name": NAMES[0], "score": 0.0}],
    }


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_answer_has_the_same_bytes_alone_and_among_others(count: int) -> None:
    failed = FailedUser(None, Fault("missing", "vector is missing", "/1/vector"))
    bob = Recommendation("bob", NOBODY, matches(p3=-0.5, p1=0.125))
    answers: list[Recommendation | FailedUser] = [ANN, failed, bob, Recommendation("\udfff", NOBODY, NOBODY), ANN]
    answers = answers[:count]
    assert write_answers(prefixes, answers) == [write_answers(prefixes, [answer])[0] for answer in answers]
    assert write_answers(prefixes, [failed]) == [
        b'{"name":null,"error":{"code":"missing","detail":"vector is missing","pointer":"/1/vector"}}'
    ]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 5, 100])
def test_answers_have_the_same_bytes_however_many_matches_are_written_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    many = matches(p3=1.0, p1=0.25, p2=0.0, p0=-1.0)
    answers = [ANN, Recommendation("bob", many, NOBODY), ANN, Recommendation("", NOBODY, many), ANN]
    expected = [*write_answers(prefixes, answers)]
    most = 0

    def counted(positions: np.ndarray) -> list[bytes]:
        nonlocal most
        most = max(most, len(positions))
        return prefixes(positions)

    monkeypatch.setattr("service.http.encoding._MAX_MATCHES_AT_ONCE", at_once)
    assert write_answers(counted, answers) == expected
    assert most <= at_once


def test_a_large_answer_takes_little_memory_beside_its_own() -> None:
    draw = np.random.default_rng(0)
    sides = [Matches(draw.integers(0, 4, 1000), draw.uniform(-1, 1, 1000).round(6)) for _ in range(200)]
    answers = [Recommendation("ann", *pair) for pair in zip(sides[::2], sides[1::2], strict=True)]
    shared = prefixes(np.arange(4))
    tracemalloc.start()
    written = write_array(write_answers(lambda positions: [shared[i] for i in positions.tolist()], answers))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 2.5 * len(written)


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    [written] = write_answers(prefixes, [Recommendation("\ud800", matches(p3=0.5), NOBODY)])
    assert written == rb'{"name":"\ud800","best":[{"id":"p3","name":"Tea","score":0.5}],"worst":[]}'


def test_answers_are_joined_as_an_array_or_as_lines() -> None:
    assert write_array([ANN_BYTES, b"{}"]) == b"[" + ANN_BYTES + b",{}]"
    assert write_lines([ANN_BYTES, b"{}"]) == ANN_BYTES + b"\n{}\n"
    assert (write_answers(prefixes, []), write_array([]), write_lines([])) == ([], b"[]", b"")


def test_look_ups_are_written_with_what_was_asked() -> None:
    assert write_similar(prefixes, ["p0", "p1"], Recommendation("", NOBODY, matches(p3=0.5))) == (
        b'{"ids":["p0","p1"],"best":[],"worst":[{"id":"p3","name":"Tea","score":0.5}]}'
    )
    assert (
        write_products(prefixes, np.array([3, 0]))
        == '{"products":[{"id":"p3","name":"Tea"},{"id":"p0","name":"Éclair"}]}'.encode()
    )
    points = np.array([[0.25, -1.0]], np.float32)
    assert (
        write_points(prefixes, np.array([3]), points)
        == b'{"products":[{"id":"p3","name":"Tea","x":0.2500,"y":-1.0000}]}'
    )
