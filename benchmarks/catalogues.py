"""Catalogues and users of any size that look like the sample's: mixtures of its averaged word vectors."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DATA = Path(__file__).parent.parent / "data"
_BLOCK_ROWS = 65_536
_QUERIES = 5000

Rows = list[dict[str, Any]]


def sample_products() -> Rows:
    with gzip.open(_DATA / "products.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]


def sample_users() -> Rows:
    return json.loads((_DATA / "users_batch.json").read_text())


def vectors_of(rows: Rows) -> NDArray[np.float32]:
    return np.array([row["vector"] for row in rows], np.float32)


def mixtures(rows: Rows, count: int, seed: int) -> NDArray[np.float32]:
    """Vectors (count, d) near those of rows: each a vector with a third of two others' deviations from the mean.

    The weights 0.9, 0.3, 0.3 have squares that add up to 0.99, so the mixtures vary as much as the originals, in the
    same directions, and keep their clusters.
    """
    draw, vectors = np.random.default_rng(seed), vectors_of(rows)
    mean = vectors.mean(axis=0)
    deviations = vectors - mean
    mixed = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, _BLOCK_ROWS):
        block = mixed[start : start + _BLOCK_ROWS]
        near, one, other = draw.integers(0, len(vectors), (3, len(block)))
        signs = draw.choice(np.array([-0.3, 0.3], np.float32), (2, len(block), 1))
        block[:] = mean + np.float32(0.9) * deviations[near] + signs[0] * deviations[one] + signs[1] * deviations[other]
    return mixed


def draw_users(count: int, seed: int) -> NDArray[np.float32]:
    return mixtures(sample_users(), count, seed)


@contextmanager
def sources(products: int, parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary directory with so many `products.npz`, and `queries.npz` to tune their index with."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        directory = Path(name)
        ids = np.array([f"p{i}" for i in range(products)])
        np.savez(directory / "products.npz", ids=ids, names=ids, vectors=mixtures(sample_products(), products, seed=1))
        write_queries(directory)
        yield directory


def write_queries(directory: Path) -> Path:
    """Write the users that indexes are tuned with; return the file."""
    names, path = np.array([f"u{i}" for i in range(_QUERIES)]), directory / "queries.npz"
    np.savez(path, names=names, vectors=draw_users(_QUERIES, seed=2))
    return path
