"""What a vector is, and its unit-length form."""

from collections.abc import Iterable
from decimal import Decimal, localcontext

import numpy as np
import pytest

from retrieval.vectors import BadVector, VectorFault, read_vector, unit_vectors

UGLY_ROWS = {
    "tiny": [1e-30, -2e-30, 3e-30],
    "huge": [1e30, -2e30, 3e30],
    "one denormal": [5e-324, 0.0, 0.0],
    "denormals": [5e-324, -1e-323, 2e-323],
    "the smallest of normal size": [2.3e-308, 2.3e-308, -2.3e-308],
    "the largest": [1.7e308, 1.7e308, -1.7e308],
    "largest beside smallest": [1e308, 1e-308, -1e308],
    "one number": [0.0, -7.0, 0.0],
    "ordinary": [0.1, 0.2, -0.3],
}


def exact_unit(row: list[float]) -> np.ndarray:
    """The unit vector in sixty decimal digits, rounded once to float64."""
    with localcontext() as context:
        context.prec = 60
        values = [Decimal(value) for value in row]
        length = sum((value * value for value in values), Decimal()).sqrt()
        return np.array([float(value / length) for value in values])


@pytest.mark.parametrize("row", UGLY_ROWS.values(), ids=UGLY_ROWS.keys())
def test_a_unit_vector_is_right_to_the_last_bit_but_one(row: list[float]) -> None:
    [unit] = unit_vectors(np.array([row]))
    expected = exact_unit(row).astype(np.float32)
    assert unit.dtype == np.float32
    assert (np.abs(unit - expected) <= np.spacing(np.abs(expected))).all()


def test_powers_of_two_scale_to_the_same_bytes() -> None:
    row = np.random.default_rng(0).normal(size=(1, 300))
    expected = unit_vectors(row).tobytes()
    assert [unit_vectors(row * scale).tobytes() for scale in (2.0**-100, 2.0**100, 2.0)] == [expected] * 3


@pytest.mark.parametrize("dimension", [2, 3, 7, 300, 301, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bytes_alone_and_in_any_batch(dimension: int, dtype: type) -> None:
    rows: np.ndarray = np.random.default_rng(dimension).normal(size=(1000, dimension)).astype(dtype)
    alone = b"".join(unit_vectors(row[None]).tobytes() for row in rows)
    for size in (1, 19, 20, 426, 427, 1000):
        assert unit_vectors(rows[:size]).tobytes() == alone[: size * dimension * 4]


def test_the_callers_rows_stay_as_they_are() -> None:
    rows = np.array([[3.0, 4.0]])
    assert unit_vectors(rows).tolist() == [[np.float32(0.6), np.float32(0.8)]]
    assert rows.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("zero", [0.0, -0.0, 1e-60, -1e-60], ids=str)
def test_every_zero_of_a_unit_vector_is_the_positive_one(zero: float) -> None:
    assert unit_vectors(np.array([[1.0, zero]])).tobytes() == np.array([1.0, 0.0], np.float32).tobytes()


@pytest.mark.parametrize(
    "values", [[1, -2.5], [0.0, 5e-324], [10**300, 1], [2**64, -(2**70)], np.array([1, 2], np.int8)], ids=repr
)
def test_any_finite_numbers_with_a_direction_are_a_vector(values: Iterable[float]) -> None:
    vector = read_vector(values, 2)
    assert vector.dtype == np.float64
    assert vector.tolist() == [float(value) for value in values]


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        (None, "vector_type", "vector must be a list of numbers, not null"),
        ("1 2", "vector_type", "vector must be a list of numbers, not a string"),
        ({}, "vector_type", "vector must be a list of numbers, not an object"),
        (True, "vector_type", "vector must be a list of numbers, not a boolean"),
        (3.5, "vector_type", "vector must be a list of numbers, not a number"),
        ([], "vector_dimension", "vector has 0 numbers, 2 are expected"),
        ([1], "vector_dimension", "vector has 1 numbers, 2 are expected"),
        ([1, 2, 3], "vector_dimension", "vector has 3 numbers, 2 are expected"),
        ([0, 0], "vector_zero", "vector is all zeros, which has no direction"),
        ([0.0, -0.0], "vector_zero", "vector is all zeros, which has no direction"),
        ([1, float("nan")], "vector_not_finite", "vector element 1 is not finite: nan"),
        ([float("inf"), 1], "vector_not_finite", "vector element 0 is not finite: inf"),
        ([1, -(10**400)], "vector_not_finite", "vector element 1 is not finite: an integer beyond float range"),
        ([True, 1], "vector_not_number", "vector element 0 is a boolean, not a number"),
        ([1, "2"], "vector_not_number", "vector element 1 is a string, not a number"),
        ([1, None], "vector_not_number", "vector element 1 is null, not a number"),
        ([[1], 2], "vector_not_number", "vector element 0 is a list, not a number"),
        ([1, {}], "vector_not_number", "vector element 1 is an object, not a number"),
        (np.array([0, 0]), "vector_zero", "vector is all zeros, which has no direction"),
        (np.array([np.nan, 1], np.float16), "vector_not_finite", "vector element 0 is not finite: nan"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_vector_is_refused_with_the_reason(values: object, code: str, message: str) -> None:
    with pytest.raises(BadVector) as caught:
        read_vector(values, 2)
    assert str(caught.value) == message
    assert [fault.code for fault in caught.value.faults] == [code]


@pytest.mark.parametrize(("values", "count"), [([], 0), ([5], 1)], ids=["empty", "one number"])
def test_without_a_dimension_two_numbers_are_the_least(values: list[float], count: int) -> None:
    with pytest.raises(BadVector, match=f"^vector has {count} numbers, at least 2 are needed$"):
        read_vector(values)
    assert read_vector([5, 6]).tolist() == [5.0, 6.0]


def test_every_fault_of_a_vector_is_told() -> None:
    with pytest.raises(BadVector) as caught:
        read_vector([1, "a", float("-inf")], 2)
    assert caught.value.faults == [
        VectorFault("vector_dimension", "has 3 numbers, 2 are expected"),
        VectorFault("vector_not_number", "is a string, not a number", 1),
        VectorFault("vector_not_finite", "is not finite: -inf", 2),
    ]


@pytest.mark.parametrize("bad", ["x", float("nan")], ids=["strings", "NaN"])
def test_of_many_faulty_elements_twenty_are_told_and_the_rest_counted(bad: object) -> None:
    with pytest.raises(BadVector) as caught:
        read_vector([bad] * 50, 50)
    *shown, last = caught.value.faults
    assert [fault.element for fault in shown] == list(range(20))
    assert str(last) == "vector has 30 further elements at fault"


def test_exactly_twenty_faulty_elements_are_all_told() -> None:
    with pytest.raises(BadVector) as caught:
        read_vector([float("nan")] * 20 + [1.0], 21)
    assert [fault.element for fault in caught.value.faults] == list(range(20))
