"""The shape of a manifest: the facts that opening and serving a build need, and the type of each."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from retrieval.errors import BadArtifact
from retrieval.search.index import SearchSettings
from retrieval.search.ranking import SIDES

_LARGEST = 2**53
_Check = Callable[[Any, str], None]


def check_shape(manifest: dict[str, Any]) -> None:
    """Raise BadArtifact, naming the fact, where one is missing or of the wrong type; further facts are welcome."""
    _MANIFEST(manifest, "")


def _object(shape: dict[str, _Check], exact: bool = False) -> _Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict), where, "an object")
        for key, check_fact in shape.items():
            if key not in value:
                raise BadArtifact(f"{where} has no {key}".lstrip())
            check_fact(value[key], f"{where}/{key}".lstrip("/"))
        if exact and value.keys() != shape.keys():
            raise BadArtifact(f"{where} has an unknown {', '.join(sorted(value.keys() - shape.keys()))}")

    return check


def _each_value(check_value: _Check, check_key: _Check) -> _Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, dict) and bool(value), where, "an object that is not empty")
        for key, fact in value.items():
            check_key(key, where)
            check_value(fact, f"{where}/{key}")

    return check


def _list(check_item: _Check) -> _Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, list) and bool(value), where, "a list that is not empty")
        for i, item in enumerate(value):
            check_item(item, f"{where}/{i}")

    return check


def _one_of(*values: str) -> _Check:
    def check(value: Any, where: str) -> None:
        _expect(isinstance(value, str) and value in values, where, f"one of {', '.join(values)}")

    return check


def _text(value: Any, where: str) -> None:
    _expect(isinstance(value, str), where, "a string")


def _flag(value: Any, where: str) -> None:
    _expect(isinstance(value, bool), where, "true or false")


def _count(value: Any, where: str) -> None:
    _expect(type(value) is int and 0 <= value <= _LARGEST, where, "a count")


def _number(value: Any, where: str) -> None:
    _expect(type(value) in (int, float) and abs(value) <= _LARGEST, where, "a number")


def _file_name(value: str, where: str) -> None:
    _expect(value not in ("", "..") and value == PurePath(value).name, f"{where}/{value}", "a file's bare name")


def _expect(fits: bool, where: str, what: str) -> None:
    if not fits:
        raise BadArtifact(f"{where} is not {what}")


_SETTINGS = _object(
    {field.name: _number if field.type in (float, "float") else _count for field in fields(SearchSettings)}, exact=True
)
_RECALL = _list(_object({"k": _count, "users": _count, "mean": _number, "lower_bound": _number}))
_ANSWER = _each_value(_number, _text)
_MANIFEST = _object(
    {
        "build_id": _text,
        "created": _text,
        "source": _object({"file": _text, "sha256": _text}),
        "products": _count,
        "distinct_vectors": _count,
        "dimension": _count,
        "dropped_rows": _count,
        "metric": _text,
        "faiss_version": _text,
        "index": _object(
            {
                "factory": _text,
                "storage": _text,
                "worst": _one_of("negated", "shared"),
                "search": _object(dict.fromkeys(SIDES, _SETTINGS)),
            }
        ),
        "recall": _object({"target": _number, "kept": _flag, "users_from": _text, **dict.fromkeys(SIDES, _RECALL)}),
        "files": _each_value(_object({"bytes": _count, "sha256": _text}), _file_name),
        "golden_queries": _list(_object({"vector": _list(_number), **dict.fromkeys(SIDES, _ANSWER)})),
    }
)
