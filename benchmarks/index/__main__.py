"""Compare the builder's choice with exact scans, HNSW, usearch and ScaNN at equal recall, on many kinds of catalogue.

python -m benchmarks.index [--data sample gaussian:8 …] [--sizes 20000 …] [--contestants … | --graphs] [--write]
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmarks.index.catalogues.kinds import KINDS, parse
from benchmarks.index.contestants import BASELINE, CHOICE, CONTESTANTS, EXACT, PROJECT, RIVALS, Facts
from benchmarks.index.tables import Result, overview, section, update
from benchmarks.processes import ROOT, read_answer

_DATA = ("sample", "words", "texts", "factors", "clustered:1536", "gaussian", "gaussian:8")
_SIZES = (20_000,)
_ROUNDS = 5
_GRAPHS = ("hnsw", "usearch")  # To tune them takes as long as all the rest.
_MIN_TREE_PRODUCTS = 100_000
_REPORT = Path(__file__).parent.parent / "INDEX.md"


@dataclass
class Running:
    """A contestant's process, its facts, and the seconds of each round's searches."""

    process: subprocess.Popen[str]
    facts: Facts
    rounds: list[list[float]] = field(default_factory=list)

    def take_times(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.rounds.append(read_answer(self.process))


def main() -> None:
    options = _options()
    for size in options.sizes:
        results = []
        for data in options.data:
            contestants = options.contestants or suitable(size, options.graphs)
            arguments = f"--contestants {' '.join(options.contestants)}" if options.contestants else ""
            results.append(measure(data, size, contestants, "--graphs" if options.graphs else arguments))
            publish(*section(results[-1]), options.write)
        if results[1:]:
            publish(*overview(size, results), options.write)


def suitable(size: int, graphs: bool) -> list[str]:
    """Return the contestants for a number of products: trees of large catalogues only, and graphs where wanted."""
    left_out = (() if graphs else _GRAPHS) + (("scann-tree",) if size < _MIN_TREE_PRODUCTS else ())
    return [name for name in CONTESTANTS if name not in (*left_out, "compact")]


def measure(data: str, size: int, contestants: list[str], arguments: str) -> Result:
    """Build all contestants, one after the other, and then time them in turns, so that what else runs meets all.

    `arguments` are those that chose the contestants.
    """
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        subprocess.run(
            [_python(RIVALS), "-m", "benchmarks.index.sources", data, str(size), directory], cwd=ROOT, check=True
        )
        progress = tqdm(contestants, desc=f"{data}, {size:,}", disable=None, leave=False)
        running = {name: _start(name, directory, stack) for name in progress}
        for turn in range(_ROUNDS):
            order = list(running)
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                running[name].take_times()
        facts = {name: each.facts for name, each in running.items()}
        return Result(
            data, size, parse(data)[1], arguments, facts, {name: each.rounds for name, each in running.items()}
        )


def publish(heading: str, text: str, write: bool) -> None:
    print(f"\n## {heading}\n\n{text}", flush=True)
    if write:
        _REPORT.write_text(update(_REPORT.read_text(), heading, text))


def _start(name: str, directory: str, stack: ExitStack) -> Running:
    """Start a contestant's process, and wait for it to be built."""
    process = stack.enter_context(
        subprocess.Popen(
            [_python(CONTESTANTS[name][0]), "-m", "benchmarks.index.worker", name, directory],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.terminate)
    return Running(process, Facts(**read_answer(process)))


def _python(environment: str) -> str:
    return sys.executable if environment == PROJECT else str(ROOT / environment / "bin" / "python")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--data", nargs="+", default=_DATA, metavar="KIND[:DIMENSION]", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--sizes", nargs="+", type=int, default=_SIZES, metavar="PRODUCTS")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--contestants", nargs="+", choices=CONTESTANTS, help="default: those that suit the size")
    chosen.add_argument("--graphs", action="store_true", help="HNSW and usearch as well, which take long to tune")
    parser.add_argument("--write", action="store_true", help=f"replace these catalogues' sections of {_REPORT.name}")
    options = parser.parse_args()
    try:
        list(map(parse, options.data))
    except ValueError as error:
        parser.error(str(error))
    if options.contestants and not {BASELINE, EXACT, CHOICE} <= set(options.contestants):
        parser.error(f"--contestants: {BASELINE}, {EXACT} and {CHOICE} are what the others are compared with")
    return options


if __name__ == "__main__":
    main()
