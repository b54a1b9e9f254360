"""Schemas that read dataclasses of facts from JSON objects, and write them, by the types of their fields."""

from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import marshmallow as ma

from retrieval.search.settings import SearchSettings

_MAX_NUMBER = 2**53
_NOT_KEYS = ("_schema", "key", "value")  # Marshmallow puts these levels between the keys.


def schema_of(cls: Any) -> ma.Schema:
    """Return the marshmallow schema of a dataclass.

    A field whose default is None or an empty list may be missing, as builds that have no such facts, and those of
    earlier versions, do not say anything of them. A text may be null instead.
    """
    hints = get_type_hints(cls)
    unsaid = {each.name: _default_of(each) for each in fields(cls) if hints[each.name] != str | None}
    unsaid = {name: default for name, default in unsaid.items() if default in (None, [])}
    members = {name: _field(hint, name in unsaid) for name, hint in hints.items()}

    class FactsSchema(ma.Schema.from_dict(members)):  # type: ignore[misc]
        @ma.post_load
        def make(self, facts: dict[str, Any], **_: Any) -> Any:
            return cls(**facts)

        @ma.post_dump
        def leave_out_unsaid(self, facts: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {name: value for name, value in facts.items() if name not in unsaid or value != unsaid[name]}

    # A search without a setting that it does not know would find something else.
    return FactsSchema(unknown=ma.RAISE if cls is SearchSettings else ma.EXCLUDE)


def first_fault(messages: Any) -> str:
    """Return the first of marshmallow's messages, behind the path of the fact at fault."""
    path: list[str] = []
    while isinstance(messages, dict):
        key, messages = next(iter(messages.items()))
        path += [] if key in _NOT_KEYS else [str(key)]
    if messages[0] == ma.fields.Field.default_error_messages["required"]:
        return f"{'/'.join(path[:-1])} has no {path[-1]}".lstrip()
    return f"{'/'.join(path)}: {messages[0]}"


def _default_of(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _field(hint: Any, may_be_missing: bool = False) -> ma.fields.Field:
    """Return the marshmallow field for a field of a dataclass, by its type."""
    kind, inner = get_origin(hint), get_args(hint)
    if may_be_missing and type(None) in inner:
        return _field(inner[0], may_be_missing=True)
    if is_dataclass(hint):
        return ma.fields.Nested(schema_of(hint), required=not may_be_missing)
    if hint in (list[float], dict[str, float]):
        return ma.fields.Raw(required=True, validate=partial(_check_numbers, kind))
    if hint == list[str]:
        return ma.fields.List(_field(str))
    if kind is list:
        count = ma.validate.Length(min=0 if may_be_missing else 1)
        return ma.fields.Nested(schema_of(inner[0]), many=True, required=not may_be_missing, validate=count)
    if kind is dict:
        return ma.fields.Dict(ma.fields.String(validate=_check_bare_name), _field(inner[1]), required=True)
    if kind is Literal:
        return ma.fields.Raw(required=True, validate=ma.validate.OneOf(inner))
    types = (float, int) if hint is float else inner or (hint,)
    return ma.fields.Raw(
        required=hint != str | None, allow_none=type(None) in types, validate=partial(_check_type, types)
    )


def _check_type(types: tuple[type, ...], value: Any) -> None:
    """Take no text for a number and no number for a truth, as marshmallow's own fields do."""
    if type(value) not in types:
        raise ma.ValidationError(f"Not a valid {types[0].__name__}.")


def _check_numbers(kind: Any, values: Any) -> None:
    """Check many numbers at once: a marshmallow field for each of a golden query's would take too long."""
    if type(values) is not kind or not values:
        raise ma.ValidationError(f"Not a {kind.__name__} of numbers.")
    for key, value in values.items() if kind is dict else enumerate(values):
        if type(value) not in (float, int) or abs(value) > _MAX_NUMBER:
            raise ma.ValidationError(f"Not a valid number at {key}.")


def _check_bare_name(name: str) -> None:
    if name in ("", "..") or name != PurePath(name).name:
        raise ma.ValidationError("Not a file's bare name.")
