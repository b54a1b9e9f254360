"""Writes the files of a catalogue: what the builder reads, and what all contestants are measured with.

python -m benchmarks.index.sources KIND[:DIMENSION] PRODUCTS DIRECTORY
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.index.catalogues.kinds import make
from benchmarks.index.recall import KS, kth_scores
from retrieval.search.ranking import SIDES, SIGNS
from retrieval.vectors import unit_vectors

PRODUCTS, QUERIES = "products.npz", "queries.npz"
_UNITS, _EXACT = "unit_vectors.npy", "exact.npz"
_BUILDER_USERS, _HELD_OUT_USERS = 5000, 1000
_TUNING_USERS = 1000
_SEED = 1
_BLOCK_ROWS = 65_536

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Users:
    """Unit vectors (u, d) of users, and each side's k-th scores (u, number of KS), those of the worst side negated."""

    vectors: Vectors
    kth_scores: dict[str, Vectors]


def write_sources(name: str, products: int, directory: Path, seed: int = _SEED) -> None:
    """Write a catalogue of a kind; the builder gets other users than those that recall is reported with."""
    vectors, users = make(name, products, _BUILDER_USERS + _HELD_OUT_USERS, seed)
    for file, kind, rows in ((PRODUCTS, "p", vectors), (QUERIES, "u", users[:_BUILDER_USERS])):
        names = np.array([f"{kind}{i}" for i in range(len(rows))])
        np.savez(directory / file, ids=names, names=names, vectors=rows)
    for start in range(0, products, _BLOCK_ROWS):
        vectors[start : start + _BLOCK_ROWS] = unit_vectors(vectors[start : start + _BLOCK_ROWS])
    np.save(directory / _UNITS, vectors)
    measured = {"tuning": unit_vectors(users[:_TUNING_USERS]), "held_out": unit_vectors(users[_BUILDER_USERS:])}
    exact = {
        f"{group}_{side}": kth_scores(vectors, np.float32(sign) * queries, KS)
        for group, queries in measured.items()
        for side, sign in SIGNS.items()
    }
    np.savez(directory / _EXACT, **measured, **exact)  # type: ignore[arg-type]


def read_users(directory: Path, group: str) -> Users:
    """Return the users of a group: "tuning", which the builder has, too, or "held_out", which nothing is tuned with."""
    with np.load(directory / _EXACT) as arrays:
        return Users(arrays[group], {side: arrays[f"{group}_{side}"] for side in SIDES})


def read_products(directory: Path) -> Vectors:
    """Return the unit vectors (n, d) of all products, mapped."""
    return np.load(directory / _UNITS, mmap_mode="r")


if __name__ == "__main__":
    write_sources(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
