"""The two builds of a comparison: found by their paths, opened, and their products matched by id."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder.pipelines.changes.combining.rows import merge_rows
from index_builder.report.files import FACTS
from retrieval.artifact.build import Build, PairBuild, open_build
from retrieval.artifact.manifest import MANIFEST
from retrieval.artifact.products import parse_prefixes
from retrieval.artifact.store import CURRENT, current_build_id, pin
from retrieval.errors import BadArtifact, Incomparable
from retrieval.records.console import readable
from retrieval.search.ranking import SIDES

_IDS_AT_ONCE = 10_000
_FIRST_PRODUCTS = 10


@dataclass(frozen=True)
class OpenBuild:
    """A build that is open and pinned, at a path as it was given."""

    path: Path
    root: Path
    build: Build

    @property
    def name(self) -> str:
        return readable(str(self.path))


@dataclass(frozen=True)
class MatchedProducts:
    """The products of two builds by catalogue position.

    `in_a` and `in_b` (m,) are where products are that both have, in the order of A; `lost` are those that only A has,
    and `gained` those that only B has, in catalogue order.
    """

    in_a: NDArray[np.int64]
    in_b: NDArray[np.int64]
    lost: NDArray[np.int64]
    gained: NDArray[np.int64]

    def positions_in_b(self, in_a: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where products of A are in B, in the shape of `in_a`, and -1 for those that are not."""
        places = np.minimum(np.searchsorted(self.in_a, in_a), len(self.in_a) - 1)
        return np.where(self.in_a[places] == in_a, self.in_b[places], -1)


def open_at(path: Path, pins: ExitStack) -> OpenBuild:
    """Verify and open a build by its directory, or by an artifacts root whose current build it is.

    It is not pruned until `pins` are closed. Raises BadArtifact naming the file at fault.
    """
    if (path / MANIFEST).exists():
        directory = path.resolve()
        root, build_id = directory.parent, directory.name
    elif (path / CURRENT).exists():
        root, build_id = path, current_build_id(path)
    else:
        raise BadArtifact(f"{path}: is no build and no artifacts root, as it holds neither {MANIFEST} nor {CURRENT}")
    pins.enter_context(pin(root, build_id))
    return OpenBuild(path, root, open_build(root, build_id))


def match_products(a: OpenBuild, b: OpenBuild) -> MatchedProducts:
    """Match products by id. Raises Incomparable where the builds have none in common, or other dimensions."""
    dimensions = [each.build.manifest.dimension for each in (a, b)]
    if dimensions[0] != dimensions[1]:
        raise Incomparable(f"{b.name}: has {dimensions[1]} dimensions, {a.name} has {dimensions[0]}")
    of_a, of_b = a.build.products.standing(), b.build.products.standing()
    parts = [
        b.build.products.positions(_ids(a.build, of_a[start : start + _IDS_AT_ONCE]))
        for start in range(0, len(of_a), _IDS_AT_ONCE)
    ]
    found = np.concatenate([np.empty(0, np.int64), *parts])
    if not (found >= 0).any():
        raise Incomparable(f"{b.name}: has no product of {a.name}")
    return MatchedProducts(of_a[found >= 0], found[found >= 0], of_a[found < 0], np.setdiff1d(of_b, found))


def describe(opened: OpenBuild) -> dict[str, Any]:
    """Return what a build says of itself, as JSON: its manifest's facts, and the quality of its lists, if measured."""
    manifest = opened.build.manifest
    base = opened.build.base.manifest
    recall = {
        side: [
            {"k": each.k, "mean": each.mean, "lower_bound": each.lower_bound} for each in getattr(manifest.recall, side)
        ]
        for side in SIDES
    }
    return {
        "path": opened.name,
        "build_id": manifest.build_id,
        "created": manifest.created,
        "source": manifest.source.file,
        "base": manifest.delta.base if manifest.delta else None,
        "products": manifest.products,
        "distinct_vectors": _distinct_vectors(opened.build),
        "dropped_rows": manifest.dropped_rows,
        "dimension": manifest.dimension,
        "embedding_model": manifest.embedding_model,
        "index": manifest.index.factory,
        "storage": manifest.index.storage,
        "worst": manifest.index.worst,
        "bytes": manifest.size_bytes + (base.size_bytes if manifest.delta else 0),
        "recall": {"target": manifest.recall.target, "users_from": manifest.recall.users_from, **recall},
        "quality": _quality(opened.root / base.build_id),
    }


def first_products(build: Build, positions: NDArray[np.int64]) -> dict[str, Any]:
    """Return how many products these are, and the first of them by id and name."""
    first = parse_prefixes(build.products.prefixes(positions[:_FIRST_PRODUCTS]))
    return {"count": len(positions), "first": first}


def _distinct_vectors(build: Build) -> int:
    """Count the distinct vectors of a build's products; the manifest of a delta counts what is stored instead."""
    if not isinstance(build, PairBuild):
        return build.manifest.distinct_vectors
    rows = build.rows.of(build.products.standing())
    return merge_rows(rows, build.base.index, build.index.delta).groups.row_count


def _ids(build: Build, positions: NDArray[np.int64]) -> list[str]:
    return [product["id"] for product in parse_prefixes(build.products.prefixes(positions))]


def _quality(directory: Path) -> dict[str, dict[str, float]]:
    """Return the single numbers in each part of the quality in a build's report, of which older builds have none."""
    path = directory / FACTS
    if not path.exists():
        return {}
    measured = orjson.loads(path.read_bytes()).get("quality") or {}
    return {
        part: {name: value for name, value in members.items() if type(value) in (int, float)}
        for part, members in measured.items()
        if isinstance(members, dict)
    }
