"""What a collection in Milvus knows of its products: made of a build, and read back by the engine."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.build import Build
from retrieval.errors import BadArtifact
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import Vocabulary
from service.engines.milvus_cluster import ABOUT, MAX_FIELD_COLUMNS, MAX_VARCHAR_BYTES, POSITION, Cluster, Column
from service.engines.milvus_columns import FieldColumns, columns_of, reason_not_kept

_NO_ROOM = f"a collection of Milvus has room for {MAX_FIELD_COLUMNS} columns of fields"
_NO_TYPE = "this Milvus has no columns of its type"


@dataclass(frozen=True)
class CollectionFields:
    """The filterable fields of a build, and the columns of those by which Milvus filters too.

    `left_out` is why it does not filter by the others, and `unshown` why it shows no fields, if it does not.
    `embedding_model` is the label of the build. The rest is that of a `Vocabulary`.
    """

    facts: Mapping[str, FieldFacts]
    columns: Mapping[str, FieldColumns]
    left_out: Mapping[str, str]
    unshown: str
    reasons: Mapping[str, str]
    names: frozenset[str]
    embedding_model: str | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.facts, self.reasons, self.names, self.left_out, self.unshown, diversifies=False)

    @property
    def schema(self) -> list[Column]:
        return [column for columns in self.columns.values() for column in columns.schema]

    @property
    def row_of_none(self) -> dict[str, Any]:
        """What the columns hold of a product without any field."""
        return {name: value for columns in self.columns.values() for name, value in columns.row(None).items()}

    def without(self, left_out: Mapping[str, str]) -> "CollectionFields":
        """Return the same without the columns of some fields, and why."""
        columns = {name: columns for name, columns in self.columns.items() if name not in left_out}
        return replace(self, columns=columns, left_out={**self.left_out, **left_out})

    def without_types(self, refused: "set[tuple[str, bool]]") -> "CollectionFields":
        """Return the same without the fields of these types, which are lists or not."""
        return self.without(
            {name: _NO_TYPE for name, each in self.columns.items() if (each.type, each.is_list) in refused}
        )

    def to_json(self) -> str:
        """Return all of it as text, in ASCII so that it can be cut anywhere."""
        return json.dumps({**asdict(self), "names": sorted(self.names)})

    @staticmethod
    def from_json(text: str) -> "CollectionFields":
        """Return what `to_json` gave."""
        found = json.loads(text)
        found["facts"] = {name: FieldFacts(**facts) for name, facts in found["facts"].items()}
        found["columns"] = {name: FieldColumns(**columns) for name, columns in found["columns"].items()}
        return CollectionFields(**{**found, "names": frozenset(found["names"])})


def read_fields(cluster: Cluster, collection: str) -> CollectionFields:
    """Return the fields of a loaded collection. Raises EngineUnavailable, or BadArtifact where it tells none."""
    columns = cluster.call("describe_collection", collection)["fields"]
    if ABOUT not in [column["name"] for column in columns]:
        raise BadArtifact(f"{collection}: an older version has published it; publish a new build")
    rows = cluster.call("query", collection, filter=f'{ABOUT} != ""', output_fields=[POSITION, ABOUT])
    return CollectionFields.from_json("".join(row[ABOUT] for row in sorted(rows, key=lambda row: int(row[POSITION]))))


def fields_of_build(build: Build) -> CollectionFields:
    """Return the fields of a build, of which those are left out that Milvus does not keep or has no room for."""
    filters, facts = build.filters, build.filters.vocabulary.filterable
    columns, left_out, room = {}, {}, MAX_FIELD_COLUMNS
    for number, (name, each) in enumerate(facts.items()):
        listed = filters.values(name, _are_all_listed, "", limit=sys.maxsize).values
        values = [counted.value for counted in listed]
        candidate = columns_of(number, each, values)
        needed = len(candidate.schema)
        if reason := reason_not_kept(candidate, values) or (_NO_ROOM if needed > room else ""):
            left_out[name] = reason
        else:
            columns[name], room = candidate, room - needed
    unshown = _unshown(build)
    names = frozenset[str]() if unshown else frozenset(filters.vocabulary.names)
    model, reasons = build.manifest.embedding_model, filters.vocabulary.reasons
    return CollectionFields(facts, columns, left_out, unshown, reasons, names, model)


def _are_all_listed(positions: NDArray[np.integer]) -> NDArray[np.bool_]:
    return np.ones(len(positions), np.bool_)


def _unshown(build: Build) -> str:
    sizes = build.products.sizes_behind_prefix(build.products.standing())
    number = int(sizes.argmax())
    if sizes[number] <= MAX_VARCHAR_BYTES:
        return ""
    return f"the fields of product {number + 1} take {sizes[number]} bytes, Milvus keeps {MAX_VARCHAR_BYTES}"
