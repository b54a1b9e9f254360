"""A vector as base64 of little-endian float32 means what the list of the same numbers means."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.api import NDJSON, VECTOR, Api, Fault, user_json
from tests.support.offline_runs import run, write_users

EXPECTED = "base64 of 300 little-endian float32"
FLOATS = np.array(VECTOR, "<f4")


def encoded(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def changed(element: int, value: float) -> str:
    floats = FLOATS.copy()
    floats[element] = value
    return encoded(floats)


BAD = {
    "not base64": ("not base64!", "vector_type", f"must be a list of numbers, or {EXPECTED}"),
    "for URLs": (changed(0, -1.0).replace("A", "-"), "vector_type", f"must be a list of numbers, or {EXPECTED}"),
    "cut": (encoded(FLOATS)[:-1], "vector_type", f"must be a list of numbers, or {EXPECTED}"),
    "numbers": ("1,2,3", "vector_type", f"must be a list of numbers, or {EXPECTED}"),
    "empty": ("", "vector_dimension", "has 0 numbers, 300 are expected"),
    "short": (encoded(FLOATS[1:]), "vector_dimension", "has 299 numbers, 300 are expected"),
    "a byte short": (
        base64.b64encode(FLOATS.tobytes()[1:]).decode(),
        "vector_dimension",
        "has 1199 bytes, 1200 are expected",
    ),
    "float64": (
        base64.b64encode(np.array(VECTOR).tobytes()).decode(),
        "vector_dimension",
        "has 600 numbers, 300 are expected",
    ),
    "NaN": (changed(7, np.nan), "vector_not_finite", "element 7 is not finite: nan"),
    "infinity": (changed(299, -np.inf), "vector_not_finite", "element 299 is not finite: -inf"),
    "zeros": (encoded(0 * FLOATS), "vector_zero", "is all zeros, which has no direction"),
}


def both_forms(users: list[dict[str, Any]]) -> tuple[list[bytes], list[bytes]]:
    """Users as JSON with base64, and with the lists of the same float32 numbers."""
    floats = [np.array(user["vector"], "<f4") for user in users]
    texts = [json.dumps({**user, "vector": encoded(row)}).encode() for user, row in zip(users, floats, strict=True)]
    return texts, [
        json.dumps({**user, "vector": row.tolist()}).encode() for user, row in zip(users, floats, strict=True)
    ]


def test_every_way_in_gives_the_bytes_of_the_list(api: Api, sample_users: list[dict[str, Any]]) -> None:
    texts, lists = both_forms([{**user, "k": 3 + i % 2} for i, user in enumerate(sample_users[:20])])
    alone = [api.infer(each).body for each in lists]
    assert [api.infer(each).body for each in texts] == alone
    mixed = [text if i % 3 else listed for i, (text, listed) in enumerate(zip(texts, lists, strict=True))]
    for bodies in (texts, mixed):
        assert api.batch(b"[" + b",".join(bodies) + b"]").body == b"[" + b",".join(alone) + b"]"
        assert api.batch(b"\n".join(bodies), content_type=NDJSON).body == b"".join(each + b"\n" for each in alone)
    assert api.post("/map", texts[0]).body == api.post("/map", lists[0]).body


def test_an_offline_batch_gives_the_bytes_of_the_list(
    tmp_path: Path, sample_artifacts: Path, sample_users: list[dict[str, Any]]
) -> None:
    zeros = json.dumps({"name": "zoe", "vector": encoded(0 * FLOATS)}).encode()
    outputs = []
    for form, users in zip(("text", "list"), both_forms(sample_users[:50]), strict=True):
        source, output = write_users(tmp_path / f"{form}.jsonl", [*users, zeros]), tmp_path / f"{form}.matches.jsonl"
        assert run(sample_artifacts, source, output) == f"{output}: 51 users; 1 have an error: 1 vector_zero"
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    error = {"code": "vector_zero", "detail": "vector is all zeros, which has no direction", "pointer": "/50/vector"}
    assert json.loads(outputs[0].splitlines()[-1]) == {"name": "zoe", "error": error}


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30])
def test_only_the_direction_counts(api: Api, scale: float) -> None:
    scaled = (FLOATS * np.float32(scale)).astype("<f4")
    assert api.infer(user_json(vector=encoded(scaled))).body == api.infer(user_json(vector=scaled.tolist())).body


@pytest.mark.parametrize(("vector", "code", "detail"), BAD.values(), ids=BAD)
def test_what_is_no_vector_is_refused_by_its_field(api: Api, vector: str, code: str, detail: str) -> None:
    fault = Fault("/vector", code, f"vector {detail}")
    api.refuse_user(user_json(vector=vector), fault)
    api.refuse_user(json.dumps({"vector": vector}).encode(), fault, path="/map")
    good = user_json(vector=encoded(FLOATS))
    answers = api.batch(b"[" + b",".join([good] * 3 + [user_json(vector=vector), good]) + b"]", errors=1).json
    assert answers[3] == {"name": "ann", "error": {"code": code, "detail": f"vector {detail}", "pointer": "/3/vector"}}
    assert all("best" in answers[i] for i in (0, 1, 2, 4))
