"""How much of a vector the codes of an index hold."""

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval.search.kinds import candidate_index, scanned_index


def coding_error(index: faiss.Index, units: NDArray[np.float32]) -> float | None:
    """Return the mean squared distance of unit vectors (n, d) from what a compressed index would hold of them.

    None for an index without product-quantised codes.
    """
    scanned = scanned_index(index)
    if not hasattr(scanned, "pq"):
        return None
    index = faiss.downcast_index(candidate_index(index))
    held = units
    if isinstance(index, faiss.IndexPreTransform):
        for i in range(index.chain.size()):
            held = faiss.downcast_VectorTransform(index.chain.at(i)).apply(held)
    # What a turn onto fewer directions leaves out is missing from the length.
    left_out = 1 - np.square(held).sum(axis=1)
    coded = held
    if isinstance(scanned, faiss.IndexIVF) and scanned.by_residual:
        _, lists = scanned.quantizer.search(held, 1)
        coded = held - scanned.quantizer.reconstruct_batch(lists[:, 0])
    lost = coded - scanned.pq.decode(scanned.pq.compute_codes(coded))
    return float((left_out + np.square(lost).sum(axis=1)).mean())
