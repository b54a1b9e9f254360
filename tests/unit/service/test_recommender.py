"""The use case, over a fake engine."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.engines.base import IndexInfo
from service.errors import FailedUser, Fault
from service.recommender import Recommendation, Recommender, User
from tests.support.fake_engine import EAST, NORTH, WEST, BrokenEngine, FakeEngine, compass
from tests.support.matches import matches_in

SECONDS = 30  # after which something is taken to hang


def user(name: str, vector: list[float], k: int = 2, *exclude: str) -> User:
    return User(name, np.array(vector), k, frozenset(exclude))


def ids(matches: bytes) -> list[str]:
    return [match.id for match in matches_in(matches)]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def asked(engine: FakeEngine) -> list[tuple[int, int]]:
    """How many users each search had, and its depth."""
    return [(len(vectors), k) for vectors, k in engine.searches]


def test_a_user_gets_both_sides_with_names_and_scores() -> None:
    answer = Recommender(compass()).recommend([user("ann", [3.0, 0.0])])
    assert answer == [
        Recommendation(
            "ann",
            b'[{"id":"east","name":"the east","score":1.0},{"id":"north_east","name":"the north_east","score":0.6}]',
            b'[{"id":"west","name":"the west","score":-1.0},{"id":"north","name":"the north","score":0.0}]',
        )
    ]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 5e307], ids=str)
def test_the_engine_gets_float32_vectors_of_length_one(scale: float) -> None:
    engine = compass()
    Recommender(engine).recommend([user("ann", [3 * scale, -0.0])])
    [(vectors, k)] = engine.searches
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1.0, 0.0]]
    assert k == 2


def test_the_users_vector_stays_as_it_was() -> None:
    ann = user("ann", [3.0, 4.0])
    Recommender(compass()).recommend([ann])
    assert ann.vector.tolist() == [3.0, 4.0]


def test_answers_stand_in_the_order_of_users_whatever_their_k() -> None:
    users = [user("a", EAST, 1), user("b", NORTH, 3), user("c", WEST, 1), user("d", EAST, 3)]
    answers = Recommender(compass()).recommend(users)
    assert [answer.name for answer in answers] == ["a", "b", "c", "d"]
    assert [ids(answer.best) for answer in answers] == [
        ["east"],
        ["north", "north_east", "east"],
        ["west"],
        ["east", "north_east", "north"],
    ]


def test_users_of_one_depth_share_a_search() -> None:
    engine = compass()
    Recommender(engine).recommend(
        [user("a", EAST, 1), user("b", NORTH, 2), user("c", WEST, 1), user("d", EAST, 1, "x")]
    )
    assert sorted(asked(engine)) == [(2, 1), (2, 2)]


def test_an_answer_is_the_same_alone_and_in_company() -> None:
    users = [user(f"u{i}", [np.cos(i), np.sin(i)], 1 + i % 4, *(["east"] if i % 3 else [])) for i in range(50)]
    recommender = Recommender(compass())
    assert recommender.recommend(users) == [recommender.recommend([alone])[0] for alone in users]
    assert recommender.recommend(users, here=True) == recommender.recommend(users)


def test_who_could_not_be_read_stays_in_place() -> None:
    failed = FailedUser("bob", Fault("missing", "vector is missing", "/1/vector"))
    ann, cid = user("ann", EAST), user("cid", WEST, 1)
    recommender = Recommender(compass())
    answers = recommender.recommend([failed, ann, failed, cid])
    assert answers == [failed, *recommender.recommend([ann]), failed, *recommender.recommend([cid])]


def test_searches_begin_while_users_still_come() -> None:
    engine = compass()

    def users() -> Iterator[User]:
        for i in range(300):
            if i == 299:
                wait_for(lambda: len(engine.searches) == 2)
            yield user(f"u{i}", [np.cos(i), np.sin(i)])

    recommender = Recommender(engine)
    answers = recommender.recommend(users())
    assert [answer.name for answer in answers] == [f"u{i}" for i in range(300)]
    assert [answer.best for answer in answers] == [
        recommender.recommend([user("", [np.cos(i), np.sin(i)])], here=True)[0].best for i in range(300)
    ]


def test_what_reading_raises_is_raised_and_ends_the_searching() -> None:
    engine = compass()

    def users() -> Iterator[User]:
        yield from (user(f"u{i}", EAST) for i in range(10_000))
        raise ValueError("line 10,001")

    with engine.held(), pytest.raises(ValueError, match=r"^line 10,001$"):
        Recommender(engine).recommend(users())
    time.sleep(0.05)
    assert len(engine.searches) <= engine.concurrency


def test_a_batch_behind_a_larger_one_is_answered_by_its_own_thread() -> None:
    engine = compass()
    recommender = Recommender(engine)
    with ThreadPoolExecutor(1) as larger, ThreadPoolExecutor(1, initializer=engine.release_this_thread) as smaller:
        with engine.held():
            answers_to_all = larger.submit(recommender.recommend, [user("u", EAST)] * 10_000)
            wait_for(lambda: len(engine.searches) == engine.concurrency)
            answers = smaller.submit(recommender.recommend, [user("ann", WEST, 1)] * 40).result(SECONDS)
        assert len(answers_to_all.result(SECONDS)) == 10_000
    assert [ids(answer.best) for answer in answers] == [["west"]] * 40


def test_users_of_one_name_keep_their_own_answers() -> None:
    answers = Recommender(compass()).recommend([user("ann", EAST, 1), user("ann", WEST, 1)])
    assert [ids(answer.best) for answer in answers] == [["east"], ["west"]]


def test_excluded_products_are_replaced_from_further_down_on_both_sides() -> None:
    [answer] = Recommender(compass()).recommend([user("ann", EAST, 2, "east", "west")])
    assert ids(answer.best) == ["north_east", "north"]
    assert ids(answer.worst) == ["north", "north_east"]


def test_unknown_excluded_ids_change_nothing() -> None:
    recommender = Recommender(compass())
    assert recommender.recommend([user("ann", EAST, 2, "x", "y")]) == recommender.recommend([user("ann", EAST, 2)])


def test_excluding_every_product_leaves_empty_sides() -> None:
    [answer] = Recommender(compass()).recommend([user("ann", EAST, 2, "east", "north_east", "north", "west")])
    assert answer == Recommendation("ann", b"[]", b"[]")


def test_a_k_beyond_the_catalogue_gives_the_whole_catalogue() -> None:
    [answer] = Recommender(compass()).recommend([user("ann", EAST, 100)])
    assert ids(answer.best) == ["east", "north_east", "north", "west"]
    assert ids(answer.worst) == ["west", "north", "north_east", "east"]


def test_users_with_long_exclude_lists_are_searched_a_few_at_a_time() -> None:
    engine, long = compass(), [f"x{i}" for i in range(400_000)]
    answers = Recommender(engine).recommend([user(f"u{i}", EAST, 2, *long) for i in range(5)])
    assert sorted(asked(engine)) == [(1, 400_002), (2, 400_002), (2, 400_002)]
    assert [(answer.name, ids(answer.best)) for answer in answers] == [
        (f"u{i}", ["east", "north_east"]) for i in range(5)
    ]


def test_no_users_get_no_answers_and_cause_no_search() -> None:
    engine = compass()
    assert Recommender(engine).recommend([]) == []
    assert engine.searches == []


def test_an_engines_failure_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="index page 4711 is gone"):
        Recommender(BrokenEngine(east=EAST)).recommend([user("ann", EAST)])


def test_the_info_is_the_engines() -> None:
    assert Recommender(compass()).info == IndexInfo("fake-build", 4, 2, "fake", {"best": 1.0, "worst": 1.0})
