"""What a build serves, byte for byte."""

import numpy as np

from retrieval.artifact.build import Build
from service.recommender import Recommender
from tests.support.engines import engine_of
from tests.support.matches import answers_to, user_row
from tests.support.published import DIMENSION, PRODUCTS

_USERS = np.random.default_rng(9).normal(size=(6, DIMENSION))
_DEPTHS = (10, PRODUCTS)


def answers_of(build: Build) -> list[bytes]:
    """Both sides of some users' answers, for ten matches and for the whole catalogue, and of each user alone."""
    recommender = Recommender(engine_of(build))
    users = [user_row("user", vector, k) for vector in _USERS for k in _DEPTHS]
    return [*answers_to(recommender, users), *(answers_to(recommender, [user])[0] for user in users)]
