"""Vectors on disk: written as a catalogue is read, then read in blocks, so that memory stays small."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 65_536


class VectorFile:
    """A float32 matrix (n, d) in a file of its own."""

    def __init__(self, path: Path):
        self._file: BinaryIO = path.open("w+b")
        self.rows, self.dimension = 0, 0
        self._mapped: NDArray[np.float32] | None = None

    def append(self, block: NDArray[np.float32]) -> None:
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(block).data)
        self._mapped = None
        self.rows += len(block)
        self.dimension = block.shape[1]

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield all rows in order, in blocks of BLOCK_ROWS."""
        return (self._read(start, BLOCK_ROWS) for start in range(0, self.rows, BLOCK_ROWS))

    def sample(self, count: int, seed: int) -> NDArray[np.float32]:
        """Return at most `count` rows, chosen at random."""
        if count >= self.rows:
            return self._read(0, self.rows)
        return self.take(np.random.default_rng(seed).choice(self.rows, count, replace=False))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the given rows (m,) as (m, d)."""
        return self.mapped()[rows]

    def mapped(self) -> NDArray[np.float32]:
        """Return all rows (n, d) as the file has them, read where they are looked at."""
        if self._mapped is None:
            self._file.flush()
            self._mapped = np.asarray(np.memmap(self._file, np.float32, "r", shape=(self.rows, self.dimension)))
        return self._mapped

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int, count: int) -> NDArray[np.float32]:
        count = min(count, self.rows - start)
        self._file.seek(start * self.dimension * 4)
        block = np.empty((count, self.dimension), np.float32)
        self._file.readinto(block.data)  # type: ignore[attr-defined]
        return block
