"""What is parsed at once has a bound; what may be longer is read in parts, as if it were read at once."""

import json
from typing import Any

import numpy as np
import pytest

from service.errors import BadRequest, FailedUser, TooLarge
from service.http.open_inference import read_request
from service.http.schemas import MAX_TEXT_BYTES, read_json
from service.http.user_reader import UserReader
from service.settings import Limits

DIMENSION, LIMITS = 64, Limits(max_batch=100_000)
ROWS = 8000  # more than 4 MiB


def test_a_value_is_read_up_to_a_bound_and_refused_beyond_it() -> None:
    longest = b'{"name":"' + b"a" * (MAX_TEXT_BYTES - 11) + b'"}'
    assert read_json(longest) == {"name": "a" * (MAX_TEXT_BYTES - 11)}
    with pytest.raises(TooLarge) as error:
        read_json(longest.replace(b'"}', b'a"}'))
    assert str(error.value) == "the body has a value of 4,194,305 bytes, 4,194,304 are allowed"


@pytest.mark.parametrize("body", [b"1" * 5_000_000, b'"' + b"1" * 5_000_000 + b'"'])
def test_digits_and_strings_count_too(body: bytes) -> None:
    with pytest.raises(TooLarge):
        read_json(body)


def test_blanks_around_a_value_do_not_count() -> None:
    assert read_json(b" " * 5_000_000 + b"{}" + b"\n" * 5_000_000) == {}


def test_a_line_that_is_too_long_fails_alone() -> None:
    good = json.dumps({"name": "ann", "vector": [1] * DIMENSION}).encode()
    long = good.replace(b"ann", b"a" * MAX_TEXT_BYTES)
    [first], [second], [third] = (
        block.items for block in UserReader(DIMENSION, LIMITS).read_lines(b"\n".join([good, long, good]))
    )
    assert isinstance(second, FailedUser)
    detail = "the line is larger, or of more values, than one user may bring"
    assert (second.error.code, second.error.detail, second.error.pointer) == ("not_json", detail, "/1")
    assert first == third


def tensor(vectors: Any, shape: list[int]) -> bytes:
    body = {"inputs": [{"name": "vectors", "shape": shape, "datatype": "FP32", "data": vectors}], "id": "a"}
    return json.dumps(body).encode()


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_tensor_is_read_as_the_numbers_that_it_holds(nested: bool) -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIMENSION)).astype(np.float32)
    body = tensor((vectors if nested else vectors.ravel()).tolist(), [ROWS, DIMENSION])
    assert len(body) > MAX_TEXT_BYTES
    request = read_request(body, None, DIMENSION, LIMITS)
    assert request.id == "a"
    np.testing.assert_array_equal(request.users.vectors, vectors)


@pytest.mark.parametrize(
    ("bad", "code"), [("x", "vector_not_number"), (None, "vector_not_number"), (1e60, "vector_not_finite")]
)
def test_a_fault_in_a_long_tensor_is_pointed_at(bad: Any, code: str) -> None:
    numbers: list[Any] = [0.123456789] * (ROWS * DIMENSION)
    numbers[-5] = bad
    with pytest.raises(BadRequest) as error:
        read_request(tensor(numbers, [ROWS, DIMENSION]), None, DIMENSION, LIMITS)
    assert [(fault.code, fault.pointer) for fault in error.value.faults] == [
        (code, f"/inputs/0/data/{ROWS * DIMENSION - 5}")
    ]
