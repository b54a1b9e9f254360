"""The use case, over a fake engine."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retrieval.search.ranking import Neighbours
from service.engines.base import IndexInfo
from service.errors import FailedUser, Fault
from service.http.encoding import write_answers
from service.http.user_reader import UserRow, collect_block
from service.recommender import Answer, Recommender, UserBlock
from tests.support.fake_engine import EAST, NORTH, WEST, BrokenEngine, FakeEngine, compass
from tests.support.matches import answers_to, user_row

SECONDS = 30  # after which something is taken to hang


def user(name: str, vector: list[float], k: int = 2, *exclude: str) -> UserRow:
    return user_row(name, vector, k, exclude)


def block(*rows: UserRow | FailedUser) -> UserBlock:
    return collect_block(rows, 2)


def sides(recommender: Recommender, *rows: UserRow) -> list[tuple[str, list[str], list[str]]]:
    """Each user's name, and the ids of both sides."""
    answers = map(json.loads, answers_to(recommender, list(rows)))
    return [(a["name"], *([m["id"] for m in a[side]] for side in ("best", "worst"))) for a in answers]


def written(recommender: Recommender, answers: Sequence[Answer]) -> list[bytes]:
    return write_answers(recommender.prefixes, answers)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def search_sizes(engine: FakeEngine) -> list[tuple[int, int]]:
    """How many users each search had, and its depth."""
    return [(len(vectors), k) for vectors, k in engine.searches]


def test_a_user_gets_both_sides_with_names_and_scores() -> None:
    assert answers_to(Recommender(compass()), [user("ann", [3.0, 0.0])]) == [
        b'{"name":"ann","best":[{"id":"east","name":"the east","score":1.0},'
        b'{"id":"north_east","name":"the north_east","score":0.6}],'
        b'"worst":[{"id":"west","name":"the west","score":-1.0},{"id":"north","name":"the north","score":0.0}]}'
    ]


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 5e307], ids=str)
def test_the_engine_gets_float32_vectors_of_length_one(scale: float) -> None:
    engine = compass()
    Recommender(engine).recommend([block(user("ann", [3 * scale, -0.0]))])
    [(vectors, k)] = engine.searches
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1.0, 0.0]]
    assert k == 2


def test_the_users_vectors_stay_as_they_were() -> None:
    users = block(user("ann", [3.0, 4.0]))
    Recommender(compass()).recommend([users])
    assert users.vectors.tolist() == [[3.0, 4.0]]


def test_answers_stand_in_the_order_of_users_whatever_their_k() -> None:
    users = [user("a", EAST, 1), user("b", NORTH, 3), user("c", WEST, 1), user("d", EAST, 3)]
    assert sides(Recommender(compass()), *users) == [
        ("a", ["east"], ["west"]),
        ("b", ["north", "north_east", "east"], ["east", "west", "north_east"]),
        ("c", ["west"], ["east"]),
        ("d", ["east", "north_east", "north"], ["west", "north", "north_east"]),
    ]


@pytest.mark.parametrize("of_one_block", [True, False])
def test_users_of_one_depth_share_a_search(of_one_block: bool) -> None:
    engine = compass()
    users = [user("a", EAST, 1), user("b", NORTH, 2), user("c", WEST, 1), user("d", EAST, 1, "x")]
    Recommender(engine).recommend([block(*users)] if of_one_block else map(block, users))
    assert sorted(search_sizes(engine)) == [(2, 1), (2, 2)]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_an_answer_is_the_same_alone_inline_and_in_blocks_of_any_size(size: int) -> None:
    users = [user(f"u{i}", [np.cos(i), np.sin(i)], 1 + i % 4, *(["east"] if i % 3 else [])) for i in range(50)]
    recommender = Recommender(compass())
    alone = [recommender.recommend_one(*each) for each in users]
    blocks = [block(*users[start : start + size]) for start in range(0, 50, size)]
    assert written(recommender, recommender.recommend(blocks)) == written(recommender, alone)
    inline = [answer for each in blocks for answer in recommender.recommend_inline(each)]
    assert written(recommender, inline) == written(recommender, alone)


def test_who_could_not_be_read_stays_in_place() -> None:
    failed = FailedUser("bob", Fault("missing", "vector is missing", "/1/vector"))
    ann, cid = user("ann", EAST), user("cid", WEST, 1)
    recommender = Recommender(compass())
    expected = written(recommender, [failed, recommender.recommend_one(*ann), failed, recommender.recommend_one(*cid)])
    users = block(failed, ann, failed, cid)
    assert written(recommender, recommender.recommend([users])) == expected
    assert written(recommender, recommender.recommend_inline(users)) == expected


def test_searches_begin_while_users_still_come() -> None:
    engine = compass()

    def users() -> Iterator[UserBlock]:
        for i in range(300):
            if i == 299:
                wait_for(lambda: len(engine.searches) == 2)
            yield block(user(f"u{i}", [np.cos(i), np.sin(i)]))

    recommender = Recommender(engine)
    answers = recommender.recommend(users())
    assert written(recommender, answers) == written(
        recommender, [recommender.recommend_one(*user(f"u{i}", [np.cos(i), np.sin(i)])) for i in range(300)]
    )


def test_what_reading_raises_is_raised_and_ends_the_searching() -> None:
    engine = compass()

    def users() -> Iterator[UserBlock]:
        yield from (block(*[user(f"u{i}", EAST)] * 100) for i in range(100))
        raise ValueError("line 10,001")

    with engine.paused(), pytest.raises(ValueError, match=r"^line 10,001$"):
        Recommender(engine).recommend(users())
    time.sleep(0.05)
    assert len(engine.searches) <= engine.concurrency


def test_a_batch_behind_a_larger_one_is_answered_by_its_own_thread() -> None:
    engine = compass()
    recommender = Recommender(engine)
    large, small = [block(*[user("u", EAST)] * 100)] * 100, [block(*[user("ann", WEST, 1)] * 40)]
    with ThreadPoolExecutor(1) as larger, ThreadPoolExecutor(1, initializer=engine.release_this_thread) as smaller:
        with engine.paused():
            answers_to_all = larger.submit(recommender.recommend, large)
            wait_for(lambda: len(engine.searches) == engine.concurrency)
            answers = smaller.submit(recommender.recommend, small).result(SECONDS)
        assert len(answers_to_all.result(SECONDS)) == 10_000
    assert written(recommender, answers) == written(
        recommender, [recommender.recommend_one(*user("ann", WEST, 1))] * 40
    )


def test_users_of_one_name_keep_their_own_answers() -> None:
    found = sides(Recommender(compass()), user("ann", EAST, 1), user("ann", WEST, 1))
    assert found == [("ann", ["east"], ["west"]), ("ann", ["west"], ["east"])]


def test_excluded_products_are_replaced_from_further_down_on_both_sides() -> None:
    found = sides(Recommender(compass()), user("ann", EAST, 2, "east", "west"))
    assert found == [("ann", ["north_east", "north"], ["north", "north_east"])]


def test_unknown_excluded_ids_change_nothing() -> None:
    recommender = Recommender(compass())
    assert answers_to(recommender, [user("ann", EAST, 2, "x", "y")]) == answers_to(recommender, [user("ann", EAST, 2)])


def test_excluding_every_product_leaves_empty_sides() -> None:
    everything = ["east", "north_east", "north", "west"]
    assert answers_to(Recommender(compass()), [user("ann", EAST, 2, *everything)]) == [
        b'{"name":"ann","best":[],"worst":[]}'
    ]


def test_a_k_beyond_the_catalogue_gives_the_whole_catalogue() -> None:
    assert sides(Recommender(compass()), user("ann", EAST, 100)) == [
        ("ann", ["east", "north_east", "north", "west"], ["west", "north", "north_east", "east"])
    ]


def test_users_with_long_exclude_lists_are_searched_a_few_at_a_time() -> None:
    engine, long = compass(), [f"x{i}" for i in range(400_000)]
    found = sides(Recommender(engine), *(user(f"u{i}", EAST, 2, *long) for i in range(5)))
    assert sorted(search_sizes(engine)) == [(1, 400_002), (2, 400_002), (2, 400_002)]
    assert found == [(f"u{i}", ["east", "north_east"], ["west", "north"]) for i in range(5)]


def test_padding_is_no_match() -> None:
    engine = compass()
    search = engine.search

    def search_with_padding(unit_vectors: np.ndarray, k: int) -> tuple[Neighbours, Neighbours]:
        best, worst = search(unit_vectors, k)
        best.positions[:, 1:] = worst.positions[:, :] = -1
        return best, worst

    engine.search = search_with_padding  # type: ignore[method-assign]
    assert sides(Recommender(engine), user("ann", EAST, 3), user("bob", EAST, 2, "east")) == [
        ("ann", ["east"], []),
        ("bob", [], []),
    ]


def test_no_users_get_no_answers_and_cause_no_search() -> None:
    engine = compass()
    assert Recommender(engine).recommend([]) == []
    assert Recommender(engine).recommend_inline(block()) == []
    assert engine.searches == []


def test_an_engines_failure_is_not_hidden() -> None:
    for recommend in (Recommender.recommend, lambda recommender, blocks: recommender.recommend_inline(blocks[0])):
        with pytest.raises(RuntimeError, match="index page 4711 is gone"):
            recommend(Recommender(BrokenEngine(east=EAST)), [block(user("ann", EAST))])


def test_the_info_is_the_engines() -> None:
    assert Recommender(compass()).info == IndexInfo("fake-build", 4, 2, "fake", {"best": 1.0, "worst": 1.0})
