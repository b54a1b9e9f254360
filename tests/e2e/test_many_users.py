"""Thousands of different users over sixty-four connections and two workers: each gets their own exact answer."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from tests.support.catalogues import products_of, write_lines
from tests.support.server import exchange, serving

CONNECTIONS, PRODUCTS, DIMENSION, K = 64, 300, 8, 5


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_nothing_is_lost_doubled_or_mixed_up(tmp_path: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    products, users = draw.normal(size=(PRODUCTS, DIMENSION)), draw.normal(size=(count, DIMENSION))
    build(BuildRequest(products=write_lines(tmp_path / "p.jsonl", products_of(products)), out=tmp_path / "a"))
    bodies = [json.dumps({"name": str(i), "vector": row.tolist(), "k": K}).encode() for i, row in enumerate(users)]

    with serving(tmp_path / "a", RECO_WORKERS="2") as server:

        def ask(first: int) -> list[bytes]:
            with closing(server.connect()) as connection:
                return [exchange(connection, "POST", "/infer", body, {}).body for body in bodies[first::CONNECTIONS]]

        with ThreadPoolExecutor(CONNECTIONS) as clients:
            by_client = list(clients.map(ask, range(CONNECTIONS)))
    answers = [json.loads(by_client[i % CONNECTIONS][i // CONNECTIONS]) for i in range(count)]

    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (users, products)]
    cosines = units[0] @ units[1].T
    positions = {str(product["id"]): i for i, product in enumerate(products_of(products))}
    assert [answer["name"] for answer in answers] == [str(i) for i in range(count)]
    for side, exact in (("best", -np.sort(-cosines, axis=1)[:, :K]), ("worst", np.sort(cosines, axis=1)[:, :K])):
        scores = np.array([[match["score"] for match in answer[side]] for answer in answers])
        rows = np.array([[positions[match["id"]] for match in answer[side]] for answer in answers])
        np.testing.assert_allclose(scores, exact, rtol=0, atol=1.5e-6)
        np.testing.assert_allclose(np.take_along_axis(cosines, rows, axis=1), exact, rtol=0, atol=1.5e-6)
