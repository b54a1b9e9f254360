"""What another engine takes over from an open build: its products, and the answers to hold it to."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from retrieval.artifact import golden
from retrieval.artifact.store import Build

ProductBlock = tuple[int, list[bytes], NDArray[np.float32]]


def product_blocks(build: Build, most: int) -> Iterator[ProductBlock]:
    """All products in catalogue order, at most `most` at a time: the first one's catalogue position, their open JSON
    (`ProductTable.prefixes`) and their unit vectors (n, d). Shows how far it has come.
    """
    row_of_product = build.products.groups.row_of(np.arange(len(build.products)))
    starts = range(0, len(row_of_product), most)
    for start in tqdm(starts, desc="products", disable=None, leave=False):
        rows = row_of_product[start : start + most]
        yield start, build.products.prefixes(np.arange(start, start + len(rows))), build.index.vectors(rows)


def check_golden(build: Build, what: str, search: golden.Search) -> None:
    """Replay the golden queries in another engine.

    Raises BadArtifact naming `what` was searched where the answers are not those recorded.
    """
    golden.check(build.manifest.golden_queries, search, f"{what}, {{side}} side")
