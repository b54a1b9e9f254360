"""Answers the users of a file into another file, on all cores: what `python -m service batch` does."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retrieval.artifact.store import open_current
from service.errors import BadBatch
from service.offline.blocks import Block, Place
from service.offline.inputs import open_users
from service.offline.outputs import find_format, format_name, sync
from service.offline.parts import Parts, open_parts
from service.offline.pool import Pool
from service.offline.worker import Task
from service.settings import Limits, Settings

_VERSION = 1  # of parts and their order
_MOST_PART_ROWS = 100_000


@dataclass(frozen=True)
class BatchRequest:
    """Users from `input` to answers in `output`, of which a process writes `part_rows` at a time.

    `k` is for users that do not say; None is the setting's.
    """

    input: Path
    output: Path
    k: int | None = None
    part_rows: int = 4096


@dataclass(frozen=True)
class Summary:
    """What a run has written: `resumed` of the users had been answered by an earlier one."""

    output: Path
    users: int
    failed: int
    resumed: int

    def __str__(self) -> str:
        before = f", {self.resumed:,} of them by an earlier run" if self.resumed else ""
        return f"{self.output}: {self.users:,} users{before}; {self.failed:,} have an error"


def run_batch(request: BatchRequest, settings: Settings) -> Summary:
    """Answer every user of the input, in order, and then give the output its name.

    Parts of the answers are kept beside the output until it is complete. A run that is ended before goes on there next
    time, if the input's path, size and time of change, the build and the options are the same. Raises BadBatch, or
    BadArtifact.
    """
    directory, limits = _parts_directory(request), _limits(request, settings.limits)
    answers = format_name(request.output)
    output_format = find_format(answers)
    users = open_users(request.input)
    build_id = open_current(settings.artifacts).id
    task = Task(settings.artifacts.absolute(), build_id, limits, users.kind, answers)
    seen = _fingerprint(request.input)
    options = {"k": limits.default_k, "max_k": limits.max_k, "answers": answers, "part_rows": request.part_rows}
    with open_parts(directory, {"version": _VERSION, "input": seen, "build": build_id, **options}) as parts:
        try:
            places, resumed = _answer_all(users.blocks(request.part_rows), parts, task, settings.workers)
            done = [part for place in places if (part := parts.find(place))]
            output_format.join_parts((part.path for part in done), parts.joined)
        except KeyboardInterrupt:
            raise BadBatch(f"stopped; the same command goes on from the parts in {directory}") from None
        if _fingerprint(request.input) != seen:
            raise BadBatch(f"{request.input}: has changed while it was read; run the command again")
        sync(parts.joined)
        parts.joined.rename(request.output)
        sync(request.output.absolute().parent)
        parts.remove()
    return Summary(request.output, sum(part.rows for part in done), sum(part.failed for part in done), resumed)


def _answer_all(blocks: Iterable[Block], parts: Parts, task: Task, workers: int) -> tuple[list[Place], int]:
    """Have a part written for each block that has none; the places of all, and how many users had been answered."""
    places: list[Place] = []
    resumed = 0
    with Pool(task, workers, parts) as pool, tqdm(desc="users", unit=" users", unit_scale=True, disable=None) as bar:
        for block in blocks:
            places.append(block.place)
            if parts.find(block.place):
                resumed += block.place.rows
                if not bar.disable:
                    bar.initial += block.place.rows  # counts as done, but not for the speed
                bar.update(block.place.rows)
            else:
                bar.update(pool.give(block))
            bar.total = round((block.place.first + block.place.rows) / block.share) if block.share else None
        bar.update(pool.finish())
    return places, resumed


def _limits(request: BatchRequest, limits: Limits) -> Limits:
    if not 1 <= request.part_rows <= _MOST_PART_ROWS:
        raise BadBatch(f"--part-rows {request.part_rows}: must be from 1 to {_MOST_PART_ROWS}")
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
    """What tells a file from another one without reading it."""
    facts = path.stat()
    return {"path": str(path.absolute()), "bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
