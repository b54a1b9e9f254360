"""Kinds of catalogue: vectors of products, and of users as that kind has them, drawn from a seed.

Each kind returns products (n, d) and users (u, d), not of unit length, and no user is drawn twice.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogues import mixtures, sample_products, sample_users
from benchmarks.index.catalogues.factors import factors
from benchmarks.index.catalogues.texts import texts
from benchmarks.index.catalogues.words import words

Vectors = NDArray[np.float32]
_CLUSTER_SPREAD = 0.6  # of a cluster's members, against that of the clusters' centres
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Kind:
    """A maker of catalogues, called with counts of products and users, the dimension and a generator."""

    make: Callable[[int, int, int, np.random.Generator], tuple[Vectors, Vectors]]
    dimension: int


def sample(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Mix the sample's products and users, as the other benchmarks do."""
    rows = sample_products()
    if dimension != len(rows[0]["vector"]):
        raise ValueError(f"the sample has {len(rows[0]['vector'])} dimensions, not {dimension}")
    one, other = draw.integers(0, 2**32, 2)
    return mixtures(rows, products, int(one)), mixtures(sample_users(), users, int(other))


def gaussian(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Draw vectors that point anywhere, so that no direction is worth more than another."""
    return tuple(draw.standard_normal((count, dimension), np.float32) for count in (products, users))  # type: ignore[return-value]


def clustered(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Draw clusters of unequal size in a space whose directions vary less and less, as those of embeddings do.

    A user is between a few products of one cluster or two.
    """
    clusters = max(2, round(products**0.5))
    turn, _ = np.linalg.qr(draw.standard_normal((dimension, dimension)))
    shape = (np.arange(1, dimension + 1) ** -0.4)[:, np.newaxis] * turn
    centres = (draw.standard_normal((clusters, dimension)) @ shape).astype(np.float32)
    shape = (_CLUSTER_SPREAD * shape).astype(np.float32)
    shares = np.arange(1, clusters + 1) ** -0.7
    cluster_of = np.sort(draw.choice(clusters, products, p=shares / shares.sum()))
    vectors = centres[cluster_of]
    for start in range(0, products, _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        block += draw.standard_normal(block.shape, np.float32) @ shape
    first = draw.integers(0, products, users)
    neighbours = np.minimum(first[:, np.newaxis] + draw.integers(0, 20, (users, 3)), products - 1)
    weights = draw.dirichlet(np.ones(4), users).astype(np.float32)
    near = np.einsum("um,umd->ud", weights[:, :3], vectors[neighbours])
    near += weights[:, 3:] * vectors[draw.integers(0, products, users)]
    return vectors[draw.permutation(products)], near


KINDS = {
    "sample": Kind(sample, 300),
    "words": Kind(words, 300),
    "texts": Kind(texts, 256),
    "factors": Kind(factors, 64),
    "clustered": Kind(clustered, 768),
    "gaussian": Kind(gaussian, 128),
}


def parse(name: str) -> tuple[str, int]:
    """Return the kind and dimension of a name such as `gaussian:8`, or `gaussian` for the kind's own dimension.

    Raises ValueError.
    """
    kind, _, dimension = name.partition(":")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of catalogue; there are {', '.join(KINDS)}")
    if dimension and not (dimension.isdecimal() and int(dimension) >= 2):
        raise ValueError(f"{name!r}: the dimension must be a whole number of at least 2")
    return kind, int(dimension) if dimension else KINDS[kind].dimension


def make(name: str, products: int, users: int, seed: int) -> tuple[Vectors, Vectors]:
    """Return the products (n, d) and users (u, d) of a named kind, the same ones for the same seed."""
    kind, dimension = parse(name)
    return KINDS[kind].make(products, users, dimension, np.random.default_rng([seed, zlib.crc32(name.encode())]))
