"""Answers found before the app is asked for them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from service.http.dynamic_batching import TAKES_LONG, BatchedAnswer, DynamicBatcher
from service.recommender import Recommender, Serving
from service.settings import Limits
from tests.support.fake_engine import EAST, NORTH, WEST, BrokenEngine, FakeEngine, compass

LIMITS = Limits(default_k=2)


def body(name: str, vector: list[float], **fields: object) -> bytes:
    return json.dumps({"name": name, "vector": vector, **fields}).encode()


def answers(engine: FakeEngine, *bodies: bytes) -> list[bytes | None]:
    serving = Serving(Recommender(engine))
    answered = DynamicBatcher(serving, LIMITS).run_batch(bodies)
    found = [each if isinstance(each, BatchedAnswer) else None for each in answered]
    assert {each.info.build_id for each in found if each} <= {engine.info.build_id}
    return [each.json if each else None for each in found]


def alone(request: bytes) -> bytes:
    [answer] = answers(compass(), request)
    assert answer
    return answer


def test_users_who_wait_together_get_the_answers_that_they_get_alone() -> None:
    requests = [
        body("ann", EAST),
        body("bob", NORTH, k=1),
        body("cid", WEST, exclude=["west"]),
        body("dot", NORTH, k=3),
        body("eve", WEST),
    ]
    assert answers(compass(), *requests) == [alone(request) for request in requests]
    assert b'"name":"bob","best":[{"id":"north","name":"the north","score":1.0}]' in alone(requests[1])


def test_users_of_one_depth_share_one_search() -> None:
    engine = compass()
    answers(engine, body("ann", EAST), body("bob", NORTH), body("cid", WEST))
    assert [(len(vectors), k) for vectors, k in engine.searches] == [(3, 2)]


def test_what_is_amiss_is_left_for_the_app_and_harms_nobody() -> None:
    ann, bob = body("ann", EAST), body("bob", NORTH)
    odd = [b"", b"{", b"[]", body("cid", [1.0]), body("cid", EAST, k=0), body("cid", [0, 0]), body("cid", [True, 0])]
    assert answers(compass(), ann, *odd, bob) == [alone(ann), *[None] * len(odd), alone(bob)]


def test_a_search_that_fails_is_left_for_the_app() -> None:
    engine = BrokenEngine(east=EAST, west=WEST)
    assert answers(engine, body("ann", EAST), body("bob", WEST)) == [None, None]


def test_after_a_search_that_took_far_longer_than_estimated_users_are_left_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, computed, engine = [100.0], iter([0.0, 0.03, 1.0, 1.001]), compass()
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.thread_time", lambda: next(computed))
    batcher, ann = DynamicBatcher(Serving(Recommender(engine)), LIMITS), body("ann", EAST)
    [slow] = batcher.run_batch([ann], max_seconds=0.003)
    clock[0] += 0.9
    assert slow
    assert batcher.run_batch([ann], max_seconds=0.003) == [TAKES_LONG]
    clock[0] += 0.2
    assert batcher.run_batch([ann], max_seconds=0.003) == [slow]


def test_a_new_build_answers_who_comes_after_it() -> None:
    older, newer = compass(), FakeEngine(up=[1.0, 0.0, 0.0], down=[-1.0, 0.0, 0.0])
    older.info = replace(older.info, build_id="older")
    serving = Serving(Recommender(older))
    batcher = DynamicBatcher(serving, LIMITS)
    [before] = batcher.run_batch([body("ann", EAST)])
    serving.recommender = Recommender(newer)
    old, new = batcher.run_batch([body("ann", EAST), body("bob", [1.0, 2.0, 3.0])])
    assert before == BatchedAnswer(older.info, alone(body("ann", EAST)))
    assert old is None
    assert isinstance(new, BatchedAnswer)
    assert new.info == newer.info


@pytest.mark.parametrize(
    "option",
    [{"filter": {}}, {"min_score": 0.0}, {"max_score": 0}, {"fields": ["*"]}, {"explain": False}, {"exlude": []}],
    ids=str,
)
def test_users_with_further_options_are_left_for_a_thread_of_the_app(option: dict[str, Any]) -> None:
    engine = compass()
    assert answers(engine, body("ann", EAST, **option)) == [None]
    assert engine.searches == []


def test_only_users_whose_embedding_model_is_that_of_the_build_are_answered_together() -> None:
    engine = compass()
    engine.info = replace(engine.info, embedding_model="m-1")
    bodies, models = [body(name, EAST) for name in ("ann", "bob", "cid")], ["m-1", "m-2", None]

    def answered(requires_model: bool) -> list[bool]:
        batcher = DynamicBatcher(Serving(Recommender(engine)), LIMITS, requires_model)
        return [each is not None for each in batcher.run_batch(bodies, models=models)]

    assert answered(requires_model=False) == [True, False, True]
    assert answered(requires_model=True) == [True, False, False]
