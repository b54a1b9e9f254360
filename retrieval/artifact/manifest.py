"""The manifest of a build: what it was built from, how it is searched, what that finds, and which files it has."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import marshmallow as ma
import orjson

from retrieval.artifact.quality import Quality
from retrieval.artifact.schema import first_fault, schema_of
from retrieval.errors import BadArtifact
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.settings import FilteredSettings, SideSettings

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    file: str
    sha256: str


@dataclass(frozen=True)
class IndexFacts:
    """The kind of an index, as `--index` takes it; its storage; and how it is searched.

    `worst` is "negated" where the worst side has an index of its own, and "shared" where it searches the best side's.
    `filtered` are the settings of searches under a filter, by rising share, where the plain ones do not do; `uneven`
    are those where the products that match are in some lists rather than in others.
    """

    factory: str
    storage: str
    worst: Literal["negated", "shared"]
    search: SideSettings
    filtered: list[FilteredSettings] = field(default_factory=list)
    uneven: list[FilteredSettings] = field(default_factory=list)


@dataclass(frozen=True)
class RecallAtK:
    """Mean recall at k over `users`, and the bound that its true value exceeds with 95 % confidence."""

    k: int
    users: int
    mean: float
    lower_bound: float


@dataclass(frozen=True)
class FilteredRecall:
    """The recall at ten of each side under filters that let a `share` of the products through.

    These are "random" ones, or near to what each user likes ("liked") or does not ("disliked"). `path` is how they were
    searched (`ProductIndex.path`).
    """

    products: str
    share: float
    path: str
    best: RecallAtK
    worst: RecallAtK


@dataclass(frozen=True)
class Recall:
    """The measured recall of each side, at ten and at a hundred; `kept` says whether all reach the target.

    `filtered` is the recall under filters, which a build without fields to filter by does not have.
    """

    target: float
    kept: bool
    users_from: str
    best: list[RecallAtK]
    worst: list[RecallAtK]
    filtered: list[FilteredRecall] = field(default_factory=list)


@dataclass(frozen=True)
class FileFacts:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class GoldenQuery:
    """A unit vector (d,), and the score of each product that the build answered with on each side."""

    vector: list[float]
    best: dict[str, float]
    worst: dict[str, float]


@dataclass(frozen=True)
class DeltaFacts:
    """The build that a delta is on, by its id and its manifest's checksum, and how many of its products changed.

    `replaced` ones have another vector, `changed` ones other fields alone.
    """

    base: str
    base_checksum: str
    added: int
    replaced: int
    changed: int
    deleted: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All facts about a build. Publishing fills in `build_id`, `created`, `files` and their `checksum`.

    `source` is the file of products, or that of changes which a delta was published from; `merged` is the last file of
    changes in a build that a merge has made.
    `chosen_fields` are those that alone are to be filterable, None where all that can be are.
    Where there is a `delta`, they are of the base and the delta together, but for `files`, which are the delta's alone;
    recall, quality, settings and map are those of the base, and `distinct_vectors` counts what both store, vectors that
    no product has any more and those that are in both included.
    """

    build_id: str = ""
    created: str = ""
    source: Source
    merged: Source | None = None
    products: int
    distinct_vectors: int
    dimension: int
    dropped_rows: int
    metric: str = "cosine"
    embedding_model: str | None = None
    filterable: list[FieldFacts] = field(default_factory=list)
    chosen_fields: list[str] | None = None
    index: IndexFacts
    recall: Recall
    quality: Quality | None = None
    faiss_version: str
    golden_queries: list[GoldenQuery]
    delta: DeltaFacts | None = None
    files: dict[str, FileFacts] = field(default_factory=dict)
    checksum: str = ""

    @property
    def base_id(self) -> str | None:
        """The id of the build that this is a delta on, if it is one."""
        return self.delta.base if self.delta else None

    @property
    def size_bytes(self) -> int:
        """The size of all files but the manifest."""
        return sum(file.bytes for file in self.files.values())


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write a manifest with its format and checksum into the directory of its build, and return it with that."""
    facts = {"format": FORMAT, **_SCHEMA.dump(manifest)}
    facts["checksum"] = _checksum(facts)
    (directory / MANIFEST).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    return replace(manifest, checksum=facts["checksum"])


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a build; facts that this version does not know are left out.

    Raises BadArtifact, naming the fact, where one is missing or of the wrong type.
    """
    path = directory / MANIFEST
    facts = _read_facts(path)
    try:
        return _SCHEMA.load(facts)
    except ma.ValidationError as error:
        raise BadArtifact(f"{path}: {first_fault(error.messages)}") from error


def file_facts(path: Path) -> FileFacts:
    """Measure and hash a file. Raises OSError."""
    with path.open("rb") as file:
        return FileFacts(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_size(path: Path, expected: FileFacts) -> None:
    """Raise BadArtifact where a file is missing or of another size than the manifest says."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from error
    if size != expected.bytes:
        raise BadArtifact(f"{path}: has {size} bytes, the manifest says {expected.bytes}")


def check_contents(path: Path, expected: FileFacts) -> None:
    """Raise BadArtifact where a file holds something else than the manifest says."""
    try:
        if file_facts(path) != expected:
            raise BadArtifact(f"{path}: its SHA-256 is not the one in the manifest")
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from error


def _read_facts(path: Path) -> dict[str, Any]:
    """Return all facts in a manifest of this format that matches its checksum. Raises BadArtifact."""
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
    return facts


def _checksum(facts: dict[str, Any]) -> str:
    """Hash all facts but the checksum, those included that this version does not know."""
    body = {key: value for key, value in facts.items() if key != "checksum"}
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


_SCHEMA = schema_of(Manifest)
