"""Another engine takes over a build whole: every product's own vector, in catalogue order."""

from collections.abc import Callable

import numpy as np
import pytest

from retrieval.artifact.golden import Answers
from retrieval.artifact.store import Build
from retrieval.errors import BadArtifact
from retrieval.vectors import unit_vectors
from service.engines.export import check_golden, product_blocks
from tests.support.catalogues import products_of


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, 0.0),
        ({"worst": "shared"}, 0.0),
        ({"storage": "fp16"}, 2.0**-11),
        ({"index": "HNSW32"}, 0.0),
        ({"index": "Reduce16,PQ16x4fs"}, 0.0),
    ],
    ids=str,
)
def test_the_vectors_are_the_catalogues_in_its_order(
    build_of: Callable[..., Build], options: dict[str, str], error: float
) -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(1000, 24))
    vectors[draw.permutation(1000)[:300]] = vectors[5]
    build = build_of(products_of(vectors), allow_low_recall=True, **options)
    blocks = [*product_blocks(build, 301)]
    assert [(start, len(heads), rows.shape) for start, heads, rows in blocks] == [
        (start, count, (count, 24)) for start, count in ((0, 301), (301, 301), (602, 301), (903, 97))
    ]
    np.testing.assert_allclose(np.concatenate([rows for *_, rows in blocks]), unit_vectors(vectors), rtol=0, atol=error)
    heads = [head for _, block, _ in blocks for head in block]
    assert heads == [f'{{"id":"p{i}","name":"product {i}"'.encode() for i in range(1000)]


def search_in(build: Build, sign: float) -> Callable[[np.ndarray, int], tuple[Answers, Answers]]:
    """The build's own answers, for users turned round where `sign` is -1."""

    def search(users: np.ndarray, k: int) -> tuple[Answers, Answers]:
        best, worst = (
            [
                {f"p{position}": score for position, score in zip(*user, strict=True)}
                for user in zip(side.positions.tolist(), side.scores.tolist(), strict=True)
            ]
            for side in build.index.search(users * np.float32(sign), k)
        )
        return best, worst

    return search


def test_another_engine_is_held_to_the_golden_answers(build_of: Callable[..., Build]) -> None:
    build = build_of(products_of(np.random.default_rng(2).normal(size=(400, 8))))
    check_golden(build, "elsewhere", search_in(build, 1.0))
    with pytest.raises(BadArtifact, match=r"^elsewhere, best side: gives 0 of the 80 golden answers in manifest"):
        check_golden(build, "elsewhere", search_in(build, -1.0))
