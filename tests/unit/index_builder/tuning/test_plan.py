"""Which kinds are compared for a catalogue, and which of them a sample rules out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from index_builder.kinds.tiers import Tier, TieredKind
from index_builder.kinds.training import Trainer, store_vectors
from index_builder.tuning import plan
from index_builder.tuning.effort import CANDIDATES
from index_builder.tuning.plan import Screening, plausible_kinds
from index_builder.tuning.recall import Panel
from retrieval.search.candidates import CodeScan
from retrieval.search.kinds import steps_of_lists
from retrieval.search.settings import SearchSettings
from retrieval.vectors import unit_vectors
from tests.support.indexes import vector_file

FULL, HALF = TieredKind((Tier(32, 1),)), TieredKind((Tier(32, 2),))


@pytest.mark.parametrize(
    ("rows", "dimension", "kinds"),
    [
        (4_999, 300, []),
        (5_000, 2, ["Tiers2x2", "Tiers2x1"]),
        (5_000, 25, ["Tiers25x2", "Tiers25x1"]),
        (10**6, 64, ["Tiers64x2", "Tiers32x1+32x2", "Tiers48x1+16x2", "Tiers64x1"]),
        (
            20_000,
            300,
            ["Tiers32x1+64x2+128x4", "Tiers48x1+160x2", "Tiers64x1+128x2", "Tiers300x2", "Tiers300x1"],
        ),
        (
            20_000,
            500,
            [
                *("Tiers32x1+64x2+128x4", "Tiers48x1+160x2", "Tiers64x1+128x2", "Tiers64x1+128x2+256x4"),
                *("Tiers500x2", "Tiers128x1+256x2", "Tiers96x1+320x2", "Tiers500x1"),
            ],
        ),
    ],
    ids=str,
)
def test_kinds_follow_from_rows_and_dimension_alone(rows: int, dimension: int, kinds: list[str]) -> None:
    assert [str(kind) for kind in plausible_kinds(rows, dimension)] == kinds


def test_no_kind_takes_more_directions_than_there_are() -> None:
    for dimension in (2, 3, 8, 31, 33, 97, 223, 225, 300, 449, 1536):
        assert max(kind.directions for kind in plausible_kinds(10_000, dimension)) == dimension


@contextmanager
def screening(units: np.ndarray, users: np.ndarray, target: float = 0.99) -> Iterator[Screening]:
    with vector_file(units) as vectors:
        trainer = Trainer(vectors, store_vectors(vectors, "fp32"))
        yield Screening(vectors, trainer, Panel.of(vectors, users), target)


def needed_by_numpy(units: np.ndarray, users: np.ndarray, kind: TieredKind, visits: Sequence[int] = (1, 1)) -> int:
    """The candidates of both sides that hold 99 % of the exact ten, by the codes of an index of all rows."""
    with vector_file(units) as vectors:
        trainer = Trainer(vectors, store_vectors(vectors, "fp32"))
        index = trainer.build(str(kind))
        total = 0
        for sign, nprobe in zip((1, -1), visits, strict=True):
            queries = np.float32(sign) * users
            scan = CodeScan(index)
            order = scan.find(scan.transformed(queries), len(units), SearchSettings(nprobe=nprobe), len(units))
            top = np.argsort(-(queries @ units.T), axis=1)[:, :10]
            ranks = [np.flatnonzero(np.isin(found, ten)) for found, ten in zip(order, top, strict=True)]
            total += next(n for n in CANDIDATES if np.sum(np.concatenate(ranks) < n) >= 0.99 * top.size)
    return total


def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    spectrum = np.linspace(1, 0.2, 32)
    units = unit_vectors(draw.normal(size=(rows, 32)) * spectrum)
    return units, unit_vectors(units[draw.integers(0, rows, (150, 3))].mean(axis=1))


def test_a_sample_of_all_rows_needs_the_candidates_that_numpy_counts() -> None:
    units, users = drawn(6_000)
    with screening(units, users) as screened:
        assert screened.candidates(HALF) == needed_by_numpy(units, users, HALF)


def test_a_sample_tells_how_many_candidates_all_rows_need(monkeypatch: pytest.MonkeyPatch) -> None:
    units, users = drawn(24_000)
    monkeypatch.setattr(plan, "_SCREENED_ROWS", 4_000)
    with screening(units, users) as screened:
        estimate, exact = screened.candidates(HALF), needed_by_numpy(units, users, HALF)
    assert estimate is not None
    assert exact / 1.6 <= estimate <= exact * 1.6  # Two steps of candidates.


def test_the_kind_that_needs_the_least_reading_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    units, users = drawn(20_000)
    needed = {HALF: 900, FULL: 100}
    monkeypatch.setattr(Screening, "candidates", lambda _, kind: needed[kind])
    with screening(units, users) as screened:
        assert screened.contenders([HALF, FULL]) == [FULL]
        needed[HALF] = 600  # Codes take half the time to scan, and more vectors as much longer to read.
        assert screened.contenders([HALF, FULL]) == [FULL, HALF]
        needed[HALF] = 50
        assert screened.contenders([HALF, FULL]) == [HALF]


def test_kinds_that_miss_the_target_on_the_sample_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    units, users = drawn(20_000)
    needed: dict[TieredKind, int | None] = {HALF: None, FULL: 100}
    monkeypatch.setattr(Screening, "candidates", lambda _, kind: needed[kind])
    with screening(units, users) as screened:
        assert screened.contenders([HALF, FULL]) == [FULL]
        needed[FULL] = None
        assert screened.contenders([HALF, FULL]) == []


def around(centres: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Unit vectors (rows, d), each near one of the centres."""
    draw = np.random.default_rng(seed)
    near = centres[draw.integers(0, len(centres), rows)]
    return unit_vectors(near + 0.5 * draw.normal(size=near.shape) / np.sqrt(near.shape[1]))


@pytest.mark.parametrize(("clusters", "kind"), [(80, "Tiers32x1,IVF128"), (24_000, "Tiers32x1")])
def test_a_kind_has_lists_where_visiting_a_few_takes_less_time(clusters: int, kind: str) -> None:
    """Nearest are one cluster's rows, and farthest those of one on the other side; or single rows, here and there."""
    half = np.random.default_rng(5).normal(size=(clusters // 2, 32))
    centres = unit_vectors(np.concatenate([half, -half]))
    with screening(around(centres, 24_000, 6), around(centres, 150, 7)) as screened:
        assert str(screened.contenders([FULL])[0]) == kind


@pytest.mark.parametrize("target", [0.99, 0.998, 1.0])
def test_lists_pay_at_any_target(target: float) -> None:
    half = np.random.default_rng(5).normal(size=(40, 32))
    centres = unit_vectors(np.concatenate([half, -half]))
    with screening(around(centres, 24_000, 6), around(centres, 150, 7), target) as screened:
        assert [screened._visits(128, side).lists < 32 for side in ("best", "worst")] == [True, True]


def test_no_more_kinds_are_compared_than_may_be_fastest_and_two_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [TieredKind((Tier(count, 1),)) for count in (20, 21, 22, 31, 32)]
    compared: list[TieredKind] = []

    def needed(_: Screening, kind: TieredKind) -> int:
        compared.append(kind)
        return 96

    monkeypatch.setattr(Screening, "candidates", needed)
    monkeypatch.setattr(plan, "available_cores", lambda: 1)
    with screening(*drawn(40_000)) as screened:
        assert screened.contenders(kinds) == kinds[:2]
    assert compared == kinds[:3]


def test_candidates_of_a_kind_with_lists_come_from_those_that_are_visited() -> None:
    half = np.random.default_rng(5).normal(size=(40, 32))
    centres, kind = unit_vectors(np.concatenate([half, -half])), TieredKind((Tier(32, 2),), 64)
    units, users = around(centres, 6_000, 6), around(centres, 150, 7)
    with screening(units, users) as screened:
        visits = [screened._visits(64, side).lists for side in ("best", "worst")]
        assert max(visits) < 64
        assert screened.candidates(kind) == needed_by_numpy(units, users, kind, visits)


def test_lists_are_visited_until_they_hold_what_numpy_finds() -> None:
    units, users = drawn(6_000)
    with screening(units, users) as screened:
        centroids = screened._trainer.centroids(64)
        list_of_row, sizes = np.argmax(units @ centroids.T, axis=1), np.zeros(64)
        np.add.at(sizes, list_of_row, 1)
        for side, sign in (("best", 1), ("worst", -1)):
            queries = np.float32(sign) * users
            visits, nearest = screened._visits(64, side), np.argsort(-(queries @ centroids.T), axis=1)
            top = np.argsort(-(queries @ units.T), axis=1)[:, :10]

            def found(count: int, nearest: np.ndarray = nearest, top: np.ndarray = top) -> float:
                return float(
                    np.mean([np.isin(list_of_row[ten], lists[:count]) for ten, lists in zip(top, nearest, strict=True)])
                )

            fewer = max(count for count in [0, *steps_of_lists(64)] if count < visits.lists)
            assert found(visits.lists) >= 0.993 or visits.lists == 64
            assert found(fewer) < 0.993
            assert visits.share == pytest.approx(sizes[nearest[:, : visits.lists]].sum(axis=1).mean() / 6_000)
