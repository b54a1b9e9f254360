"""Tells whether it is time to merge a delta into its base: what a search takes, and what the base has lost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_builder.kinds.codes import coding_error
from index_builder.tuning.clock import median_seconds
from index_builder.tuning.recall import K
from retrieval.artifact.build import Build
from retrieval.artifact.manifest import DeltaFacts
from retrieval.vectors import unit_vectors

_MAX_SLOWDOWN, _MIN_SECONDS_LOST = 1.3, 5e-4
_MAX_SHARE_GONE, _MAX_ERROR_RATIO, _MIN_ERROR = 0.1, 1.25, 1e-4
_TIMED_USERS, _PRODUCTS_A_USER, _SAMPLED_VECTORS, _SEED = 50, 3, 1000, 6


@dataclass(frozen=True)
class Finding:
    """Something measured of a delta, and whether a merge is due for it."""

    text: str
    is_due: bool


def advise(build: Build, delta: DeltaFacts) -> list[Finding]:
    """Measure the searches of a pair against those of its base alone, in turns, and how well its base still fits."""
    return [_slowdown(build), _share_gone(build, delta), *_coding(build)]


def _slowdown(build: Build) -> Finding:
    index, base = build.index, build.base.index
    alone, together = median_seconds(
        [lambda users: base.search(users, K), lambda users: index.search(users, K)], _users(build)
    )
    is_due = together > _MAX_SLOWDOWN * alone and together - alone > _MIN_SECONDS_LOST
    return Finding(f"a search takes {together / alone:.2f} times as long as in the base alone", is_due)


def _share_gone(build: Build, delta: DeltaFacts) -> Finding:
    share = (delta.deleted + delta.replaced) / build.base.manifest.products
    return Finding(f"{share:.1%} of the base's products are deleted or replaced", share > _MAX_SHARE_GONE)


def _coding(build: Build) -> list[Finding]:
    """Compare the error of coding new vectors as the base would with that of its own, where it has codes."""
    base, rows = build.base, build.base.manifest.distinct_vectors
    new_rows = build.manifest.distinct_vectors - rows
    error = coding_error(base.index.index, base.index.vectors(_sampled(rows))) if new_rows else None
    if error is None:
        return []
    of_new = coding_error(base.index.index, build.index.vectors(rows + _sampled(new_rows))) or 0.0
    is_due = of_new > _MAX_ERROR_RATIO * error + _MIN_ERROR
    return [Finding(f"the base's codes miss new vectors by {of_new:.3f}, its own by {error:.3f} (squared)", is_due)]


def _users(build: Build) -> NDArray[np.float32]:
    """Return unit vectors (u, d) like users': means of a few of the base's."""
    rows = np.random.default_rng(_SEED).integers(
        0, build.base.manifest.distinct_vectors, _TIMED_USERS * _PRODUCTS_A_USER
    )
    vectors = build.base.index.vectors(rows).reshape(_TIMED_USERS, _PRODUCTS_A_USER, -1).astype(np.float64)
    means = vectors.mean(axis=1)
    return unit_vectors(np.where(means.any(axis=1, keepdims=True), means, vectors[:, 0]))


def _sampled(rows: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(_SEED).choice(rows, min(rows, _SAMPLED_VECTORS), replace=False))
