"""What a valid request is."""

import math
from typing import Any

import pytest

from service.errors import BadRequest, Fault
from service.http.requests.user_reader import UserReader
from service.settings import Limits

READER = UserReader(3, Limits(default_k=7, max_k=50))
GOOD: dict[str, Any] = {"name": "ann", "vector": [1, 2.5, -3]}


def faults_of(value: Any, pointer: str = "") -> list[Fault]:
    with pytest.raises(BadRequest) as error:
        READER.read(value, pointer)
    assert str(error.value) == "; ".join(fault.detail for fault in error.value.faults)
    return error.value.faults


def test_a_user_is_read_with_the_defaults() -> None:
    user, vector = READER.read(GOOD)
    assert (user.name, vector.tolist(), user.k, user.exclude) == ("ann", [1.0, 2.5, -3.0], 7, frozenset())


def test_a_user_is_read_with_k_and_exclude() -> None:
    user, _ = READER.read({**GOOD, "k": 50, "exclude": ["p1", "p2", "p1"]})
    assert (user.k, user.exclude) == (50, frozenset({"p1", "p2"}))


def test_unknown_fields_are_ignored() -> None:
    assert READER.read({**GOOD, "likes": [1], "": None, "K": "x"})[0].name == "ann"


def test_the_request_stays_as_it_was() -> None:
    value = {**GOOD, "exclude": ["p1"], "likes": ["tea"]}
    READER.read(value)
    assert value == {"name": "ann", "vector": [1, 2.5, -3], "exclude": ["p1"], "likes": ["tea"]}


def test_every_fault_of_every_field_is_listed() -> None:
    assert faults_of({"vector": [1, None], "k": "3", "exclude": ["p1", 2.5, None]}) == [
        Fault("missing", "name is missing", "/name"),
        Fault("vector_dimension", "vector has 2 numbers, 3 are expected", "/vector"),
        Fault("vector_not_number", "vector element 1 is null, not a number", "/vector/1"),
        Fault("type", "k must be an integer, not a string", "/k"),
        Fault("type", "exclude element 1 must be a string or an integer, not a number", "/exclude/1"),
        Fault("type", "exclude element 2 must be a string or an integer, not null", "/exclude/2"),
    ]


def test_an_empty_object_lacks_both_required_fields() -> None:
    assert faults_of({}) == [
        Fault("missing", "name is missing", "/name"),
        Fault("missing", "vector is missing", "/vector"),
    ]


def test_pointers_begin_where_the_user_stands() -> None:
    assert faults_of({**GOOD, "vector": [1, math.nan, 3], "k": 0}, "/12") == [
        Fault("vector_not_finite", "vector element 1 is not finite: nan", "/12/vector/1"),
        Fault("range", "k must be from 1 to 50, not 0", "/12/k"),
    ]


@pytest.mark.parametrize(
    ("value", "found"),
    [([], "a list"), ("ann", "a string"), (3, "a number"), (2.5, "a number"), (True, "a boolean"), (None, "null")],
    ids=repr,
)
def test_what_is_no_object_is_no_user(value: Any, found: str) -> None:
    assert faults_of(value, "/4") == [Fault("type", f"a user must be an object, not {found}", "/4")]


@pytest.mark.parametrize("k", [1, 2, 49, 50])
def test_k_reaches_from_one_to_the_limit(k: int) -> None:
    assert READER.read({**GOOD, "k": k})[0].k == k


@pytest.mark.parametrize("k", [0, -1, 51, 10**18 - 1], ids=str)
def test_a_k_out_of_range_is_named_with_the_range(k: int) -> None:
    assert faults_of({**GOOD, "k": k}) == [Fault("range", f"k must be from 1 to 50, not {k}", "/k")]


def test_a_huge_k_is_not_echoed() -> None:
    assert faults_of({**GOOD, "k": 10**300}) == [
        Fault("range", "k must be from 1 to 50, not a far greater number", "/k"),
    ]


def test_a_hugely_negative_k_is_not_called_greater() -> None:
    assert faults_of({**GOOD, "k": -(10**300)}) == [
        Fault("range", "k must be from 1 to 50, not a far smaller number", "/k"),
    ]


def test_of_many_faulty_elements_twenty_and_a_count_are_listed() -> None:
    faults = faults_of({**GOOD, "vector": ["x"] * 33})
    assert faults[0] == Fault("vector_dimension", "vector has 33 numbers, 3 are expected", "/vector")
    assert faults[1:21] == [
        Fault("vector_not_number", f"vector element {i} is a string, not a number", f"/vector/{i}") for i in range(20)
    ]
    assert faults[21:] == [Fault("vector_elements", "vector has 13 further elements at fault", "/vector")]
