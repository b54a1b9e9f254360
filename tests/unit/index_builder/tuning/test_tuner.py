"""An index is chosen by what its users need, and confirmed with others."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index_builder.kinds.tiers import Tier, TieredKind
from index_builder.kinds.training import store_vectors
from index_builder.tuning import clock, tuner
from index_builder.tuning.clock import TimedSearch
from index_builder.tuning.filtered import FilterGrid
from index_builder.tuning.plan import Screening
from index_builder.tuning.recall import Panel, measure
from index_builder.tuning.trials import TunedIndex
from index_builder.tuning.tuner import Tuner
from index_builder.tuning.users import UserPool
from retrieval.artifact.manifest import IndexFacts
from retrieval.records.vector_file import VectorFile
from retrieval.search.index import ProductIndex
from retrieval.vectors import unit_vectors
from tests.support.indexes import group_identical, vector_file

DRAW = np.random.default_rng(0)
UNITS = unit_vectors(DRAW.normal(size=(6000, 24)) * np.linspace(1, 0.2, 24))
USERS = unit_vectors(UNITS[DRAW.integers(0, 6000, (4000, 3))].mean(axis=1))
GROUPS = group_identical(UNITS)[1]
KIND = "Tiers24x4"

Draw = Callable[[int, int], np.ndarray]


TIMED = clock.median_seconds


@pytest.fixture(autouse=True)
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(searches: Sequence[TimedSearch], *_: object) -> list[float]:
        return [1.0 if search.factory == "Flat" else 1e-5 * search.settings.best.candidates for search in searches]

    monkeypatch.setattr(clock, "median_seconds", seconds)


@pytest.fixture(scope="module")
def vectors() -> Iterator[VectorFile]:
    with vector_file(UNITS) as vectors:
        yield vectors


def tuner_with(vectors: VectorFile, scratch: Path, draw: Draw, size: int) -> Tuner:
    pool = UserPool("a test", size, draw)
    return Tuner(vectors, store_vectors(vectors, "fp32"), GROUPS, pool, 0.99, scratch / "scratch")


def choose(vectors: VectorFile, scratch: Path, draw: Draw, size: int, index: str = "auto") -> TunedIndex:
    return tuner_with(vectors, scratch, draw, size).choose(index)


def after_tuning(tuning: np.ndarray) -> Draw:
    """Users that are all the same to tune with, and then others."""
    return lambda start, count: np.repeat(tuning[None], count, axis=0) if start == 0 else USERS[start : start + count]


def test_an_unlucky_start_does_not_lose_a_good_index(vectors: VectorFile, tmp_path: Path) -> None:
    easy = choose(vectors, tmp_path, after_tuning(UNITS[0]), 4 * 75, KIND)
    assert easy.trials[0].best.settings.candidates < easy.settings.best.candidates
    assert easy.meets_target
    assert min(each.lower_bound for side in easy.recall.values() for each in side) >= 0.99


def test_no_user_is_used_twice(vectors: VectorFile, tmp_path: Path) -> None:
    drawn: list[range] = []

    def draw(start: int, count: int) -> np.ndarray:
        drawn.append(range(start, start + count))
        return after_tuning(UNITS[0])(start, count)

    tuned = choose(vectors, tmp_path, draw, 4 * 75, KIND)
    assert len(drawn) > 2
    assert [user for users in drawn for user in users] == list(range(75 * len(drawn)))
    assert {each.users for side in tuned.recall.values() for each in side} == {75}


def test_a_kind_that_never_meets_the_target_ends_at_the_exact_scan(
    vectors: VectorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "raised_effort", lambda _index, _panel, _side, settings, *_: settings)
    tuned = choose(vectors, tmp_path, after_tuning(UNITS[0]), 4 * 75)
    assert (tuned.factory, tuned.meets_target) == ("Flat", True)
    assert {trial.factory for trial in tuned.trials} > {"Flat"}


def test_a_kind_after_one_that_used_up_the_file_is_confirmed_with_other_users(
    vectors: VectorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = ["Tiers24x2", "Tiers24x1"]
    kinds = [TieredKind((Tier(24, per_code),)) for per_code in (2, 1)]
    monkeypatch.setattr(Screening, "contenders", lambda *_: kinds)
    monkeypatch.setattr(tuner, "raised_effort", lambda _index, _panel, _side, settings, *_: settings)

    def seconds(searches: Sequence[TimedSearch], *_: object) -> list[float]:
        return [1.0 if search.factory == "Flat" else 0.1 * (2 - (search.factory == tiers[0])) for search in searches]

    monkeypatch.setattr(clock, "median_seconds", seconds)
    others = UserPool("others", 3000, lambda start, count: USERS[start + 1000 : start + count + 1000])
    pool = UserPool("u", 300, after_tuning(UNITS[0]), others)
    exact = store_vectors(vectors, "fp32")
    tuned = Tuner(vectors, exact, GROUPS, pool, 0.99, tmp_path / "scratch").choose("auto")
    assert (tuned.factory, tuned.meets_target) == (tiers[1], True)
    assert tuned.users_from == "others, as earlier choices used up u"
    assert tuned.recall["best"][0].users == 750


def test_users_too_few_to_show_the_target_are_named(vectors: VectorFile, tmp_path: Path) -> None:
    pool = UserPool("u", 300, lambda start, count: USERS[start : start + count])
    tuned = Tuner(vectors, store_vectors(vectors, "fp32"), GROUPS, pool, 0.999, tmp_path / "scratch").choose("Flat")
    assert tuned.users_from == "u, of which 75 users cannot show more than 0.9965"


def test_what_is_timed_is_opened_from_its_file(
    vectors: VectorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[faiss.Index] = []

    def open_index(path: Path) -> faiss.Index:
        opened.append(faiss.read_index(str(path)))
        return opened[-1]

    monkeypatch.setattr(tuner, "open_index", open_index)
    tuned = choose(vectors, tmp_path, lambda start, count: USERS[start : start + count], 1200, KIND)
    assert [each.this for each in opened] == [faiss.downcast_index(tuned.index).base_index.this]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("alone", "in_batch", "is_chosen", "why_not"),
    [
        (0.8, 0.9, True, ""),
        (0.8, 2.4, False, "takes 2.40 of an exact scan's time for 64 users at once"),
        (0.6, 2.4, True, ""),
        (0.96, 0.5, False, "takes 0.96 of an exact scan's time for one user"),
    ],
)
def test_an_index_answers_batches_sooner_too_or_one_user_by_far(
    vectors: VectorFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: float,
    in_batch: float,
    is_chosen: bool,
    why_not: str,
) -> None:
    def seconds(searches: Sequence[TimedSearch], _users: np.ndarray, at_once: int = 1) -> list[float]:
        share = alone if at_once == 1 else in_batch
        return [at_once * (1.0 if search.factory == "Flat" else share) for search in searches]

    monkeypatch.setattr(clock, "median_seconds", seconds)
    tuner = tuner_with(vectors, tmp_path, lambda start, count: USERS[start : start + count], 4000)
    tuned = tuner.choose("auto")
    assert (tuned.factory != "Flat") is is_chosen
    tried = {trial.factory for trial in tuned.trials} - {"Flat"}
    assert {tuner.dropped.get(kind, "") for kind in tried} == {why_not}


@pytest.mark.parametrize("at_once", [1, 64])
def test_calls_are_timed_in_turns_of_any_order_with_users_of_their_own(at_once: int) -> None:
    calls: list[tuple[str, np.ndarray]] = []

    def search(name: str) -> Any:
        return lambda users: calls.append((name, users))

    seconds = TIMED([search("a"), search("b")], USERS[:100], at_once)
    assert len(seconds) == 2
    names = "".join(name for name, _ in calls)
    assert {names[i : i + 2] for i in range(0, len(names), 2)} == {"ab", "ba"}
    users = np.resize(USERS[:100], (len(calls) // 2 * at_once, USERS.shape[1]))
    for name in "ab":
        assert np.array_equal(np.concatenate([given for of, given in calls if of == name]), users)


def test_an_index_with_settings_of_before_is_measured_with_more_users_where_few_do_not_do(
    vectors: VectorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose(vectors, tmp_path, lambda start, count: USERS[start : start + count], 4000, KIND)
    facts = IndexFacts(KIND, "fp32", "negated", chosen.settings)
    few = measure(ProductIndex(chosen.index, GROUPS, chosen.settings), GROUPS, Panel.of(vectors, USERS[:300]))
    shown = min(each.lower_bound for side in few.values() for each in side)
    for target, most, users in ((shown, 1200, 300), (1.0, 600, 600), (1.0, 1200, 1200)):
        monkeypatch.setattr(tuner, "_MAX_USERS_OF_KNOWN_INDEX", most)
        pool = UserPool("a test", len(USERS), lambda start, count: USERS[start : start + count])
        store = store_vectors(vectors, "fp32")
        measured = Tuner(vectors, store, GROUPS, pool, target, tmp_path / "scratch").measured(chosen.index, facts)
        panel = Panel.of(vectors, USERS[:users])
        assert measured.recall == measure(ProductIndex(chosen.index, GROUPS, chosen.settings), GROUPS, panel)
        assert (measured.factory, measured.settings) == (KIND, chosen.settings)
        assert measured.meets_target == all(
            each.lower_bound >= target for side in measured.recall.values() for each in side
        )


def test_an_exact_scan_needs_no_measurement_under_filters(
    vectors: VectorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_tuner = tuner_with(vectors, tmp_path, lambda start, count: USERS[start : start + count], 1000)
    exact = a_tuner.choose("Flat")
    grid = FilterGrid(ProductIndex(a_tuner.store, GROUPS, exact.settings), USERS[:200], 0.99)
    filtered, uneven, measured = grid.settle(lambda *_: a_tuner.product_index(exact), exact.settings)
    monkeypatch.setattr(tuner, "FilterGrid", None)
    assert a_tuner.under_filters(exact) == (exact, measured)
    assert (filtered, uneven) == (exact.filtered, exact.uneven)
