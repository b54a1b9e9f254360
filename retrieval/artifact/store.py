"""The artifacts root: one directory a build, published whole or not at all, and verified before it serves."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from retrieval.artifact import golden
from retrieval.artifact.durable import AT_ONCE, EXCLUSIVE, SHARED, fsync, locked, replace_text
from retrieval.artifact.fields import FIELD_FILES, open_filters
from retrieval.artifact.manifest import (
    MANIFEST,
    Manifest,
    check_contents,
    check_size,
    file_facts,
    read_manifest,
    write_manifest,
)
from retrieval.artifact.products import TABLE_FILES, ProductTable, open_products
from retrieval.artifact.projection import Projection, open_projection
from retrieval.artifact.sample_users import open_sample_users
from retrieval.errors import BadArtifact
from retrieval.search.files import open_index
from retrieval.search.filters.masks import FilterIndex
from retrieval.search.index import ProductIndex
from retrieval.search.stored_vectors import NegatedVectors, StoredVectors

CURRENT, HISTORY = "CURRENT", "HISTORY"
BEST, WORST = "best.faiss", "worst.faiss"
_BUILD_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_DRAFT = ".draft-"


@dataclass(frozen=True)
class Build:
    """An open build: the manifest as published, what searches, filters and shows its products, and users to try it."""

    manifest: Manifest
    index: ProductIndex
    products: ProductTable
    filters: FilterIndex
    projection: Projection
    sample_users: list[dict[str, Any]]

    @property
    def id(self) -> str:
        return self.manifest.build_id


@contextmanager
def draft(root: Path) -> Iterator[Path]:
    """Make a directory for a build's files, which nobody sees before `publish`, removed again if it is not published.

    What builders that died have left is removed too.
    """
    root.mkdir(parents=True, exist_ok=True)
    directory = root / f"{_DRAFT}{secrets.token_hex(8)}"
    with ExitStack() as at_end:
        with locked(root):
            _remove_abandoned_drafts(root)
            for scratch in (*root.glob(f"{CURRENT}.*"), *root.glob(f"{HISTORY}.*")):
                scratch.unlink(missing_ok=True)
            at_end.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.mkdir()
            at_end.enter_context(locked(directory))
        yield directory


def publish(root: Path, directory: Path, manifest: Manifest) -> Manifest:
    """Complete the manifest of a draft, make it the current build, and return the complete manifest.

    Everything is on disk before the directory gets its name, and has its name before CURRENT points to it. Raises
    OSError where the disk fails, and nothing is published then.
    """
    files = {path.name: file_facts(path) for path in sorted(directory.iterdir())}
    now = datetime.now(UTC)
    content = hashlib.sha256(orjson.dumps(files)).hexdigest()[:8]
    build_id = f"{now:%Y%m%dT%H%M%S.%f}Z-{content}"
    manifest = replace(manifest, build_id=build_id, created=now.isoformat(), files=files)
    write_manifest(directory, manifest)
    for path in directory.iterdir():
        fsync(path)
    fsync(directory)
    directory.rename(root / build_id)
    try:
        fsync(root)
        with locked(root):
            _make_current(root, [*_history(root), build_id])
    except OSError:
        if _text_of(root / CURRENT).strip() != build_id:
            shutil.rmtree(root / build_id, ignore_errors=True)
        raise
    return manifest


def open_current(root: Path) -> Build:
    """Verify and open the build that CURRENT names. Raises BadArtifact naming the file at fault."""
    return open_build(root, current_build_id(root))


def open_build(root: Path, build_id: str, verified: bool = False) -> Build:
    """Open a build; its checksums and golden queries are left out where they were `verified` before.

    Raises BadArtifact naming the file at fault.
    """
    directory = root / build_id
    manifest = read_manifest(directory)
    _check_names(directory, manifest)
    # All sizes come first: they cost nothing, and a file that is too short would end the process that maps it.
    names = [name for name in manifest.files if not verified or name in (*TABLE_FILES, *FIELD_FILES, BEST, WORST)]
    for check in (check_size,) if verified else (check_size, check_contents):
        for name in names:
            check(directory / name, manifest.files[name])
    try:
        products = open_products(directory)
        filters = open_filters(directory, manifest.filterable, products)
        index = _open_index(directory / BEST, manifest, products)
        for subject, count, found in (
            ("products", manifest.products, len(products)),
            ("dimension", manifest.dimension, index.dimension),
            *(("numbers in a golden query", len(query.vector), index.dimension) for query in manifest.golden_queries),
        ):
            if found != count:
                raise BadArtifact(f"{MANIFEST}: says {count} {subject}, the files hold {found}")
        projection, sample_users = open_projection(directory), open_sample_users(directory)
        if not verified:
            golden.replay(manifest.golden_queries, index.search, products.prefixes, "{side}.faiss")
            _check_negated(directory, manifest, products, index)
    except (BadArtifact, OSError) as error:
        raise BadArtifact(f"{directory}: {error}") from error
    return Build(manifest, index, products, filters, projection, sample_users)


def roll_back(root: Path) -> str:
    """Verify the build that was current before the current one, make it the current one, and return its id.

    Raises BadArtifact.
    """
    current = current_build_id(root)
    with locked(root):
        older = _history(root)[:-1]
        if not older:
            raise BadArtifact(f"{root}: has no build older than the current one, {current}")
        with pin(root, older[-1]):
            open_build(root, older[-1])
            _make_current(root, older)
    return older[-1]


def prune(root: Path, keep: int) -> list[str]:
    """Remove builds but the newest `keep`, the last `keep` that were current, and pinned ones.

    Returns the ids of the removed ones.
    """
    removed: list[str] = []
    old = build_ids(root)[:-keep]
    kept = _history(root)[-keep:] if old else []
    for build_id in old:
        if build_id in kept:
            continue
        try:
            with locked(root / build_id, EXCLUSIVE | AT_ONCE):
                (root / build_id).rename(
                    root / f"{_DRAFT}{build_id}"
                )  # It is no build any more, even if it is removed half.
                removed.append(build_id)
                shutil.rmtree(root / f"{_DRAFT}{build_id}", ignore_errors=True)
        except OSError:
            continue  # It is pinned, or belongs to somebody else.
    return removed


def pin(root: Path, build_id: str) -> ExitStack:
    """Keep a build from being pruned, by any process on this machine. Raises BadArtifact where there is none."""
    pinned = ExitStack()
    try:
        pinned.enter_context(locked(root / build_id, SHARED))
    except OSError as error:
        raise BadArtifact(f"{root / build_id}: cannot be read ({error})") from error
    return pinned


def build_ids(root: Path) -> list[str]:
    """Return the ids of all builds in the artifacts root, the oldest first."""
    return sorted(path.name for path in root.iterdir() if _BUILD_ID.fullmatch(path.name))


def current_build_id(root: Path) -> str:
    """Return the build id in CURRENT. Raises BadArtifact, also where there is no such build."""
    build_id = named_build_id(root)
    if not (root / build_id).is_dir():
        raise BadArtifact(f"{root / CURRENT}: names {build_id}, and there is no such build")
    return build_id


def named_build_id(root: Path) -> str:
    """Return the build id in CURRENT, whose files may not have arrived yet. Raises BadArtifact."""
    path = root / CURRENT
    try:
        build_id = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: cannot be read ({error}); `python -m index_builder` publishes a build") from error
    if not _BUILD_ID.fullmatch(build_id):
        raise BadArtifact(f"{path}: holds no build id but {build_id[:60]!r}")
    return build_id


def _open_index(
    path: Path, manifest: Manifest, products: ProductTable, vectors: StoredVectors | None = None
) -> ProductIndex:
    index, facts = open_index(path), manifest.index
    try:
        return ProductIndex(index, products.groups, facts.search, vectors, facts.filtered, facts.uneven)
    except BadArtifact as error:
        raise BadArtifact(f"{path.name}: {error}") from error


def _check_negated(directory: Path, manifest: Manifest, products: ProductTable, index: ProductIndex) -> None:
    """Raise BadArtifact where the negated index does not answer the negated query as `index` does the query.

    Nothing searches it after that: `index` answers both sides, in less time and memory.
    """
    if manifest.index.worst == "shared":
        return
    negated = _open_index(directory / WORST, manifest, products, NegatedVectors(index.stored_vectors))
    golden.replay(manifest.golden_queries, lambda units, k: negated.search(-units, k), products.prefixes, WORST)


def _check_names(directory: Path, manifest: Manifest) -> None:
    """Raise BadArtifact where a manifest is that of another build, or does not list all files of one."""
    if manifest.build_id != directory.name:
        raise BadArtifact(f"{directory / MANIFEST}: is of build {manifest.build_id}")
    needed = {*TABLE_FILES, BEST, *([WORST] if manifest.index.worst == "negated" else [])}
    needed.update(FIELD_FILES if manifest.filterable else ())
    if unlisted := needed - manifest.files.keys():
        raise BadArtifact(f"{directory / MANIFEST}: lists no {', '.join(sorted(unlisted))}")


def _history(root: Path) -> list[str]:
    """Return the builds to go back to, the last to be current at the end, and the current one behind them.

    What was current after the current build was withdrawn. A root without a history had only publishes.
    """
    current = _text_of(root / CURRENT).strip()
    if not current:
        return []
    present = build_ids(root)
    if not (root / HISTORY).exists():
        return [*(build_id for build_id in present if build_id < current), current]
    recorded = _text_of(root / HISTORY).split()
    if current in recorded:
        recorded = recorded[: recorded.index(current)]
    return [*(build_id for build_id in recorded if build_id in present), current]


def _make_current(root: Path, history: list[str]) -> None:
    """Record what has been current, and then replace CURRENT, each atomically.

    A history that is recorded before its build is current reads as the one before, so a crash between the two does no
    harm. Raises OSError, and leaves both as they were.
    """
    texts = {root / HISTORY: "".join(f"{build_id}\n" for build_id in history), root / CURRENT: f"{history[-1]}\n"}
    before = {path: _text_of(path) for path in texts}
    try:
        for path, text in texts.items():
            replace_text(path, text)
            fsync(root)
    except OSError:
        for path, text in before.items():
            if text:
                replace_text(path, text)
            else:
                path.unlink(missing_ok=True)
        raise


def _text_of(path: Path) -> str:
    """Return what a file holds: nothing where there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _remove_abandoned_drafts(root: Path) -> None:
    for directory in root.glob(f"{_DRAFT}*"):
        try:
            with locked(directory, EXCLUSIVE | AT_ONCE):
                shutil.rmtree(directory, ignore_errors=True)
        except (FileNotFoundError, BlockingIOError):
            continue  # Its builder has just published or dropped it, or is at work on it.
