"""Compares two builds: what has come and gone, and how the lists of the same users differ."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.compare.builds import (
    MatchedProducts,
    OpenBuild,
    describe,
    first_products,
    match_products,
    open_at,
)
from index_builder.pipelines.compare.lists import compare_lists
from index_builder.tuning.users import SYNTHETIC, read_users, synthetic_users
from retrieval.artifact.build import Build
from retrieval.records.console import readable

_MAX_USERS, _SEED = 1000, 7


@dataclass(frozen=True)
class CompareRequest:
    """Two builds, each by its directory or by an artifacts root with the current one, and users to compare them for."""

    a: Path
    b: Path
    queries: Path | None = None


@dataclass(frozen=True)
class _SharedVectors:
    """The vectors that a build has for products at these positions."""

    build: Build
    positions: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.positions)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.build.vectors(self.positions[rows])


def compare(request: CompareRequest) -> dict[str, Any]:
    """Return how two builds differ, as JSON; the same for the same builds and users.

    Raises a RetrievalError naming what is wrong: a damaged build, a file of users that does not fit, or two builds of
    other dimensions or without common products. Another embedding model is a warning in it.
    """
    with ExitStack() as pins:
        a, b = open_at(request.a, pins), open_at(request.b, pins)
        products = match_products(a, b)
        users, users_facts = _users(request.queries, a, products)
        return {
            "a": describe(a),
            "b": describe(b),
            "warnings": _warnings(a, b),
            "products": {
                "common": len(products.in_a),
                "gained": first_products(b.build, products.gained),
                "lost": first_products(a.build, products.lost),
            },
            "fields": _changed_fields(a.build, b.build),
            "users": users_facts,
            **compare_lists(a.build, b.build, products, users),
        }


def _users(path: Path | None, a: OpenBuild, products: MatchedProducts) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return unit vectors (u, d) of users, and where they are from, as JSON.

    Without a file, they are made of products that both builds have, as A has them. Of a large file, some are drawn.
    """
    if path is None:
        users = synthetic_users(_SharedVectors(a.build, products.in_a), _MAX_USERS, _SEED)
        return users, {"count": len(users), "available": len(users), "from": SYNTHETIC, "synthetic": True}
    users = read_users(path, a.build.manifest.dimension)
    available = len(users)
    if available > _MAX_USERS:
        users = users[np.sort(np.random.default_rng(_SEED).choice(available, _MAX_USERS, replace=False))]
    return users, {"count": len(users), "available": available, "from": readable(path.name), "synthetic": False}


def _warnings(a: OpenBuild, b: OpenBuild) -> list[str]:
    labels = [each.build.manifest.embedding_model for each in (a, b)]
    if labels[0] == labels[1]:
        return []
    said = (f"{each.name} has {label or 'no label'}" for each, label in zip((a, b), labels, strict=True))
    return [f"embedding models differ: {', '.join(said)}; users fit the vectors of one model alone"]


def _changed_fields(a: Build, b: Build) -> dict[str, Any]:
    """Return the fields to filter by that only one of the builds has, or that both have with other types."""
    of_a, of_b = ({field.name: field.type for field in each.manifest.filterable} for each in (a, b))
    return {
        "gained": _only_in(of_b, of_a),
        "lost": _only_in(of_a, of_b),
        "changed": [
            {"name": name, "a": of_a[name], "b": of_b[name]}
            for name in of_a
            if of_b.get(name, of_a[name]) != of_a[name]
        ],
    }


def _only_in(fields: Mapping[str, str], others: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in fields.items() if name not in others]
