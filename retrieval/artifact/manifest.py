"""The manifest of a build: what it was built from, how it is searched, what that finds, and which files it has."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import marshmallow as ma
import orjson

from retrieval.errors import BadArtifact
from retrieval.search.settings import SearchSettings

FORMAT = 1
MANIFEST = "manifest.json"
_MAX_NUMBER = 2**53
_MISSING, _UNKNOWN = "is missing", "is unknown"
_NOT_KEYS = ("_schema", "key", "value")  # levels that marshmallow puts between the keys of a manifest


@dataclass(frozen=True)
class Source:
    """The product file of a build."""

    file: str
    sha256: str


@dataclass(frozen=True)
class SearchFacts:
    """The settings of each side's search."""

    best: SearchSettings
    worst: SearchSettings


@dataclass(frozen=True)
class IndexFacts:
    """The kind of an index, a FAISS factory string; its storage; and how it is searched.

    `worst` is "negated" where the worst side has an index of its own, and "shared" where it searches the best side's.
    """

    factory: str
    storage: str
    worst: Literal["negated", "shared"]
    search: SearchFacts


@dataclass(frozen=True)
class RecallAtK:
    """Mean recall at k over `users`, and the bound that its true value exceeds with 95 % confidence."""

    k: int
    users: int
    mean: float
    lower_bound: float


@dataclass(frozen=True)
class Recall:
    """The measured recall of each side, at ten and at a hundred; `kept` says whether both reach the target at ten."""

    target: float
    kept: bool
    users_from: str
    best: list[RecallAtK]
    worst: list[RecallAtK]


@dataclass(frozen=True)
class FileFacts:
    """Size and checksum of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class GoldenQuery:
    """A unit vector (d,), and the score of each product that the build answered with on each side."""

    vector: list[float]
    best: dict[str, float]
    worst: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All facts about a build. Publishing fills in `build_id`, `created` and `files`."""

    build_id: str = ""
    created: str = ""
    source: Source
    products: int
    distinct_vectors: int
    dimension: int
    dropped_rows: int
    metric: str = "cosine"
    embedding_model: str | None = None
    index: IndexFacts
    recall: Recall
    faiss_version: str
    golden_queries: list[GoldenQuery]
    files: dict[str, FileFacts] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The size of all files together, the manifest itself aside."""
        return sum(file.bytes for file in self.files.values())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest with its format and checksum into the directory of its build."""
    facts = {"format": FORMAT, **_SCHEMA.dump(manifest)}
    facts["checksum"] = _checksum(facts)
    (directory / MANIFEST).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a build; facts that this version does not know are left out.

    Raises BadArtifact, naming the fact, where one is missing or of the wrong type.
    """
    path = directory / MANIFEST
    try:
        facts = orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from error
    except orjson.JSONDecodeError as error:
        raise BadArtifact(f"{path}: not JSON ({error})") from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise BadArtifact(f"{path}: format {found}, this version reads {FORMAT}")
    if facts.get("checksum") != _checksum(facts):
        raise BadArtifact(f"{path}: does not match its own checksum")
    try:
        return _SCHEMA.load(facts)
    except ma.ValidationError as error:
        raise BadArtifact(f"{path}: {_first_fault(error.messages)}") from error


def file_facts(path: Path) -> FileFacts:
    """Measure and hash a file. Raises OSError."""
    with path.open("rb") as file:
        return FileFacts(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_file(path: Path, expected: FileFacts) -> None:
    """Raise BadArtifact where a file is not what the manifest says."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise BadArtifact(f"{path}: has {size} bytes, the manifest says {expected.bytes}")
        if file_facts(path) != expected:
            raise BadArtifact(f"{path}: its SHA-256 is not the one in the manifest")
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from error


def _checksum(facts: dict[str, Any]) -> str:
    """Hash all facts but the checksum, those included that this version does not know."""
    body = {key: value for key, value in facts.items() if key != "checksum"}
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _first_fault(messages: Any, path: tuple[str, ...] = ()) -> str:
    """Return the first of marshmallow's messages, behind the path of the fact at fault."""
    if isinstance(messages, dict):
        key, inner = next(iter(messages.items()))
        return _first_fault(inner, path if key in _NOT_KEYS else (*path, str(key)))
    if isinstance(messages, list):
        return _first_fault(messages[0], path)
    parent = "/".join(path[:-1])
    if messages == _MISSING:
        return f"{parent} has no {path[-1]}".lstrip()
    return f"{parent} has an unknown {path[-1]}" if messages == _UNKNOWN else f"{'/'.join(path)} {messages}"


def _messages(expected: str) -> dict[str, Any]:
    return {"required": _MISSING, **dict.fromkeys(("null", "type", "invalid"), f"is not {expected}")}


def _fact(expected: str, fits: Callable[[Any], bool], required: bool = True) -> ma.fields.Raw:
    """A field that is neither converted nor copied, only checked."""

    def check(value: Any) -> None:
        if not fits(value):
            raise ma.ValidationError(f"is not {expected}")

    messages = _messages(expected)
    return ma.fields.Raw(required=required, allow_none=not required, validate=check, error_messages=messages)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MAX_NUMBER


def _is_bare_name(value: str) -> bool:
    return value not in ("", "..") and value == PurePath(value).name


def _numbers(kind: Any) -> ma.fields.Raw:
    """A field for many numbers. A golden query holds hundreds: a marshmallow field for each would take too long."""

    def fits(values: Any) -> bool:
        if not isinstance(values, kind) or not values:
            return False
        items: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in items:
            if not _is_number(value):
                raise ma.ValidationError({str(key): ["is not a number"]})
        return True

    return _fact(_NOT_EMPTY[kind], fits)


_NOT_EMPTY: dict[Any, str] = {list: "a list that is not empty", dict: "an object that is not empty"}
_SCALARS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a string", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a count", lambda value: type(value) is int and 0 <= value <= _MAX_NUMBER),
    float: ("a number", _is_number),
}


def _field(hint: Any) -> ma.fields.Field:
    """The marshmallow field of a dataclass's field, by its type."""
    if hint in _SCALARS:
        return _fact(*_SCALARS[hint])
    if is_dataclass(hint):
        return ma.fields.Nested(_schema(hint), required=True, error_messages=_messages("an object"))
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return _fact(f"one of {', '.join(inner)}", inner.__contains__)
    if type(None) in inner:
        return _fact(*_SCALARS[inner[0]], required=False)
    if inner[-1] is float:
        return _numbers(kind)
    options: dict[str, Any] = {
        "required": True,
        "validate": ma.validate.Length(min=1, error=f"is not {_NOT_EMPTY[kind]}"),
        "error_messages": _messages(_NOT_EMPTY[kind]),
    }
    if kind is list:
        return ma.fields.Nested(_schema(inner[0]), many=True, **options)
    return ma.fields.Dict(_fact("a file's bare name", _is_bare_name), _field(inner[1]), **options)


def _schema(cls: Any) -> ma.Schema:
    """The marshmallow schema that reads a dataclass from a JSON object, and writes it to one."""
    hints = get_type_hints(cls)

    class FactsSchema(ma.Schema.from_dict({each.name: _field(hints[each.name]) for each in fields(cls)})):  # type: ignore[misc]
        class Meta:
            # A search without a setting that it does not know would find something else.
            unknown = ma.RAISE if cls is SearchSettings else ma.EXCLUDE

        error_messages = {"type": "is not an object", "unknown": _UNKNOWN}  # noqa: RUF012

        @ma.post_load
        def make(self, facts: dict[str, Any], **_: Any) -> Any:
            return cls(**facts)

    return FactsSchema()


_SCHEMA = _schema(Manifest)
