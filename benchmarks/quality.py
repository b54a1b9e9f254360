"""Do the results make sense? How often a sample user's matches are of a cuisine that the user's likes come from."""

import numpy as np

from benchmarks.catalogues import sample_products, sample_users
from benchmarks.report import print_machine

MATCHES = 10


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
    print(f"{'random products':<18} {loved.mean():.3f}")


if __name__ == "__main__":
    main()
