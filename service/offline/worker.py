"""A worker process of a batch: `python -m service.offline.worker`. It ends with the process that started it."""

import argparse
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from retrieval.errors import BadArtifact
from service.errors import BadBatch, FailedUser
from service.http.bodies import split_lines
from service.offline.answers import Answerer, open_answerer
from service.offline.outputs import find_format, sync
from service.recommender import UserBlock
from service.settings import Limits


@dataclass(frozen=True)
class Task:
    """What all parts of a batch have in common; `users` is the kind of an input's blocks, `answers` a format's name."""

    artifacts: Path
    build_id: str
    limits: Limits
    users: str
    answers: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m service.offline.worker")
    parser.add_argument("--connection", type=int, required=True)  # a descriptor
    connection = Connection(parser.parse_args().connection)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # there is no more to do
        work(connection, connection.recv())


def work(connection: Connection, task: Task) -> None:
    """Answer block after block.

    The first process sends (where to write, position of the first user) and the content of the block, and gets how many
    of its users failed, or what is wrong as a string; beforehand, it gets 0 when the worker is ready.
    """
    try:
        answerer = open_answerer(task.artifacts, task.limits, task.build_id, verified=True)
        connection.send(0)
        while True:
            path, first = connection.recv()
            connection.send(_answer(answerer, task, path, first, connection.recv_bytes()))
    except (BadArtifact, BadBatch, OSError) as error:
        connection.send(str(error))


def _answer(answerer: Answerer, task: Task, path: Path, first: int, content: bytes) -> int:
    blocks = [*_users(answerer, task, first, content)]
    find_format(task.answers).write_part(path, answerer.answer(blocks), answerer.prefixes)
    sync(path)
    return sum(isinstance(item, FailedUser) for block in blocks for item in block.items)


def _users(answerer: Answerer, task: Task, first: int, content: bytes) -> Iterable[UserBlock]:
    if task.users == "lines":
        return answerer.reader.read_some_lines(split_lines(content), first)
    from service.offline.parquet import users_in

    return [users_in(content, answerer, first)]


if __name__ == "__main__":
    main()
