"""The service's answers over the sample catalogue are exact NumPy's."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.api import Api
from tests.support.oracle import Oracle
from tests.support.sample import SampleProducts, read_personas


@dataclass(frozen=True)
class OracleOfUsers(Oracle):
    """Computes the cosines of all users at once, since one at a time takes seconds."""

    users: NDArray[np.float64]

    def cosines(self, users: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.stack([self._rows[user.tobytes()] for user in users])

    @cached_property
    def _rows(self) -> dict[bytes, NDArray[np.float64]]:
        return {user.tobytes(): row for user, row in zip(self.users, super().cosines(self.users), strict=True)}


@pytest.fixture(scope="module")
def users(sample_users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*sample_users, *read_personas()]


@pytest.fixture(scope="module")
def oracle(sample_products: SampleProducts, users: list[dict[str, Any]]) -> OracleOfUsers:
    return OracleOfUsers(sample_products.vectors, np.array([user["vector"] for user in users]))


@pytest.mark.parametrize("side", ["best", "worst"])
def test_every_sample_user_gets_exact_ids_scores_and_order(
    api: Api, sample_products: SampleProducts, users: list[dict[str, Any]], oracle: OracleOfUsers, side: str
) -> None:
    answers = api.batch(json.dumps(users).encode()).json
    assert [answer["name"] for answer in answers] == [user["name"] for user in users]
    for vector, answer in zip(oracle.users, answers, strict=True):
        matches = answer[side]
        positions = [sample_products.positions[match["id"]] for match in matches]
        assert [sample_products.rows[i]["name"] for i in positions] == [match["name"] for match in matches]
        oracle.check(vector, side, positions, [match["score"] for match in matches], 10)


@pytest.mark.parametrize("k", [1, 100, 1000])
def test_other_numbers_of_matches_are_as_exact(
    api: Api, sample_products: SampleProducts, users: list[dict[str, Any]], oracle: OracleOfUsers, k: int
) -> None:
    answers = api.batch(json.dumps([{**user, "k": k} for user in users[-20:]]).encode()).json
    for vector, answer in zip(oracle.users[-20:], answers, strict=True):
        for side in ("best", "worst"):
            positions = [sample_products.positions[match["id"]] for match in answer[side]]
            oracle.check(vector, side, positions, [match["score"] for match in answer[side]], k)


def test_scores_are_written_with_at_most_six_decimals(api: Api, users: list[dict[str, Any]]) -> None:
    body = api.batch(json.dumps(users).encode()).body
    scores = [part.split(b"}")[0] for part in body.split(b'"score":')[1:]]
    assert len(scores) == 20 * len(users)
    assert [score for score in scores if len(score.split(b".")[1]) > 6] == []
