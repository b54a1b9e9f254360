"""Catalogues that change: updates of a published build, and full builds of the same products."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import UpdateRequest, update
from retrieval.artifact.manifest import Manifest
from tests.support.catalogues import write_lines
from tests.support.changes import ChangedProducts

Row = dict[str, Any]


class ChangingCatalogue(ChangedProducts):
    """An artifacts root, and the products of its current build."""

    def __init__(self, root: Path, rows: list[Row], **options: Any):
        """Build the products; the options are those of a `BuildRequest`."""
        super().__init__(rows)
        self.root = root
        self._numbers = itertools.count()
        self._options = options
        self.full_build(root)

    def full_build(self, root: Path) -> Manifest:
        """Build all products of now."""
        return build(BuildRequest(self._write(self.products), root, **self._options))

    def update(self, changes: list[Row], keep: int = 100) -> Manifest:
        """Publish changes as a delta."""
        self.apply(changes)
        return update(UpdateRequest(self._write(changes), self.root, keep=keep)).manifest

    def _write(self, rows: list[Row]) -> Path:
        return write_lines(self.root.parent / f"{self.root.name} {next(self._numbers)}.jsonl", rows)


def random_rows(draw: np.random.Generator, first: int, count: int, dimension: int) -> list[Row]:
    """Products with names that are not in the order of their ids, and some fields."""
    vectors = draw.normal(size=(count, dimension)).round(4).tolist()
    return [
        {
            "id": f"p{number}",
            "name": f"{'Pizza' if number % 3 else 'pasta'} {7 * number % 11}",
            "vector": vector,
            "price": int(draw.integers(5, 20)),
            "tags": ["vegan", "hot"][: number % 3],
        }
        for number, vector in enumerate(vectors, first)
    ]


def random_changes(draw: np.random.Generator, catalogue: ChangingCatalogue, count: int, dimension: int) -> list[Row]:
    """As many deletions, changes of fields, replaced products and new ones each."""
    chosen = draw.permutation([*catalogue.by_id])[: 3 * count].tolist()
    deleted, changed, replaced = (chosen[i::3] for i in range(3))
    free = 1 + max(int(identifier.removeprefix("p")) for identifier in catalogue.by_id)
    new = random_rows(draw, free, 2 * count, dimension)
    return [
        *({"id": identifier, "delete": True} for identifier in deleted),
        *({"id": identifier, "set": {"price": int(draw.integers(5, 20)), "tags": None}} for identifier in changed),
        *({**row, "id": identifier} for row, identifier in zip(new, replaced, strict=False)),
        *new[count:],
    ]
