"""The artifact: one directory a build with a manifest, published whole or not at all, and verified before it serves."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from retrieval.artifact import golden
from retrieval.artifact.manifest import check_shape
from retrieval.artifact.products import TABLE_FILES, ProductTable, open_products
from retrieval.artifact.projection import Atlas, open_atlas
from retrieval.artifact.sample_users import open_sample_users
from retrieval.errors import BadArtifact
from retrieval.search.index import ProductIndex, SearchSettings, open_index

FORMAT = 1
CURRENT, MANIFEST = "CURRENT", "manifest.json"
BEST, WORST = "best.faiss", "worst.faiss"
_BUILD_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_DRAFT = ".draft-"


@dataclass(frozen=True)
class Build:
    """An open build: the manifest as published, the index, the products, the map, and users to try it with."""

    manifest: dict[str, Any]
    index: ProductIndex
    products: ProductTable
    atlas: Atlas
    sample_users: list[dict[str, Any]]

    @property
    def id(self) -> str:
        return self.manifest["build_id"]


class Draft:
    """A directory to write a build's files into, which nobody sees before `publish`."""

    def __init__(self, root: Path, directory: Path):
        self._root, self.directory = root, directory

    def publish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Complete the manifest from `facts`, make the build the current one, and return the manifest.

        Everything is on disk before the directory gets its name, and has its name before CURRENT points to it. Raises
        OSError where the disk fails, and nothing is published then.
        """
        files = {path.name: _fingerprint(path) for path in sorted(self.directory.iterdir())}
        now = datetime.now(UTC)
        content = hashlib.sha256(orjson.dumps(files)).hexdigest()[:8]
        build_id = f"{now:%Y%m%dT%H%M%S.%f}Z-{content}"
        manifest = {"format": FORMAT, "build_id": build_id, "created": now.isoformat(), **facts, "files": files}
        manifest["checksum"] = _checksum(manifest)
        (self.directory / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        for path in self.directory.iterdir():
            _fsync(path)
        _fsync(self.directory)
        self.directory.rename(self._root / build_id)
        try:
            _fsync(self._root)
            with _locked(self._root):
                _point_current_to(self._root, build_id)
        except OSError:
            _withdraw(self._root, build_id)
            raise
        return manifest


@contextmanager
def draft(root: Path) -> Iterator[Draft]:
    """A draft in the artifacts root, removed again if it is not published; so is what builders that died left."""
    root.mkdir(parents=True, exist_ok=True)
    directory = root / f"{_DRAFT}{secrets.token_hex(8)}"
    with ExitStack() as at_end:
        with _locked(root):
            _remove_abandoned_drafts(root)
            for pointer in root.glob(f"{CURRENT}.*"):
                pointer.unlink(missing_ok=True)
            at_end.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.mkdir()
            lock = os.open(directory, os.O_RDONLY)
            at_end.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Draft(root, directory)


def open_current(root: Path) -> Build:
    """Verify and open the build that CURRENT names. Raises BadArtifact naming the file at fault."""
    return open_build(root, current_build_id(root))


def open_build(root: Path, build_id: str, verified: bool = False) -> Build:
    """Open a build; its checksums and golden queries are left out where they were `verified` before.

    Raises BadArtifact naming the file at fault.
    """
    directory = root / build_id
    manifest = _read_manifest(directory / MANIFEST)
    if manifest["build_id"] != build_id:
        raise BadArtifact(f"{directory / MANIFEST}: is of build {manifest['build_id']}")
    needed = {*TABLE_FILES, BEST, *([WORST] if manifest["index"]["worst"] == "negated" else [])}
    if unlisted := needed - manifest["files"].keys():
        raise BadArtifact(f"{directory / MANIFEST}: lists no {', '.join(sorted(unlisted))}")
    if not verified:
        for name, expected in manifest["files"].items():
            _verify(directory / name, expected)
    try:
        index, products = open_files(directory, manifest["index"])
        for what, found in (("products", len(products)), ("dimension", index.dimension)):
            if found != manifest[what]:
                raise BadArtifact(f"{MANIFEST}: says {manifest[what]} {what}, the files hold {found}")
        atlas, sample_users = open_atlas(directory), open_sample_users(directory)
        if not verified:
            golden.replay(index, products, manifest["golden_queries"])
    except (BadArtifact, OSError) as error:
        raise BadArtifact(f"{directory}: {error}") from None
    return Build(manifest, index, products, atlas, sample_users)


def roll_back(root: Path) -> str:
    """Verify the build before the current one and make it the current one; returns its id. Raises BadArtifact."""
    current = current_build_id(root)
    older = [build_id for build_id in build_ids(root) if build_id < current]
    if not older:
        raise BadArtifact(f"{root}: has no build older than the current one, {current}")
    open_build(root, older[-1])
    with _locked(root):
        _point_current_to(root, older[-1])
    return older[-1]


def prune(root: Path, keep: int) -> list[str]:
    """Remove builds but the newest `keep`, the current one, and those that somebody holds; returns the ids of the
    removed ones.
    """
    removed = []
    for build_id in build_ids(root)[:-keep]:
        if build_id == current_build_id(root):
            continue
        lock = os.open(root / build_id, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (root / build_id).rename(root / f"{_DRAFT}{build_id}")  # no build any more, even if it is removed half
            removed.append(build_id)
            shutil.rmtree(root / f"{_DRAFT}{build_id}", ignore_errors=True)
        except OSError:
            continue  # somebody holds it, or it is not ours to remove
        finally:
            os.close(lock)
    return removed


@contextmanager
def held(root: Path, build_id: str) -> Iterator[None]:
    """Keep a build from being pruned, by any process on this machine. Raises BadArtifact where there is none."""
    try:
        lock = os.open(root / build_id, os.O_RDONLY)
    except OSError as error:
        raise BadArtifact(f"{root / build_id}: cannot be read ({error})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def build_ids(root: Path) -> list[str]:
    """All builds in the artifacts root, the oldest first."""
    return sorted(path.name for path in root.iterdir() if _BUILD_ID.fullmatch(path.name))


def open_files(directory: Path, index_facts: dict[str, Any]) -> tuple[ProductIndex, ProductTable]:
    """Open the index and the products of a build or draft; `index_facts` is the manifest's `index`.

    Raises BadArtifact where the files do not fit together.
    """
    products = open_products(directory)
    worst = open_index(directory / WORST) if index_facts["worst"] == "negated" else None
    settings = [SearchSettings(**index_facts["search"][side]) for side in ("best", "worst")]
    return ProductIndex(open_index(directory / BEST), worst, products.groups, *settings), products


def current_build_id(root: Path) -> str:
    """The build id in CURRENT. Raises BadArtifact."""
    path = root / CURRENT
    try:
        build_id = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: cannot be read ({error}); `python -m index_builder` publishes a build") from None
    if not _BUILD_ID.fullmatch(build_id):
        raise BadArtifact(f"{path}: holds no build id but {build_id[:60]!r}")
    if not (root / build_id).is_dir():
        raise BadArtifact(f"{path}: names {build_id}, and there is no such build")
    return build_id


def _point_current_to(root: Path, build_id: str) -> None:
    """Replace CURRENT atomically. Raises OSError, and leaves what it named before."""
    before = (root / CURRENT).read_text() if (root / CURRENT).exists() else None
    _replace_current(root, f"{build_id}\n")
    try:
        _fsync(root)
    except OSError:
        if before is None:
            (root / CURRENT).unlink()
        else:
            _replace_current(root, before)
        raise


def _replace_current(root: Path, text: str) -> None:
    pointer = root / f"{CURRENT}.{text.strip()}"
    try:
        pointer.write_text(text)
        _fsync(pointer)
        pointer.replace(root / CURRENT)
    except OSError:
        pointer.unlink(missing_ok=True)
        raise


def _withdraw(root: Path, build_id: str) -> None:
    """Remove a build that did not become the current one."""
    current = root / CURRENT
    if not current.exists() or current.read_text().strip() != build_id:
        shutil.rmtree(root / build_id, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from None
    except orjson.JSONDecodeError as error:
        raise BadArtifact(f"{path}: not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BadArtifact(f"{path}: format {found}, this version reads {FORMAT}")
    if manifest.get("checksum") != _checksum(manifest):
        raise BadArtifact(f"{path}: does not match its own checksum")
    try:
        check_shape(manifest)
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from None
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _verify(path: Path, expected: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise BadArtifact(f"{path}: has {size} bytes, the manifest says {expected['bytes']}")
        if _fingerprint(path) != expected:
            raise BadArtifact(f"{path}: its SHA-256 is not the one in the manifest")
    except OSError as error:
        raise BadArtifact(f"{path}: cannot be read ({error})") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned_drafts(root: Path) -> None:
    for directory in root.glob(f"{_DRAFT}*"):
        try:
            lock = os.open(directory, os.O_RDONLY)
        except FileNotFoundError:
            continue  # just published or given up by its builder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            pass  # its builder is at work
        finally:
            os.close(lock)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
