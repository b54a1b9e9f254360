"""Picks products that are relevant and unlike each other: maximal marginal relevance.

Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents, SIGIR 1998.
"""

import numpy as np
from numpy.typing import NDArray


def pick_diverse(
    vectors: NDArray[np.float32], relevance: NDArray[np.float64], k: int, diversity: float
) -> NDArray[np.int64]:
    """Return which k of some products to show, in the order of the picks; of equal ones, the first.

    `vectors` (m, d) are their unit vectors, `relevance` (m,) falls. The first pick is the first product, and each
    further one that with the greatest (1 - diversity) * relevance - diversity * cosine with the nearest of the picks.
    """
    count, weighted = min(k, len(vectors)), ((1 - diversity) * relevance).astype(np.float32)
    picks, value = [0][:count], np.full(len(vectors), np.inf, np.float32)
    while len(picks) < count:
        last = picks[-1]
        # Row by row, unlike a product of matrices, it gives equal vectors equal cosines.
        np.minimum(value, weighted - diversity * np.vecdot(vectors, vectors[last]), out=value)
        value[last] = -np.inf
        picks.append(int(value.argmax()))
    return np.array(picks, np.int64)
