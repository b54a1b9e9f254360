"""Users that do not fit: what exactly is said of each."""

import json
import math
from typing import Any

import pytest

from tests.support.api import VECTOR, Api, Fault, user_json, user_text, vector_text

NO_DIRECTION = Fault("/vector", "vector_zero", "vector is all zeros, which has no direction")


def without(field: str) -> bytes:
    user = json.loads(user_json())
    del user[field]
    return json.dumps(user).encode()


def vector_type(found: str) -> Fault:
    return Fault("/vector", "vector_type", f"vector must be a list of numbers, not {found}")


def length(count: int) -> Fault:
    return Fault("/vector", "vector_dimension", f"vector has {count} numbers, 300 are expected")


def not_number(element: int, found: str) -> Fault:
    return Fault(f"/vector/{element}", "vector_not_number", f"vector element {element} is {found}, not a number")


def not_finite(element: int, found: str) -> Fault:
    return Fault(f"/vector/{element}", "vector_not_finite", f"vector element {element} is not finite: {found}")


@pytest.mark.parametrize("field", ["name", "vector"])
def test_a_required_field_must_be_there(api: Api, field: str) -> None:
    api.refuse_user(without(field), Fault(f"/{field}", "missing", f"{field} is missing"))


@pytest.mark.parametrize("field", ["name", "vector", "k", "exclude"])
def test_no_field_may_be_null(api: Api, field: str) -> None:
    api.refuse_user(user_json(**{field: None}), Fault(f"/{field}", "null", f"{field} must not be null"))


@pytest.mark.parametrize(
    ("name", "found"), [(7, "a number"), (1.5, "1.5"), (True, "a boolean"), (["ann"], "a list"), ({}, "an object")]
)
def test_a_name_must_be_a_string(api: Api, name: Any, found: str) -> None:
    api.refuse_user(user_json(name=name), Fault("/name", "type", f"name must be a string, not {found}"))


@pytest.mark.parametrize(("vector", "found"), [({"0": 1}, "an object"), (7, "a number"), (False, "a boolean")])
def test_a_vector_must_be_a_list(api: Api, vector: Any, found: str) -> None:
    api.refuse_user(user_json(vector=vector), vector_type(found))


@pytest.mark.parametrize("count", [0, 1, 299, 301, 3000])
def test_a_vector_of_another_length_is_refused_with_both_numbers(api: Api, count: int) -> None:
    api.refuse_user(user_json(vector=[0.5] * count), length(count))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0.5", "a string"),
        (None, "null"),
        (True, "a boolean"),
        (False, "a boolean"),
        ([0.5], "a list"),
        ({}, "an object"),
    ],
    ids=repr,
)
def test_what_is_no_number_in_a_vector_is_named(api: Api, value: Any, found: str) -> None:
    api.refuse_user(user_json(vector=[*VECTOR[:299], value]), not_number(299, found))
    api.refuse_user(user_json(vector=[value, *map(round, VECTOR[1:])]), not_number(0, found))


@pytest.mark.parametrize(
    ("value", "found"),
    [("0.5", "a string"), (None, "null"), (True, "a boolean"), ([0.5] * 300, "a list")],
    ids=["strings", "nulls", "booleans", "lists"],
)
def test_of_a_vector_of_nothing_but_faults_twenty_and_a_count_are_listed(api: Api, value: Any, found: str) -> None:
    rest = Fault("/vector", "vector_elements", "vector has 280 further elements at fault")
    api.refuse_user(user_json(vector=[value] * 300), *[not_number(i, found) for i in range(20)], rest)


def test_twenty_faulty_elements_are_listed_without_a_count(api: Api) -> None:
    api.refuse_user(user_json(vector=[None] * 20 + VECTOR[20:]), *[not_number(i, "null") for i in range(20)])


def test_of_many_infinite_numbers_twenty_and_a_count_are_listed(api: Api) -> None:
    rest = Fault("/vector", "vector_elements", "vector has 280 further elements at fault")
    api.refuse_user(user_json(vector=[-math.inf] * 300), *[not_finite(i, "-inf") for i in range(20)], rest)


def test_different_faults_among_good_numbers_are_all_listed(api: Api) -> None:
    vector = vector_text("1", '"2"', "null", "3.5", "true", "[4]", "NaN", "1e400", "9" * 400)
    api.refuse_user(
        user_text(vector),
        not_number(1, "a string"),
        not_number(2, "null"),
        not_number(4, "a boolean"),
        not_number(5, "a list"),
        not_finite(6, "nan"),
        not_finite(7, "inf"),
        not_finite(8, "inf"),
    )


@pytest.mark.parametrize(
    ("number", "found"),
    [
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("-Infinity", "-inf"),
        ("1e400", "inf"),
        ("-1e400", "-inf"),
        ("9" * 400, "inf"),
        ("-" + "9" * 400, "-inf"),
        ("9" * 5000, "inf"),
        ("-" + "9" * 5000, "-inf"),
    ],
    ids=["NaN", "Inf", "-Inf", "1e400", "-1e400", "400 digits", "-400 digits", "5,000 digits", "-5,000 digits"],
)
def test_a_number_that_is_not_finite_is_a_bad_vector_not_a_bad_body(api: Api, number: str, found: str) -> None:
    api.refuse_user(user_text(vector_text("0.5", number)), not_finite(1, found))


@pytest.mark.parametrize("zero", ["0", "0.0", "-0.0", "1e-400"])
def test_a_vector_of_zeros_has_no_direction(api: Api, zero: str) -> None:
    api.refuse_user(user_text(vector_text(*[zero] * 300)), NO_DIRECTION)


def test_a_vector_of_both_zeros_has_no_direction(api: Api) -> None:
    api.refuse_user(user_json(vector=[0.0, -0.0] * 150), NO_DIRECTION)


@pytest.mark.parametrize("k", [0, -1, 1001, 10**17])
def test_a_k_out_of_range_is_refused_with_the_range(api: Api, k: int) -> None:
    api.refuse_user(user_json(k=k), Fault("/k", "range", f"k must be from 1 to 1000, not {k}"))


@pytest.mark.parametrize("digits", [20, 300, 400, 5000])
def test_a_k_of_many_digits_is_out_of_range(api: Api, digits: int) -> None:
    expected = Fault("/k", "range", "k must be from 1 to 1000, not a far greater number")
    api.refuse_user(user_text(k="9" * digits), expected)


@pytest.mark.parametrize(
    ("k", "found"),
    [("1.5", "1.5"), ("10.0", "10.0"), ("true", "a boolean"), ('"10"', "a string"), ("[10]", "a list"), ("NaN", "nan")],
)
def test_a_k_that_is_no_integer_is_refused(api: Api, k: str, found: str) -> None:
    api.refuse_user(user_text(k=k), Fault("/k", "type", f"k must be an integer, not {found}"))


@pytest.mark.parametrize(("exclude", "found"), [("p1", "a string"), ({"p1": 1}, "an object"), (7, "a number")])
def test_exclude_must_be_a_list(api: Api, exclude: Any, found: str) -> None:
    expected = Fault("/exclude", "type", f"exclude must be a list of product ids, not {found}")
    api.refuse_user(user_json(exclude=exclude), expected)


def test_every_excluded_id_must_be_a_string_or_an_integer(api: Api) -> None:
    api.refuse_user(
        user_json(exclude=[7.0, "pizza-01", None, ["p1"], 7, True]),
        Fault("/exclude/0", "type", "exclude element 0 must be a string or an integer, not a number"),
        Fault("/exclude/2", "type", "exclude element 2 must be a string or an integer, not null"),
        Fault("/exclude/3", "type", "exclude element 3 must be a string or an integer, not a list"),
        Fault("/exclude/5", "type", "exclude element 5 must be a string or an integer, not a boolean"),
    )


def test_every_fault_of_a_user_is_listed(api: Api) -> None:
    api.refuse_user(
        user_json(name=None, vector=[1, "2"], k=0, exclude=[7.5]),
        Fault("/name", "null", "name must not be null"),
        length(2),
        not_number(1, "a string"),
        Fault("/k", "range", "k must be from 1 to 1000, not 0"),
        Fault("/exclude/0", "type", "exclude element 0 must be a string or an integer, not a number"),
    )
