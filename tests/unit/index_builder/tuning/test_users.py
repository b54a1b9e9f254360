"""Who an index is tuned and confirmed with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.tuning.recall import summarise
from index_builder.tuning.users import UserPool, user_pool
from retrieval.errors import BadQueries, BadRows
from retrieval.records.vector_file import VectorFile
from retrieval.vectors import unit_vectors
from tests.support.catalogues import write_lines
from tests.support.indexes import vector_file

DRAW = np.random.default_rng(0)
UNITS, USERS = unit_vectors(DRAW.normal(size=(50, 4))), unit_vectors(DRAW.normal(size=(1000, 4)))


@pytest.fixture
def vectors() -> Iterator[VectorFile]:
    with vector_file(UNITS) as vectors:
        yield vectors


def users_file(path: Path, count: int) -> Path:
    return write_lines(path, [{"name": "u", "vector": user} for user in USERS[:count].tolist()])


def everyone(pool: UserPool) -> list[tuple[float, ...]]:
    """Those of one source."""
    users, source = [pool.tuning()], pool.source
    while pool.has_more:
        more = pool.confirming()
        if pool.source != source:
            break
        users.append(more)
    return list(map(tuple, np.concatenate(users).round(5).tolist()))


@pytest.mark.parametrize("count", [300, 301, 500, 1000])
def test_each_user_of_a_file_is_handed_out_once(tmp_path: Path, vectors: VectorFile, count: int) -> None:
    handed_out = everyone(user_pool(vectors, users_file(tmp_path / "u", count)))
    assert len(set(handed_out)) == len(handed_out)
    assert set(handed_out) <= set(map(tuple, USERS[:count].round(5).tolist()))


@pytest.mark.parametrize("count", [300, 301, 500, 1000])
def test_a_choice_is_held_against_a_quarter_of_the_file_three_times_over(
    tmp_path: Path, vectors: VectorFile, count: int
) -> None:
    pool = user_pool(vectors, users_file(tmp_path / "u", count))
    pool.tuning()
    for _ in range(3):
        assert pool.has_more
        assert len(pool.confirming()) == count // 4
        assert pool.source == "u"


def test_choices_after_three_are_confirmed_with_synthetic_users(tmp_path: Path, vectors: VectorFile) -> None:
    pool, synthetic = user_pool(vectors, users_file(tmp_path / "u", 301)), user_pool(vectors, None)
    pool.tuning()
    for _ in range(3):
        pool.confirming()
    for _ in range(3):
        assert pool.has_more
        assert pool.confirming().tolist() == synthetic.confirming().tolist()
        assert pool.source == "means of random products, as earlier choices used up u"
    assert pool.more(40).tolist() == synthetic.more(40).tolist()


def test_synthetic_users_are_no_products_and_never_the_same(vectors: VectorFile) -> None:
    handed_out = everyone(user_pool(vectors, None))
    assert len(handed_out) == 300 + 7 * 1000
    np.testing.assert_allclose(np.linalg.norm(handed_out, axis=1), 1.0, rtol=0, atol=1e-4)
    nearest = (np.array(handed_out) @ UNITS.T.astype(np.float64)).max(axis=1)
    assert np.mean(nearest > 1 - 1e-5) < 0.02  # the same product drawn twice
    assert len(set(handed_out)) > 0.7 * len(handed_out)


@pytest.mark.parametrize("count", [1, 2, 299])
def test_too_few_users_to_tell_give_way_to_synthetic_ones(tmp_path: Path, vectors: VectorFile, count: int) -> None:
    pool = user_pool(vectors, users_file(tmp_path / "few.jsonl", count))
    reason = f"as few.jsonl has only {count} users of the 300 needed"
    assert pool.source == f"means of random products, {reason}"
    assert pool.tuning().tolist() == user_pool(vectors, None).tuning().tolist()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "holds no users"),
        ([{"vector": [1.0] * 3}], "line 1: vector has 3 numbers, 4 are expected"),
        ([{"vector": [1.0] * 4}, {"vector": [0.0] * 4}], "line 2: vector is all zeros, which has no direction"),
        ([{"name": "a"}], "line 1: vector must be a list of numbers, not null"),
        ([b"mike"], "line 1: not JSON: "),
    ],
    ids=["none", "dimension", "zeros", "no vector", "not JSON"],
)
def test_a_bad_users_file_is_refused(tmp_path: Path, vectors: VectorFile, rows: list[Any], reason: str) -> None:
    with pytest.raises(BadQueries) as caught:
        user_pool(vectors, write_lines(tmp_path / "u", rows))
    assert str(caught.value).startswith(f"{tmp_path / 'u'}: {reason}")


def test_a_missing_users_file_is_named(tmp_path: Path, vectors: VectorFile) -> None:
    with pytest.raises(BadRows, match=f"^{tmp_path / 'u'}: cannot be read: "):
        user_pool(vectors, tmp_path / "u")


def test_users_may_come_as_a_matrix(tmp_path: Path, vectors: VectorFile) -> None:
    np.save(tmp_path / "u.npy", USERS[:400] * 7)
    (tmp_path / "u.json").write_text(json.dumps([{"vector": user} for user in USERS[:400].tolist()]))
    from_matrix, from_json = (user_pool(vectors, tmp_path / name).tuning() for name in ("u.npy", "u.json"))
    np.testing.assert_allclose(from_matrix, from_json, rtol=0, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("users", [1, 10, 300, 5000])
def test_the_bound_lies_below_the_mean_and_rises_with_the_users(users: int, share: float) -> None:
    few, many = (summarise((np.arange(count) < share * count).astype(float), 10) for count in (users, 4 * users))
    assert 0.0 <= few.lower_bound <= few.mean
    assert few.lower_bound < 1.0
    assert (few.mean == 0) or few.lower_bound < few.mean
    assert share == 0.0 or few.lower_bound < many.lower_bound or users == 1
