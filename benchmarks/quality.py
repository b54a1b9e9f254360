"""Do the results make sense? How often a sample user's matches are of a cuisine that the user's likes come from."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine

DATA = Path(__file__).parent.parent / "data"
MATCHES = 10


@dataclass(frozen=True)
class Shares:
    """Mean share, over users, of ten matches a side whose cuisine is among those of the user's likes."""

    best: float
    worst: float


def main() -> None:
    with gzip.open(DATA / "products.jsonl.gz") as lines:
        products = [json.loads(line) for line in lines]
    users = json.loads((DATA / "users_batch.json").read_text())
    product_vectors, user_vectors = (np.array([row["vector"] for row in rows]) for rows in (products, users))
    norms = np.linalg.norm(product_vectors, axis=1)
    inner = user_vectors @ product_vectors.T
    cosine = inner / norms / np.linalg.norm(user_vectors, axis=1, keepdims=True)

    print(f"machine: {machine()}")
    print(f"{len(products)} products, {len(users)} users, {MATCHES} matches a side")
    print(f"product norms {norms.min():.1f} to {norms.max():.1f}, median {np.median(norms):.1f}\n")
    print(f"cosine of a user and a product: median {np.median(cosine):.2f}")
    for label, scores in (("cosine similarity", cosine), ("raw inner product", inner)):
        shares = cuisine_shares(scores, products, users)
        print(f"{label:<18} best {shares.best:.3f}, worst {shares.worst:.4f}", end="")
        print(f", the most frequent product is in the best list of {top_matches(scores):.0%} of users")
    print(f"{'random products':<18} {random_share(products, users):.3f}")


def cuisine_shares(scores: NDArray, products: list[dict[str, Any]], users: list[dict[str, Any]]) -> Shares:
    """The shares when each user's (u, n) scores pick the matches."""
    order = np.argsort(scores, axis=1)
    cuisines = np.array([product["cuisine"] for product in products])

    def share(columns: NDArray) -> float:
        return float(
            np.mean([np.isin(cuisines[row], user["cuisines"]) for row, user in zip(columns, users, strict=True)])
        )

    return Shares(best=share(order[:, -MATCHES:]), worst=share(order[:, :MATCHES]))


def random_share(products: list[dict[str, Any]], users: list[dict[str, Any]]) -> float:
    cuisines = np.array([product["cuisine"] for product in products])
    return float(np.mean([np.isin(cuisines, user["cuisines"]).mean() for user in users]))


def top_matches(scores: NDArray) -> float:
    """In how many users' best lists the most frequent product stands."""
    best = np.argsort(scores, axis=1)[:, -MATCHES:]
    return float(np.bincount(best.ravel()).max() / len(scores))


if __name__ == "__main__":
    main()
