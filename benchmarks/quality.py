"""Do the results make sense? How often a sample user's matches are of a cuisine that the user's likes come from.

And what would change if products near to many users ranked lower (CSLS, Conneau et al., Word translation without
parallel data, 2018): by the cosine less half the mean of a product's ten best cosines with users, here half of these.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogues import sample_products, sample_users
from benchmarks.report import print_header, print_machine, print_row
from retrieval.search.ranking import SIGNS

MATCHES, NEIGHBOURS = 10, 10

Matrix = NDArray[np.float64]  # users (rows), products (columns)


def main() -> None:
    products, users = sample_products(), sample_users()
    product_vectors, user_vectors = (np.array([row["vector"] for row in rows]) for rows in (products, users))
    norms = np.linalg.norm(product_vectors, axis=1)
    inner = user_vectors @ product_vectors.T
    cosine = inner / norms / np.linalg.norm(user_vectors, axis=1, keepdims=True)
    cuisines = np.array([product["cuisine"] for product in products])
    loved = np.array([np.isin(cuisines, user["cuisines"]) for user in users])  # of a user (row), products (columns)

    print_machine()
    print(f"{len(products)} products, {len(users)} users, {MATCHES} matches a side")
    print(f"product norms {norms.min():.1f} to {norms.max():.1f}, median {np.median(norms):.1f}\n")
    print(f"cosine of a user and a product: median {np.median(cosine):.2f}")
    for label, scores in (("cosine similarity", cosine), ("raw inner product", inner)):
        order = np.argsort(scores, axis=1)
        best, worst = order[:, -MATCHES:], order[:, :MATCHES]
        best_share, worst_share = (np.take_along_axis(loved, side, axis=1).mean() for side in (best, worst))
        most_frequent = np.bincount(best.ravel()).max() / len(users)
        print(f"{label:<18} best {best_share:.3f}, worst {worst_share:.4f}", end="")
        print(f", the most frequent product is in the best list of {most_frequent:.0%} of users")
    print(f"{'random products':<18} {loved.mean():.3f}\n")
    report_hubs(cosine, loved)


def report_hubs(cosine: Matrix, loved: NDArray[np.bool_]) -> None:
    """Print how evenly the second half of the users' lists are spread over the products, with and without CSLS."""
    known, asked = np.array_split(cosine, 2)
    print(f"{len(asked)} users, {MATCHES} matches a side; CSLS by {len(known)} others\n")
    print_header("side", "ranked by", "most frequent product, share of lists", "Gini", "of a liked cuisine")
    for side, sign in SIGNS.items():
        nearness = np.sort(sign * known, axis=0)[-NEIGHBOURS:].mean(axis=0)
        for label, scores in (("cosine", sign * asked), ("CSLS", sign * asked - nearness / 2)):
            lists = np.argsort(-scores, axis=1, kind="stable")[:, :MATCHES]
            times = np.bincount(lists.ravel(), minlength=cosine.shape[1])
            hits = np.take_along_axis(loved[len(known) :], lists, axis=1).mean()
            print_row(side, label, f"{times.max() / len(asked):.1%}", f"{gini(times):.3f}", f"{hits:.4f}")


def gini(counts: NDArray[np.integer]) -> float:
    """Return 0 where all counts are equal, and nearly 1 where one has them all."""
    ordered = np.sort(counts)
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


if __name__ == "__main__":
    main()
