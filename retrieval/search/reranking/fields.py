"""Picks fields of a product as its catalogue gave them."""

from collections.abc import Sequence
from typing import Any

ALL_FIELDS = "*"
_NO_FIELDS = ("id", "name")


def pick_fields(product: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of these names, "*" for all but id and name, that a product has; null is none.

    A name with dots leads into objects, unless it is a key itself.
    """
    if ALL_FIELDS in names:
        return {name: value for name, value in product.items() if value is not None and name not in _NO_FIELDS}
    found = {}
    for name in names:
        value = product[name] if name in product else _look_up(product, name)
        if value is not None and name not in _NO_FIELDS:
            found[name] = value
    return found


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
