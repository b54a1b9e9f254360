"""Milvus takes over a build whole: every product's own vector, in catalogue order."""

from collections.abc import Callable

import numpy as np
import pytest

from retrieval.artifact.build import Build
from retrieval.vectors import unit_vectors
from tests.support.catalogues import products_of


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, 0.0),
        ({"worst": "shared"}, 0.0),
        ({"storage": "fp16"}, 2.0**-11),
        ({"index": "HNSW4"}, 0.0),
        ({"index": "Tiers16x1"}, 0.0),
    ],
    ids=str,
)
def test_the_vectors_are_the_catalogues_in_its_order(
    build_of: Callable[..., Build], options: dict[str, str], error: float
) -> None:
    from service.engines.milvus_publish import product_blocks

    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(1000, 24))
    vectors[draw.permutation(1000)[:300]] = vectors[5]
    build = build_of(products_of(vectors), allow_low_recall=True, **options)
    blocks = [*product_blocks(build, 301)]
    assert [(start, len(prefixes), rows.shape) for start, _, prefixes, rows in blocks] == [
        (start, count, (count, 24)) for start, count in ((0, 301), (301, 301), (602, 301), (903, 97))
    ]
    np.testing.assert_allclose(np.concatenate([rows for *_, rows in blocks]), unit_vectors(vectors), rtol=0, atol=error)
    prefixes = [prefix for _, _, block, _ in blocks for prefix in block]
    assert prefixes == [f'{{"id":"p{i}","name":"product {i}"'.encode() for i in range(1000)]
    assert [line for _, block, *_ in blocks for line in block] == [prefix + b"}" for prefix in prefixes]
