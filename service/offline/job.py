"""Answers the users of a file into another file, on all cores: what `python -m service batch` does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval.artifact.build import Build, open_build
from retrieval.artifact.durable import fsync
from retrieval.artifact.store import current_build_id, pin
from service.engines.base import check_label
from service.engines.shown_products import read_shown
from service.errors import BadBatch, TooManyErrors
from service.offline.answers import check_model
from service.offline.inputs import Block, BlockKey, open_users, user_files
from service.offline.outputs import find_format
from service.offline.parts import PartsDirectory, open_parts
from service.offline.pool import Task, start_pool
from service.settings import Limits, Settings

_PARTS_VERSION = 5
PART_ROWS, _MAX_PART_ROWS = 4096, 100_000
# A few users at fault are usual in a large file; more of them tell of a fault of the file, such as another dimension.
MAX_ERROR_SHARE = 0.01


@dataclass(frozen=True)
class Outcome:
    """How many users a batch has answered, how many of them an earlier run, and how many have an error of each code."""

    output: Path
    users: int
    resumed: int
    errors: Counter[str]

    def __str__(self) -> str:
        before = f", {self.resumed:,} of them by an earlier run" if self.resumed else ""
        by_code = sorted(self.errors.items(), key=lambda each: (-each[1], each[0]))
        codes = ", ".join(f"{count:,} {code}" for code, count in by_code)
        failed = f"{self.errors.total():,} have an error{': ' if codes else ''}{codes}"
        return f"{self.output}: {self.users:,} users{before}; {failed}"

    def check(self, max_error_share: float) -> None:
        """Raise TooManyErrors where a larger share of the users has an error."""
        failed = self.errors.total()
        if failed / max(1, self.users) > max_error_share:
            found = f"{failed:,} of {self.users:,} users have an error"
            raise TooManyErrors(
                f"{found}, more than --max-error-share {max_error_share:g} allows; {self.output} is complete"
            )


def run_batch(
    source: Path,
    output: Path,
    settings: Settings,
    k: int | None = None,
    part_rows: int = PART_ROWS,
    embedding_model: str | None = None,
) -> Outcome:
    """Answer every user of a file, in order, into another one.

    `k` is the matches a side of users that do not say; None stands for the setting. `embedding_model` is that of the
    users' vectors, None where it is not known.
    Parts of the answers, of `part_rows` users, are kept beside the output until it is complete. A run that was ended
    early is resumed by the next one if the source's path, size and time of change, the build and the options are the
    same; each part is used again only for the bytes that it answers. Raises BadBatch, BadArtifact, or BadSetting.
    """
    directory, limits = _parts_directory(source, output), _limits(settings.limits, k, part_rows)
    output_format, users = find_format(output), open_users(source)
    artifacts, build_id = settings.artifacts.absolute(), current_build_id(settings.artifacts)
    task = Task(artifacts, build_id, settings.filter, limits, users.parse_users, output_format.write_part)
    versions = _versions(source)
    with pin(artifacts, build_id) as stack:
        _check(open_build(artifacts, build_id), settings, embedding_model)
        parts = stack.enter_context(open_parts(directory, _state(source, task, output_format.name, part_rows)))
        try:
            keys, resumed = _answer_all(users.read_blocks(part_rows), parts, task, settings.workers)
            output_format.join_parts(map(parts.path, keys), parts.joined)
        except KeyboardInterrupt as error:
            raise BadBatch(f"stopped; the same command goes on from the parts in {directory}") from error
        if _versions(source) != versions:
            raise BadBatch(f"{source}: has changed while it was read; run the command again")
        fsync(parts.joined)
        parts.joined.rename(output)
        fsync(output.absolute().parent)
        parts.remove()
    return Outcome(output, sum(key.rows for key in keys), resumed, sum(map(parts.errors, keys), Counter()))


def _state(source: Path, task: Task, answers: str, part_rows: int) -> dict[str, Any]:
    """Return what has to be the same for parts of an earlier run to be used again."""
    return {
        "version": _PARTS_VERSION,
        "input": [*map(_fingerprint, user_files(source))],
        "build": task.build_id,
        "filter": task.shown,
        "k": task.limits.default_k,
        "max_k": task.limits.max_k,
        "answers": answers,
        "part_rows": part_rows,
    }


def _check(build: Build, settings: Settings, embedding_model: str | None) -> None:
    """Check that a build is of the embedding model, and has the fields of the filter."""
    check_label(build.manifest.embedding_model, settings.require_embedding_model)
    check_model(build.manifest.embedding_model, embedding_model, settings.require_embedding_model)
    read_shown(build.filters.vocabulary, settings.filter)


def _answer_all(blocks: Iterable[Block], parts: PartsDirectory, task: Task, workers: int) -> tuple[list[BlockKey], int]:
    """Have a part written for each block that has none; return all keys, and how many users had been answered."""
    keys: list[BlockKey] = []
    resumed = 0
    with (
        start_pool(task, workers, parts) as pool,
        tqdm(desc="users", unit=" users", unit_scale=True, disable=None) as bar,
    ):
        for block in blocks:
            key = block.key
            keys.append(key)
            if key in parts:
                resumed += key.rows
                bar.initial = resumed  # counts as done, but not for the speed
                bar.update(key.rows)
            else:
                bar.update(pool.submit(block))
            bar.total = round((key.first_row + key.rows) / block.share) if block.share else None
        bar.update(pool.drain())
    return keys, resumed


def _limits(limits: Limits, k: int | None, part_rows: int) -> Limits:
    if not 1 <= part_rows <= _MAX_PART_ROWS:
        raise BadBatch(f"--part-rows {part_rows}: must be from 1 to {_MAX_PART_ROWS}")
    if k is None:
        return limits
    if not 1 <= k <= limits.max_k:
        raise BadBatch(f"--k {k}: must be from 1 to {limits.max_k} (RECO_MAX_K)")
    return replace(limits, default_k=k)


def _parts_directory(source: Path, output: Path) -> Path:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise BadBatch(f"{output}: {'is a directory' if output.is_dir() else 'its directory does not exist'}")
    if output.exists() and source.exists() and output.samefile(source):
        raise BadBatch(f"{output}: is the input")
    if source.is_dir() and output.absolute().parent.samefile(source):
        raise BadBatch(f"{output}: lies in the input, where it would be taken for a part")
    return output.with_name(f"{output.name}.parts")


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return what tells a version of a file from another one without reading it."""
    facts = path.stat()
    return {"path": str(path.absolute()), "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


def _versions(source: Path) -> list[tuple[int, ...]]:
    """Return what differs between two states of the files of users, even where a time of change was set back."""
    facts = [path.stat() for path in user_files(source)]
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in facts]
