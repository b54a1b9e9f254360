"""The members of a row that make a product or a user, whatever a file calls them."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

ROLES = ("id", "name", "vector")
READABLE = "JSON lines, a JSON array, CSV, TSV, NPZ, NPY or Parquet, which may be gzipped, or a directory of such files"
INSTEAD = "JSON lines, CSV, Parquet and NPZ can be read"
_USUAL_NAMES = {
    "id": ("sku", "uuid", "key", "product_id", "item_id", "ids", "asin"),
    "name": ("title", "label", "product_name", "names", "product"),
    "vector": ("embedding", "embeddings", "vec", "emb", "vectors", "features", "embedding_vector", "values"),
}
_MIN_LIKENESS = 0.8


def take_roles(row: dict[str, Any], source_of: Mapping[str, str]) -> dict[str, Any]:
    """Return a row in which the members named in `source_of` go by their roles, in the place of any so named."""
    taken = {role: row[source] for role, source in source_of.items() if source in row}
    further = {name: value for name, value in row.items() if name not in source_of.values() and name not in source_of}
    return {**taken, **further}


def hint(role: str, names: Collection[str]) -> str:
    """Return how to say which of these names has a role, where one of them probably does; or else nothing."""
    if role in names:
        return ""
    usual = _USUAL_NAMES[role]
    found = next((name for name in names if name.lower() in usual), None)
    near = [found] if found else difflib.get_close_matches(role, names, 1, _MIN_LIKENESS)
    return f"; if it is {near[0]!r}, say --columns {role}={near[0]}" if near else ""
