"""What is compared: what a contestant is, and in which environment and module each one is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.integer]

PROJECT, RIVALS = ".venv", ".venv-bench"
# By name; a contestant's environment, its module, and what makes it there of the directory with the files.
CONTESTANTS = {
    "flat": (PROJECT, "benchmarks.index.project", "flat"),
    "numpy": (PROJECT, "benchmarks.index.project", "one_pass"),
    "exact": (PROJECT, "benchmarks.index.project", "exact_build"),
    "choice": (PROJECT, "benchmarks.index.project", "chosen_build"),
    "compact": (PROJECT, "benchmarks.index.project", "compact_build"),
    "hnsw": (PROJECT, "benchmarks.index.project", "graph"),
    "usearch": (RIVALS, "benchmarks.index.rivals", "graph"),
    "scann": (RIVALS, "benchmarks.index.rivals", "hashes"),
    "scann-tree": (RIVALS, "benchmarks.index.rivals", "tree"),
}
BASELINE, EXACT, CHOICE = "flat", "exact", "choice"
RIVAL_NAMES = ("hnsw", "usearch", "scann", "scann-tree")  # These are engines, to be tuned.


class Contestant(Protocol):
    """A way to search a catalogue."""

    @property
    def label(self) -> str: ...

    @property
    def settings(self) -> str: ...

    @property
    def size_bytes(self) -> int:
        """The bytes that searches read."""

    @property
    def reaches(self) -> bool:
        """Whether it is exact, or reached the recall wanted on the users that it was tuned with."""

    @property
    def ks(self) -> Sequence[int]:
        """The numbers of products that its recall is worth measuring at."""

    def search(self, user: Vectors, k: int) -> tuple[Rows, Rows]:
        """Return the rows (1, k) of the k best and of the k worst products of a unit vector (1, d); -1 is none."""


class Engine(Protocol):
    """An index that finds the products of highest inner product, with settings of each search's own."""

    @property
    def label(self) -> str: ...

    @property
    def ladders(self) -> Sequence[Sequence[Any]]:
        """Ladders of settings of rising effort."""

    def find(self, queries: Vectors, k: int, settings: Any) -> Rows:
        """Return the rows (u, k) that score highest with each query (u, d)."""

    def save(self, directory: Path) -> int:
        """Write what the index needs to search into a directory, and return further bytes that it reads."""


@dataclass(frozen=True)
class Facts:
    """What is known of a contestant before it is timed; recalls are on held-out users, by k and side."""

    label: str
    settings: str
    reaches: bool
    build_seconds: float
    peak_bytes: int
    size_bytes: int
    recall: dict[str, dict[str, float]]
