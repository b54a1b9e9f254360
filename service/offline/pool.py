"""Worker processes that answer the blocks of a batch, each on one core."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection, get_context
from pathlib import Path
from threading import Thread

from retrieval.artifact.durable import fsync
from retrieval.artifact.products import Prefixes
from service.errors import BadBatch, FailedUser
from service.offline.answers import Answerer
from service.offline.inputs import Block, BlockKey
from service.offline.parts import PartsDirectory
from service.recommender import Answer, UserBlock
from service.settings import Limits


@dataclass(frozen=True)
class Task:
    """The build, what is shown of it, the limits and the two file formats that all blocks of a batch have in common."""

    artifacts: Path
    build_id: str
    shown: str
    limits: Limits
    parse_users: Callable[[bytes, Answerer, int], Iterable[UserBlock]]
    write_part: Callable[[Path, Iterable[Sequence[Answer]], Prefixes], None]


@contextmanager
def start_pool(task: Task, workers: int, parts: PartsDirectory) -> Iterator["Pool"]:
    """Open a pool whose workers start with the first blocks and end with it. Raises BadBatch where one ends earlier.

    FAISS must not be forked after use (facebookresearch/faiss#5206), and a worker that is spawned takes longer to
    import everything than to answer many users. So workers are forked from a process that has imported everything and
    used nothing. Each of them watches a pipe that this process alone holds open, and exits when it closes: after an
    error, or when this process is killed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    watched, held = context.Pipe(duplex=False)
    with watched, held, ProcessPoolExecutor(workers, context, _exit_on_close, (watched,)) as executor:
        try:
            yield Pool(executor, task, workers, parts)
        except BrokenProcessPool as error:
            raise BadBatch(
                "a worker process ended unexpectedly, perhaps for lack of memory; the same command goes on"
            ) from error
        except BaseException:
            held.close()
            raise


class Pool:
    """Has blocks answered, and adds their parts to the directory of parts."""

    def __init__(self, executor: Executor, task: Task, workers: int, parts: PartsDirectory):
        self._executor, self._task, self._parts = executor, task, parts
        self._max_in_flight = workers + 1  # One block waits for a worker, so that no worker waits for a block.
        self._in_flight: dict[Future[Counter[str]], BlockKey] = {}

    def submit(self, block: Block) -> int:
        """Queue a block once fewer wait for a worker; return how many users were answered meanwhile.

        Workers read it from a file in memory, which takes a third of the time that the executor's pipe takes.
        """
        answered = self.drain(self._max_in_flight - 1)
        file = os.memfd_create("block")
        content = Path(f"/proc/{os.getpid()}/fd/{file}")
        content.write_bytes(block.content)
        draft = self._parts.draft(block.key)
        with _worker_environment():
            future = self._executor.submit(_answer_block, self._task, draft, block.key.first_row, content)
        future.add_done_callback(lambda _: os.close(file))
        self._in_flight[future] = block.key
        return answered

    def drain(self, count: int = 0) -> int:
        """Wait until at most `count` blocks are not answered; return how many users were answered meanwhile."""
        answered = 0
        while len(self._in_flight) > count:
            for future in wait(self._in_flight, return_when=FIRST_COMPLETED).done:
                key = self._in_flight.pop(future)
                self._parts.add(key, future.result())
                answered += key.rows
        return answered


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Let processes that start meanwhile inherit one thread a search, and leave Ctrl-C to this process."""
    environment = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _exit_on_close(watched: connection.Connection) -> None:
    """End this worker process, whatever it does, when the other end of the pipe is closed."""

    def watch() -> None:
        connection.wait([watched])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _answer_block(task: Task, draft: Path, first_row: int, content: Path) -> Counter[str]:
    """Write the answers to a block's users; return how many of them have an error of each code."""
    answerer = _open_answerer(task)
    blocks = [*task.parse_users(content.read_bytes(), answerer, first_row)]
    task.write_part(draft, answerer.answer(blocks), answerer.prefixes)
    fsync(draft)
    return Counter(item.error.code for block in blocks for item in block.items if isinstance(item, FailedUser))


@cache
def _open_answerer(task: Task) -> Answerer:
    """Open the build once a process, with the first block, whose future then carries what goes wrong."""
    return Answerer(task.artifacts, task.limits, task.build_id, task.shown, verified=True)
