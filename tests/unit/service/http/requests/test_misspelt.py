"""Members that are ignored are named where they look like misspelt options."""

import json
from typing import Any

import pytest

from service.http.requests.misspelt import find_misspelt
from service.http.requests.schemas import user_schema
from service.http.requests.user_reader import UserReader
from service.settings import Limits

MISSPELT = [
    *("exlude", "excludes", "Exclude", "exculde", "ecxlude", "filters", "fliter", "Filter", "field", "feilds"),
    *(
        "minScore",
        "min-score",
        "min_scores",
        "mim_score",
        "MAX_SCORE",
        "top_k",
        "topK",
        "K",
        "limit",
        "explian",
        "maxPer",
        "max_pre",
        "diversty",
        "nmae",
    ),
]
OTHER = [
    "likes",
    "id",
    "x",
    "n",
    "",
    "files",
    "score",
    "age",
    "_",
    "explanation of it",
    "exlude\r\nX-A: b",
    "exlud\u00e9",
]
READER = UserReader(2, Limits())


@pytest.mark.parametrize("name", MISSPELT)
def test_a_name_that_is_nearly_an_option_is_misspelt(name: str) -> None:
    assert find_misspelt([name]) == (name,)


@pytest.mark.parametrize("name", [*OTHER, *user_schema(2, Limits()).fields], ids=repr)
def test_options_and_names_unlike_any_are_not_misspelt(name: str) -> None:
    assert find_misspelt([name]) == ()


def test_the_fast_path_leaves_misspelt_members_to_the_reader_and_reads_others() -> None:
    plain = {"name": "ann", "vector": [1, 2]}
    further: list[dict[str, Any]] = [{"likes": []}, {"exlude": ["p"]}, {"k": 2, "x": 1}]
    bodies = [json.dumps({**plain, **more}).encode() for more in further]
    users, vectors = READER.parse_fast(bodies)
    assert [user is not None for user in users] == [True, False, True]
    assert vectors.tolist() == [[1, 2], [1, 2]]
    assert READER.read_user(bodies[1])[0].ignored == ("exlude",)


def test_of_a_user_with_thousands_of_members_only_the_first_are_looked_at() -> None:
    assert find_misspelt([*map(str, range(63)), "exlude", "filters"]) == ("exlude",)
