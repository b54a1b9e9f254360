"""What a filter means, in plain Python over parsed JSON: product by product, without types, indexes or bitmaps."""

import random
from collections.abc import Callable
from typing import Any, ClassVar

Product = dict[str, Any]
_MISSING = object()


def matching(products: list[Product], query: Product) -> list[int]:
    """Return the positions of the products that a valid filter lets through."""
    return [position for position, product in enumerate(products) if holds(product, query)]


def holds(product: Product, query: Product) -> bool:
    return all(_member_holds(product, name, operand) for name, operand in query.items())


def values_of(product: Product, name: str) -> list[Any]:
    """Return the values of a field: none where it is missing, null or an empty list, and each element of a list."""
    value = _look_up(product, name)
    elements = value if isinstance(value, list) else [value]
    return [each for each in elements if each is not None and each is not _MISSING]


def _look_up(node: Any, name: str) -> Any:
    if not isinstance(node, dict):
        return _MISSING
    if name in node:
        return node[name]
    head, dot, tail = name.partition(".")
    return _look_up(node.get(head), tail) if dot else _MISSING


def _member_holds(product: Product, name: str, operand: Any) -> bool:
    if name == "$and":
        return all(holds(product, member) for member in operand)
    if name == "$or":
        return any(holds(product, member) for member in operand)
    if name == "$not":
        return not holds(product, operand)
    values = values_of(product, name)
    operators = operand if isinstance(operand, dict) else {"$eq": operand}
    return all(_operator_holds(values, operator, each) for operator, each in operators.items())


def _operator_holds(values: list[Any], operator: str, operand: Any) -> bool:
    if operator == "$exists":
        return bool(values) is operand
    if operator in ("$ne", "$nin"):
        return not _operator_holds(values, {"$ne": "$eq", "$nin": "$in"}[operator], operand)
    tests: dict[str, Callable[[Any], bool]] = {
        "$eq": lambda value: value == operand,
        "$in": lambda value: value in operand,
        "$gt": lambda value: value > operand,
        "$gte": lambda value: value >= operand,
        "$lt": lambda value: value < operand,
        "$lte": lambda value: value <= operand,
    }
    return any(tests[operator](value) for value in values)


class RandomFilters:
    """Draws products with a field of every type, and filters over them, from one seed.

    Any field of a product may be missing or null, a list may be empty, hold null and repeat itself.
    """

    fields: ClassVar[dict[str, list[Any]]] = {
        "brand": ["acme", "Acme", "åäö", "", "zzz"],
        "price": [-1.5, 0, 0.0, 2, 2.5, 1e300],
        "stock": [True, False],
        "tags": ["vegan", "hot", "new"],
        "sizes": [1, 2, 2**53, 2**53 + 1],
        "shop.city": ["Roma", "Oslo"],
    }
    lists = ("tags", "sizes")

    def __init__(self, seed: int):
        self._draw = random.Random(seed)

    def products(self, count: int) -> list[Product]:
        return [self._product() for _ in range(count)]

    def filter(self, depth: int = 3) -> Product:
        members: Product = {}
        for _ in range(self._draw.choice([0, 1, 1, 2, 3])):
            kind = self._draw.choice(["field", "field", "$and", "$or", "$not"]) if depth else "field"
            if kind == "field":
                members[self._draw.choice([*self.fields])] = None
            elif kind == "$not":
                members[kind] = self.filter(depth - 1)
            else:
                members[kind] = [self.filter(depth - 1) for _ in range(self._draw.choice([1, 2, 3]))]
        return {name: self._condition(name) if name in self.fields else member for name, member in members.items()}

    def _product(self) -> Product:
        product: Product = {}
        for name, values in self.fields.items():
            presence = self._draw.random()
            if presence < 0.2:
                continue
            value: Any = None if presence < 0.3 else self._draw.choice(values)
            if name in self.lists and presence >= 0.3:
                value = self._draw.choices([*values, None], k=self._draw.choice([0, 1, 2, 4]))
            head, _, tail = name.partition(".")
            product[head] = {tail: value} if tail else value
        return product

    def _condition(self, name: str) -> Any:
        if self._draw.random() < 0.3:
            return self._operand(name)
        allowed = ["$eq", "$ne", "$in", "$nin", "$exists"]
        if name in ("price", "sizes"):
            allowed += ["$gt", "$gte", "$lt", "$lte"]
        chosen = self._draw.sample(allowed, self._draw.choice([1, 1, 2]))
        return {operator: self._operand_of(operator, name) for operator in chosen}

    def _operand_of(self, operator: str, name: str) -> Any:
        if operator == "$exists":
            return self._draw.random() < 0.5
        if operator in ("$in", "$nin"):
            return [self._operand(name) for _ in range(self._draw.choice([1, 2, 3]))]
        return self._operand(name)

    def _operand(self, name: str) -> Any:
        """Return a value that some product may have, or one that none has."""
        values = self.fields[name]
        other = {str: "no such text", bool: True}.get(type(values[0]), 1.75)
        return self._draw.choice([*values, other])
