"""Matrix factorisation of who liked what, where a few products are liked by many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOPICS, _TOPICS_OF_A_USER = 200, 3
_MEAN_LIKES = 40
_POPULAR_SHARE = 0.15  # of a user's likes are what everyone likes
_MAX_TRAINING_USERS = 100_000

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Likes:
    """Pairs of a user and a product, both by number."""

    users: NDArray[np.int64]
    products: NDArray[np.int64]


def factors(products: int, users: int, dimension: int, draw: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Factorise the likes of some users, and fold in those of others, as a recommender does for new users."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

    training = min(products, _MAX_TRAINING_USERS)
    likes = draw_likes(products, training, users, draw)
    ones = np.ones(len(likes.users), np.float32)
    matrix = csr_matrix((ones, (likes.users, likes.products)), shape=(training + users, products))
    matrix.data[:] = np.log1p(matrix.data)
    reduction = TruncatedSVD(dimension, n_iter=4, random_state=int(draw.integers(2**31)))
    reduction.fit(matrix[:training])
    roots = np.sqrt(reduction.singular_values_)
    folded_in = reduction.transform(matrix[training:]) / roots
    return (reduction.components_.T * roots).astype(np.float32), folded_in.astype(np.float32)


def draw_likes(products: int, training: int, others: int, draw: np.random.Generator) -> Likes:
    """Draw what training users like, and others after them: products of a few topics, the popular ones more often.

    Some training user likes each product, whose vector would be zero otherwise.
    """
    users = training + others
    popularity = draw.permutation(np.arange(1, products + 1) ** -0.8)
    topic_of = draw.integers(0, _TOPICS, products)
    counts = 5 + draw.geometric(1 / (_MEAN_LIKES - 5), users)
    user = np.repeat(np.arange(users), counts)
    tastes = draw.integers(0, _TOPICS, (users, _TOPICS_OF_A_USER))
    topic = tastes[user, draw.integers(0, _TOPICS_OF_A_USER, len(user))]
    liked = _by_topic(popularity, topic_of, topic, draw)
    popular = draw.random(len(user)) < _POPULAR_SHARE
    liked[popular] = draw.choice(products, int(popular.sum()), p=popularity / popularity.sum())
    return Likes(
        np.concatenate([user, draw.integers(0, training, products)]),
        np.concatenate([liked, np.arange(products)]),
    )


def _by_topic(
    popularity: NDArray[np.float64], topic_of: NDArray[np.int64], topics: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a product of each topic (m,) by popularity; where a topic has none, the nearest one of those that have."""
    order = np.argsort(topic_of, kind="stable")
    reached = np.cumsum(popularity[order])
    ends = np.searchsorted(topic_of[order], np.arange(_TOPICS + 1))
    levels = np.concatenate([[0.0], reached])[ends]
    at = levels[topics] + draw.random(len(topics)) * (levels[topics + 1] - levels[topics])
    return order[np.minimum(np.searchsorted(reached, at, side="right"), len(order) - 1)]
