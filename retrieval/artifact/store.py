"""The artifacts root: one directory a build, published whole or not at all, and verified before it serves."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from retrieval.artifact.build import Build, base_of, open_build, read_checked_manifest
from retrieval.artifact.durable import AT_ONCE, EXCLUSIVE, SHARED, fsync, locked, replace_text
from retrieval.artifact.manifest import Manifest, file_facts, write_manifest
from retrieval.errors import BadArtifact

CURRENT, HISTORY = "CURRENT", "HISTORY"
_BUILD_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S.%fZ"
_DRAFT, _UPDATING = ".draft-", ".updating"


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


@contextmanager
def updating(root: Path) -> Iterator[Manifest]:
    """Wait until no other process changes the current build, and yield its manifest; it is not pruned meanwhile.

    Raises BadArtifact where there is none, and OSError.
    """
    current_build_id(root)  # A root that is none says so, rather than this file.
    (root / _UPDATING).touch()
    with locked(root / _UPDATING):
        manifest = read_checked_manifest(root / current_build_id(root))
        with pin(root, manifest.build_id, manifest):
            yield manifest


def publish(root: Path, directory: Path, manifest: Manifest, instead_of: str | None = None) -> Manifest:
    """Complete the manifest of a draft, make it the current build, and return the complete manifest.

    Everything is on disk before the directory gets its name, and has its name before CURRENT points to it. Nothing is
    published where the disk fails, which raises OSError, or where another build is current by now than the one that
    this is to come `instead_of`, which raises BadArtifact.
    """
    files = {path.name: file_facts(path) for path in sorted(directory.iterdir())}
    now = datetime.now(UTC)
    content = hashlib.sha256(orjson.dumps(files)).hexdigest()[:8]
    build_id = f"{now.strftime(_TIME)}-{content}"
    manifest = replace(manifest, build_id=build_id, created=now.isoformat(), files=files)
    manifest = write_manifest(directory, manifest)
    for path in directory.iterdir():
        fsync(path)
    fsync(directory)
    directory.rename(root / build_id)
    try:
        fsync(root)
        with locked(root):
            current = _text_of(root / CURRENT).strip()
            if instead_of not in (None, current):
                raise BadArtifact(
                    f"{root}: {current} was published meanwhile, so that changes of {instead_of} are void"
                )
            _make_current(root, [*_history(root), build_id])
    except (OSError, BadArtifact):
        if _text_of(root / CURRENT).strip() != build_id:
            shutil.rmtree(root / build_id, ignore_errors=True)
        raise
    return manifest


def open_current(root: Path) -> Build:
    """Verify and open the build that CURRENT names. Raises BadArtifact naming the file at fault."""
    build_id = current_build_id(root)
    try:
        return open_pinned(root, build_id)
    except BadArtifact:
        if build_id == named_build_id(root) or build_id in build_ids(root):
            raise
        return open_current(root)  # Another was published, and it was pruned, before it was pinned.


def open_pinned(
    root: Path, build_id: str, verified: bool = False, reuse: Build | None = None, manifest: Manifest | None = None
) -> Build:
    """Do what `open_build` does, and keep the build from being pruned meanwhile. `manifest` is as `pin` takes it."""
    with pin(root, build_id, manifest):  # Verifying a large base takes longer than many deltas on it stay.
        return open_build(root, build_id, verified, reuse)


def roll_back(root: Path, to: str | None = None) -> str:
    """Verify a build, make it the current one, and return its id: the one that was current before, or the one named.

    What was current after a build that is gone back to is withdrawn; one that was not is current from now on. A build
    that is named need not follow a current one, which may be missing. Raises BadArtifact.
    """
    if to is None:
        named_build_id(root)  # A root that is none says so, rather than its lock.
    with locked(root):
        current = named_build_id(root) if to is None else _text_of(root / CURRENT).strip()
        present = build_ids(root)
        history = [build_id for build_id in _history(root) if build_id in present]
        older = [build_id for build_id in history if build_id != current]
        if to is not None:
            if to not in present or to == current:
                raise BadArtifact(f"{root}: {to} is {'the current build' if to in present else 'no build there'}")
            older = [*(older[: older.index(to)] if to in older else history), to]
        if not older:
            raise BadArtifact(f"{root}: has no build older than the current one, {current}")
        with pin(root, older[-1]):
            open_build(root, older[-1])
            _make_current(root, older)
    return older[-1]


def prune(root: Path, keep: int) -> list[str]:
    """Remove builds but the newest `keep` whole ones and deltas, the last `keep` that were current, and pinned ones.

    The base of a delta is in use. Returns the ids of the removed ones, the oldest first.
    """
    removed: list[str] = []
    present = build_ids(root)
    bases = {build_id: _base_of(root, build_id) for build_id in (present if len(present) > keep else ())}
    old = [
        *[build_id for build_id, base in bases.items() if not base][:-keep],
        *[build_id for build_id, base in bases.items() if base][:-keep],
    ]
    kept = _history(root)[-keep:] if old else []
    for build_id in sorted(old, reverse=True):
        if build_id in kept or build_id in bases.values():
            continue
        draft = root / f"{_DRAFT}{build_id}"
        try:
            with locked(root / build_id, EXCLUSIVE | AT_ONCE):
                (root / build_id).rename(draft)  # It is no build any more, even if it is removed half.
                removed.append(build_id)
                del bases[build_id]
                shutil.rmtree(draft, ignore_errors=True)
        except OSError:
            continue  # It is pinned, or belongs to somebody else.
    return removed[::-1]


def pin(root: Path, build_id: str, manifest: Manifest | None = None) -> ExitStack:
    """Keep a build, and the one that it is a delta on, from being pruned, by any process on this machine.

    `manifest` is that of the build, if it has been read. Raises BadArtifact where there is no such build.
    """
    try:
        with ExitStack() as pinned:
            pinned.enter_context(locked(root / build_id, SHARED))
            if base := manifest.base_id if manifest else _base_of(root, build_id):
                pinned.enter_context(locked(root / base, SHARED))
            return pinned.pop_all()
    except OSError as error:
        raise BadArtifact(f"{error.filename or root / build_id}: cannot be read ({error})") from error


def published_at(build_id: str) -> datetime:
    """Return when a build was published, which its id begins with."""
    return datetime.strptime(build_id.rpartition("-")[0], _TIME).replace(tzinfo=UTC)


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
        raise BadArtifact(f"{path}: cannot be read ({error}); {_way_to_a_current_build(root)}") from error
    if not _BUILD_ID.fullmatch(build_id):
        raise BadArtifact(f"{path}: holds no build id but {build_id[:60]!r}")
    return build_id


def _way_to_a_current_build(root: Path) -> str:
    """Say which command makes a build the current one: one that is there, or else a new one."""
    if any(_BUILD_ID.fullmatch(path.name) for path in root.glob("*")):
        return "`python -m service rollback --to BUILD` makes one of the builds there the current one"
    return "`python -m index_builder` publishes a build"


def _base_of(root: Path, build_id: str) -> str | None:
    """Return the build that one is a delta on, as far as its manifest can be read."""
    try:
        return base_of(root, build_id)
    except BadArtifact:
        return None


def _history(root: Path) -> list[str]:
    """Return the builds to go back to, the last to be current at the end, and the current one behind them.

    What was current after the current build was withdrawn. A root without a history had only publishes. Where CURRENT
    is lost, all that is recorded can be gone back to.
    """
    present, current = build_ids(root), _text_of(root / CURRENT).strip()
    if (root / HISTORY).exists():
        recorded = _text_of(root / HISTORY).split()
    else:
        recorded = [build_id for build_id in present if build_id < current]
    if current in recorded:
        recorded = recorded[: recorded.index(current)]
    return [*(build_id for build_id in recorded if build_id in present), *([current] if current else [])]


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
