"""Facts about the lists that a build shows: how many products they reach, how alike they are, and how they score."""

from dataclasses import dataclass

MIN_NEAR_COSINE = 0.999  # From here on two products are near-duplicates.


@dataclass(frozen=True)
class SideQuality:
    """What the lists of k matches of some users are like on one side.

    `coverage` is the share of all products that are in any list; `gini` is how unevenly products are listed, from 0 for
    all alike to 1 for one alone; `hubness` is the skewness of how often a product is listed; `largest_share` is the
    share of lists that hold the product listed most; `ild`, the intra-list distance, is the mean of 1 - cosine over the
    pairs of a list. `first_scores` and `last_scores` are quantiles, at equal steps from the lowest to the highest, of
    the scores of each user's first match and of their last one.
    """

    coverage: float
    gini: float
    hubness: float
    largest_share: float
    ild: float
    first_scores: list[float]
    last_scores: list[float]


@dataclass(frozen=True)
class NearDuplicates:
    """How many `pairs` of `sampled` distinct vectors have a cosine of at least MIN_NEAR_COSINE, and `vectors` one."""

    sampled: int
    vectors: int
    pairs: int


@dataclass(frozen=True)
class Quality:
    """What lists of `k` matches were like for so many `users`, whom nothing was chosen with while there were some.

    Where they are `synthetic`, made from the catalogue, those who ask later score otherwise.
    """

    k: int
    users: int
    users_from: str
    synthetic: bool
    best: SideQuality
    worst: SideQuality
    near_duplicates: NearDuplicates
