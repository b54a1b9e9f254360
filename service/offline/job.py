"""Answers the users of a file into another file, on all cores: what `python -m service batch` does."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval.artifact.store import open_current
from service.errors import BadBatch
from service.offline.inputs import Block, BlockKey, open_users
from service.offline.outputs import find_format, sync
from service.offline.parts import PartsDirectory, open_parts
from service.offline.pool import Task, start_pool
from service.settings import Limits, Settings

_PARTS_VERSION = 1
_MAX_PART_ROWS = 100_000


@dataclass(frozen=True)
class BatchRequest:
    """A file of users and the file for their answers, which workers write in parts of `part_rows`.

    `k` is the matches a side of users that do not say; None stands for the setting.
    """

    input: Path
    output: Path
    k: int | None = None
    part_rows: int = 4096


@dataclass(frozen=True)
class Summary:
    """What a run has written: counts of users, of those with an error, and of those an earlier run had answered."""

    output: Path
    users: int
    failed: int
    resumed: int

    def __str__(self) -> str:
        before = f", {self.resumed:,} of them by an earlier run" if self.resumed else ""
        return f"{self.output}: {self.users:,} users{before}; {self.failed:,} have an error"


def run_batch(request: BatchRequest, settings: Settings) -> Summary:
    """Answer every user of the input, in order, and then give the output its name.

    Parts of the answers are kept beside the output until it is complete. A run that was ended early is resumed by the
    next one if the input's path, size and time of change, the build and the options are the same.
    Raises BadBatch, or BadArtifact.
    """
    directory, limits = _parts_directory(request), _limits(request, settings.limits)
    output_format, users = find_format(request.output), open_users(request.input)
    build_id = open_current(settings.artifacts).id
    task = Task(settings.artifacts.absolute(), build_id, limits, users.parse_users, output_format.write_part)
    fingerprint = _fingerprint(request.input)
    state = {
        "version": _PARTS_VERSION,
        "input": fingerprint,
        "build": build_id,
        "k": limits.default_k,
        "max_k": limits.max_k,
        "answers": output_format.name,
        "part_rows": request.part_rows,
    }
    with open_parts(directory, state) as parts:
        try:
            keys, resumed = _answer_all(users.read_blocks(request.part_rows), parts, task, settings.workers)
            output_format.join_parts(map(parts.path, keys), parts.joined)
        except KeyboardInterrupt as error:
            raise BadBatch(f"stopped; the same command goes on from the parts in {directory}") from error
        if _fingerprint(request.input) != fingerprint:
            raise BadBatch(f"{request.input}: has changed while it was read; run the command again")
        sync(parts.joined)
        parts.joined.rename(request.output)
        sync(request.output.absolute().parent)
        parts.remove()
    return Summary(request.output, sum(key.rows for key in keys), sum(map(parts.errors, keys)), resumed)


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
                if not bar.disable:
                    bar.initial += key.rows  # counts as done, but not for the speed
                bar.update(key.rows)
            else:
                bar.update(pool.submit(block))
            bar.total = round((key.first_row + key.rows) / block.share) if block.share else None
        bar.update(pool.drain())
    return keys, resumed


def _limits(request: BatchRequest, limits: Limits) -> Limits:
    if not 1 <= request.part_rows <= _MAX_PART_ROWS:
        raise BadBatch(f"--part-rows {request.part_rows}: must be from 1 to {_MAX_PART_ROWS}")
    if request.k is None:
        return limits
    if not 1 <= request.k <= limits.max_k:
        raise BadBatch(f"--k {request.k}: must be from 1 to {limits.max_k} (RECO_MAX_K)")
    return replace(limits, default_k=request.k)


def _parts_directory(request: BatchRequest) -> Path:
    output = request.output
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise BadBatch(f"{output}: {'is a directory' if output.is_dir() else 'its directory does not exist'}")
    if output.exists() and request.input.exists() and output.samefile(request.input):
        raise BadBatch(f"{output}: is the input")
    return output.with_name(f"{output.name}.parts")


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return what tells a version of a file from another one without reading it."""
    facts = path.stat()
    return {"path": str(path.absolute()), "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
