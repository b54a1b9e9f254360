"""Catalogues and users of any size that look like the sample's: mixtures of its averaged word vectors."""

import gzip
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent.parent / "data"
_BLOCK_ROWS = 65_536


def sample_products() -> NDArray[np.float32]:
    with gzip.open(DATA / "products.jsonl.gz") as lines:
        return np.array([json.loads(line)["vector"] for line in lines], np.float32)


def sample_users() -> NDArray[np.float32]:
    users = json.loads((DATA / "users_batch.json").read_text())
    return np.array([user["vector"] for user in users], np.float32)


def mixtures(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Vectors (count, d) near the given ones: each a vector with a third of two others' deviations from the mean.

    The weights 0.9, 0.3, 0.3 have squares that add up to 0.99, so the mixtures vary as much as the originals, in the
    same directions, and keep their clusters.
    """
    draw = np.random.default_rng(seed)
    mean = vectors.mean(axis=0)
    deviations = vectors - mean
    mixed = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, count - start)
        near, one, other = draw.integers(0, len(vectors), (3, rows))
        signs = draw.choice(np.array([-0.3, 0.3], np.float32), (2, rows, 1))
        mixed[start : start + rows] = (
            mean + np.float32(0.9) * deviations[near] + signs[0] * deviations[one] + signs[1] * deviations[other]
        )
    return mixed


def write_catalogue(path: Path, count: int) -> None:
    """An NPZ catalogue of `count` products."""
    identifiers = np.array([f"p{i}" for i in range(count)])
    np.savez(path, ids=identifiers, names=identifiers, vectors=mixtures(sample_products(), count, seed=1))


def write_users(path: Path, count: int, seed: int) -> None:
    """An NPZ file of `count` users."""
    np.savez(path, names=np.array([f"u{i}" for i in range(count)]), vectors=mixtures(sample_users(), count, seed))
