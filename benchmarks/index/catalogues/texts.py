"""Short texts by latent semantic analysis: TF-IDF, and the directions in which it varies most."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.index.catalogues.packages import definitions

Vectors = NDArray[np.float32]


def texts(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Take definitions of words as products, and others as users. Raises ValueError where there are too few.

    A text without a word that three others have is left out, and so is a user without a word that a product has: it
    would have no direction.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus = definitions()
    counts = TfidfVectorizer(min_df=4, sublinear_tf=True, stop_words="english", dtype=np.float32)
    terms = counts.fit_transform(corpus)
    usable = draw.permutation(np.flatnonzero(np.diff(terms.indptr)))
    catalogue, rest = terms[usable[:products]], terms[usable[products:]]
    others = rest[rest @ (catalogue.getnnz(axis=0) > 0) > 0][:users]
    if others.shape[0] < users:
        raise ValueError(f"{len(usable):,} texts are too few for {products:,} products and {users:,} users")
    reduction = TruncatedSVD(dimension, n_iter=2, random_state=int(draw.integers(2**31)))
    return reduction.fit_transform(catalogue), reduction.transform(others)
