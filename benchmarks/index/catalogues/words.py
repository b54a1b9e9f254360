"""Means of word vectors, as averaged embeddings of names and descriptions are: a theme's words, strays and noise."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.index.catalogues.packages import word_vectors
from retrieval.vectors import unit_vectors

_THEMES, _WORDS_OF_A_THEME, _MAX_WORDS = 2_000, 60, 6
_STRAY_SHARE = 0.5  # of products have a word that has nothing to do with their theme
_NOISE = 0.2  # against the length of a mean
_BLOCK_ROWS = 65_536

Vectors = NDArray[np.float32]


def words(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Draw products that are means of English words, and users that are means of what a few such products say."""
    vocabulary = word_vectors()
    if dimension != vocabulary.shape[1]:
        raise ValueError(f"the words have {vocabulary.shape[1]} dimensions, not {dimension}")
    return means_of_words(unit_vectors(vocabulary[vocabulary.any(axis=1)]), products, users, draw)


def means_of_words(
    vocabulary: Vectors, products: int, users: int, draw: np.random.Generator
) -> tuple[Vectors, Vectors]:
    """Return products (n, d) and users (u, d) over unit vectors (v, d) of words.

    A theme is a word with those nearest to it. A user's words are those of three products, of one theme or two.
    """
    themes = _nearest_words(vocabulary, draw.permutation(len(vocabulary))[:_THEMES])
    theme_of = draw.integers(0, len(themes), products)
    vectors = np.empty((products, vocabulary.shape[1]), np.float32)
    for start in range(0, products, _BLOCK_ROWS):
        vectors[start : start + _BLOCK_ROWS] = _products(
            vocabulary, themes, theme_of[start : start + _BLOCK_ROWS], draw
        )
    first, second = draw.integers(0, len(themes), (2, users))
    liked = [_products(vocabulary, themes, theme, draw) for theme in (first, first, second)]
    return vectors, np.mean(liked, axis=0)


def _products(
    vocabulary: Vectors, themes: NDArray[np.int64], theme_of: NDArray[np.int64], draw: np.random.Generator
) -> Vectors:
    """Return a product's vector for each theme: the mean of two to six of its words, perhaps a stray, and noise."""
    count, dimension = len(theme_of), vocabulary.shape[1]
    picked = themes[theme_of[:, np.newaxis], draw.integers(0, themes.shape[1], (count, _MAX_WORDS))]
    weights = (np.arange(_MAX_WORDS) < draw.integers(2, _MAX_WORDS + 1, (count, 1))).astype(np.float32)
    total = np.einsum("nw,nwd->nd", weights, vocabulary[picked])
    strays = (draw.random((count, 1)) < _STRAY_SHARE).astype(np.float32)
    total += strays * vocabulary[draw.integers(0, len(vocabulary), count)]
    means = total / (weights.sum(axis=1, keepdims=True) + strays)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    noise = draw.standard_normal((count, dimension), np.float32)
    return means + np.float32(_NOISE / dimension**0.5) * lengths * noise


def _nearest_words(vocabulary: Vectors, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each chosen word the row numbers (t, w) of the words nearest to it, itself among them."""
    count = min(_WORDS_OF_A_THEME, len(vocabulary))
    return np.argpartition(-(vocabulary[chosen] @ vocabulary.T), count - 1, axis=1)[:, :count]
