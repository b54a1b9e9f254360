"""What is searched for: the products that a filter lets through for each user, as masks and as SQL has them.

A category is the products nearest to one of some; a user's liked one is nearest to the user, and the disliked one
farthest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.index.contestants import Vectors
from index_builder.tuning.recall import recall_at_k
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.filters.masks import Mask, MaskMaker
from retrieval.search.filters.postings import pack
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES, SIGNS

K, USERS, CATEGORIES = 10, 100, 32
SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
_SEED = 6


@dataclass(frozen=True)
class Case:
    """A mask for each user, or none for all; `conditions` say in SQL what they hold. Users share masks."""

    label: str
    masks: list[Mask] | list[None]
    conditions: list[str]


@dataclass(frozen=True)
class Fields:
    """What the products (n,) are filtered by: a number of their own, in random order, and a category."""

    number: NDArray[np.int64]
    category: NDArray[np.int64]


def draw_fields(units: Vectors) -> Fields:
    draw = np.random.default_rng(_SEED)
    centres = units[draw.choice(len(units), CATEGORIES, replace=False)]
    return Fields(draw.permutation(len(units)), (units @ centres.T).argmax(axis=1))


def cases_of(maker: MaskMaker, fields: Fields, units: Vectors, users: Vectors) -> list[Case]:
    """Return no filter at all, and then filters of all shares and of categories."""
    cases = [Case("no filter", [None] * USERS, ["true"] * USERS)]
    for share in SHARES:
        count = max(1, round(share * len(units)))
        mask = maker.mask_of(pack(fields.number < count))
        cases.append(Case(f"random {share:.2%}", [mask] * USERS, [f"number < {count}"] * USERS))
    masks = [maker.mask_of(pack(fields.category == number)) for number in range(CATEGORIES)]
    means = np.stack([units[fields.category == number].mean(axis=0) for number in range(CATEGORIES)])
    order = (users @ means.T).argsort(axis=1)
    for label, chosen in (("a disliked category", order[:, 0]), ("a liked category", order[:, -1])):
        cases.append(Case(label, [masks[each] for each in chosen], [f"category = {each}" for each in chosen]))
    return cases


def kth_scores(case: Case, scores: Vectors) -> Vectors:
    """Return each user's exact k-th score (2, u) of each side, of all users' scores (u, n), those of worst negated."""
    kth = np.empty((len(SIDES), USERS), np.float32)
    for user, mask in enumerate(case.masks):
        among = scores[user] if mask is None else scores[user, mask.positions()]
        k = min(K, len(among))
        among = np.partition(among, (k - 1, len(among) - k))
        kth[:, user] = among[-k], -among[k - 1]
    return kth


def recall_of(index: ProductIndex, users: Vectors, scores: Vectors, case: Case) -> list[RecallAtK]:
    """Return the recall of each side."""
    found = np.full((len(SIDES), USERS, K), np.inf)
    for user, mask in enumerate(case.masks):
        for side, neighbours in enumerate(index.search(users[user : user + 1], K, mask)):
            positions = neighbours.positions[0]
            found[side, user, : len(positions)] = SIGNS[SIDES[side]] * scores[user, positions]
    kth = kth_scores(case, scores)
    return [recall_at_k(of_side, kth[side][:, np.newaxis], K, K) for side, of_side in enumerate(found)]
