"""The artifact: one directory a build with a manifest, published whole or not at all, and verified before it serves."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from index_builder import golden
from index_builder.errors import BadArtifact
from index_builder.index import ProductIndex, SearchSettings, open_index
from index_builder.products import ProductTable, open_products

FORMAT = 1
CURRENT, MANIFEST = "CURRENT", "manifest.json"
BEST, WORST = "best.faiss", "worst.faiss"
_BUILD_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_DRAFT = ".draft-"


@dataclass(frozen=True)
class Build:
    """An open build: the manifest as published, the index and the products."""

    manifest: dict[str, Any]
    index: ProductIndex
    products: ProductTable

    @property
    def id(self) -> str:
        return self.manifest["build_id"]


class Draft:
    """A directory to write a build's files into, which nobody sees before `publish`."""

    def __init__(self, root: Path, directory: Path):
        self._root, self.directory = root, directory

    def publish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Complete the manifest from `facts`, make the build the current one, and return the manifest.

        Everything is on disk before the directory gets its name, and has its name before CURRENT points to it.
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
        _fsync(self._root)
        _point_current_to(self._root, build_id)
        return manifest


@contextmanager
def draft(root: Path) -> Iterator[Draft]:
    """A draft in the artifacts root, removed again if it is not published; so are drafts of builders that died."""
    root.mkdir(parents=True, exist_ok=True)
    directory = root / f"{_DRAFT}{secrets.token_hex(8)}"
    with _locked(root):
        _remove_abandoned_drafts(root)
        directory.mkdir()
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield Draft(root, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def open_current(root: Path) -> Build:
    """Verify and open the build that CURRENT names. Raises BadArtifact naming the file at fault."""
    build_id = _read_current(root)
    directory = root / build_id
    manifest = _read_manifest(directory / MANIFEST)
    if manifest["build_id"] != build_id:
        raise BadArtifact(f"{directory / MANIFEST}: is of build {manifest['build_id']}")
    for name, expected in manifest["files"].items():
        _verify(directory / name, expected)
    try:
        index, products = open_files(directory, manifest["index"])
        for what, found in (("products", len(products)), ("dimension", index.dimension)):
            if found != manifest[what]:
                raise BadArtifact(f"{MANIFEST}: says {manifest[what]} {what}, the files hold {found}")
        golden.replay(index, products, manifest["golden_queries"])
    except BadArtifact as error:
        raise BadArtifact(f"{directory}: {error}") from None
    return Build(manifest, index, products)


def open_files(directory: Path, index_facts: dict[str, Any]) -> tuple[ProductIndex, ProductTable]:
    """Open the index and the products of a build or draft; `index_facts` is the manifest's `index`.

    Raises BadArtifact where the files do not fit together.
    """
    products = open_products(directory)
    worst = open_index(directory / WORST) if index_facts["worst"] == "negated" else None
    settings = [SearchSettings(**index_facts["search"][side]) for side in ("best", "worst")]
    return ProductIndex(open_index(directory / BEST), worst, products.groups, *settings), products


def _read_current(root: Path) -> str:
    path = root / CURRENT
    try:
        build_id = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: cannot be read ({error}); `python -m index_builder` publishes a build") from None
    if not _BUILD_ID.fullmatch(build_id):
        raise BadArtifact(f"{path}: holds no build id but {build_id[:60]!r}")
    return build_id


def _point_current_to(root: Path, build_id: str) -> None:
    pointer = root / f"{CURRENT}.{build_id}"
    pointer.write_text(f"{build_id}\n")
    _fsync(pointer)
    pointer.replace(root / CURRENT)
    _fsync(root)


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
