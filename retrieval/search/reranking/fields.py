"""Picks fields of a product as its catalogue gave them."""

from collections.abc import Sequence
from typing import Any

ALL_FIELDS = "*"


def pick_fields(product: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of these names, "*" for all but id and name, that a product has; null is none.

    A name with dots leads into objects, unless it is a key itself.
    """
    further = {name: value for name, value in product.items() if name not in ("id", "name")}
    found = further if ALL_FIELDS in names else {name: _look_up(further, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _look_up(node: Any, name: str) -> Any:
    """Return the value at a dotted name; keys may have dots themselves."""
    if not isinstance(node, dict):
        return None
    if name in node:
        return node[name]
    steps = name.split(".")
    heads = [".".join(steps[:length]) for length in range(1, len(steps))]
    found = (_look_up(node[head], name[len(head) + 1 :]) for head in heads if head in node)
    return next((value for value in found if value is not None), None)
