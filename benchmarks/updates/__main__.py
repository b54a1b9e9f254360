"""What changes take from the command to the last worker's answers, and what they make of searches and of a service.

python -m benchmarks.updates [--sizes 20000 1000000] [--steps freshness …] [--directory DIR] [--write]
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.catalogues import draw_users, sources, write_queries
from benchmarks.index.tables import update
from benchmarks.processes import build, service
from benchmarks.report import machine
from benchmarks.updates import searches, stream
from benchmarks.updates.changes import Changes, add_fields
from benchmarks.updates.freshness import figure, publish, run_builder, watcher
from retrieval.artifact.manifest import Manifest
from retrieval.artifact.store import open_current
from retrieval.search.ranking import SIDES

ROUNDS = 3
_SIZES = (20_000,)
_MIN_PRODUCTS_FOR_MANY = 200_000  # Of fewer products, 10,000 are too large a part for a delta.
_SHARE_OF_BASE, _TOMBSTONES = 5, 10
_FILLED = (0.0, 0.05, 0.25, 0.9)
_RECORD_BYTES = 200  # of a product in a delta, besides its vector
_BODIES = 1000
_REPORT = Path(__file__).parent.parent / "UPDATES.md"

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Bench:
    """A catalogue: its artifacts root with a base alone, and a directory for scratch files."""

    products: int
    base: Path
    scratch: Path

    @contextmanager
    def root(self) -> Iterator[Path]:
        """Yield a root of its own with the base in it, whose files are linked and never change."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            yield Path(shutil.copytree(self.base, Path(name) / "artifacts", copy_function=os.link))

    def changes(self) -> Changes:
        return Changes(self.products, self.scratch)


def main() -> None:
    options = _options()
    for products in options.sizes:
        with catalogue(products, options.directory) as bench:
            for name in options.steps:
                heading, step = STEPS[name]
                text = "\n".join(_markdown(step(bench)))
                report(
                    f"{heading}, {products:,} products", f"`{_command(products, name)}`; {machine()}\n\n{text}", options
                )


@contextmanager
def catalogue(products: int, kept: Path | None) -> Iterator[Bench]:
    """Build a catalogue, or take the one that an earlier run has `kept`."""
    with nullcontext(kept / str(products)) if kept else tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "artifacts" / "CURRENT").exists():
            with sources(products, directory) as source:
                add_fields(source / "products.npz")
                shutil.move(build(source, "artifacts"), directory / "artifacts")
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            yield Bench(products, directory / "artifacts", Path(scratch))


def freshness(bench: Bench) -> Table:
    """From the command to the last worker's first answer: medians of some rounds, on a delta that grows."""
    changes = bench.changes()
    files: dict[str, Callable[[], Path]] = {
        "1,000 mixed": lambda: changes.write_mixed(1000),
        "1,000 deleted or changed": lambda: changes.write(deleted=500, changed=500),
    }
    if bench.products >= _MIN_PRODUCTS_FOR_MANY:
        files["10,000 mixed"] = lambda: changes.write_mixed(10_000)
    rows = []
    with bench.root() as root, service("this revision", root) as server, watcher(server) as workers:
        for label, write in files.items():
            rounds = [publish(workers, root, "--update", write()) for _ in range(ROUNDS)]
            times = median(each.published for each in rounds), median(each.served for each in rounds)
            slowest = max(each.served for each in rounds)
            rows.append([label, *(f"{seconds:.2f}" for seconds in (*times, slowest))])
    return ("changes", "published s", "last worker's first answer s", "slowest round s"), rows


def filled_deltas(bench: Bench) -> Table:
    """Searches on deltas of several sizes and tombstones, against those on their base."""
    recall = [f"recall@{searches.K} {side} (at least)" for side in SIDES]
    header = ("replaced and new", "deleted", "share of the base's bytes", "base ms", "pair ms", "time ÷", *recall)
    base_bytes, rows = open_current(bench.base).manifest.size_bytes, []
    for filled in _FILLED:
        with bench.root() as root:
            pair = fill(bench, root, filled)
            assert pair.delta
            counts = pair.delta.replaced + pair.delta.added, pair.delta.deleted
            share = f"{pair.size_bytes / base_bytes:.3f}"
            rows.append([*(f"{count:,}" for count in counts), share, *searches.compare(root)])
    return header, rows


def fill(bench: Bench, root: Path, filled: float) -> Manifest:
    """Publish a delta with a tombstone for each tenth product, and a part of the vectors that a delta may have."""
    base = open_current(root).manifest
    vectors = int(filled * base.size_bytes / _SHARE_OF_BASE / (4 * base.dimension + _RECORD_BYTES))
    file = bench.changes().write(replaced=vectors // 2, added=vectors // 2, deleted=bench.products // _TOMBSTONES)
    finish(root, "--update", file)
    return open_current(root).manifest


def merge(bench: Bench) -> Table:
    """Folding the full delta into a new base."""
    with bench.root() as root:
        fill(bench, root, _FILLED[-1])
        printed = finish(root, "--merge", "--queries", write_queries(bench.scratch))
        recall = open_current(root).manifest.recall
    seconds = figure(printed, r", built in ([\d.]+) s")
    found = [f"{side[0].mean:.4f} ({side[0].lower_bound:.4f})" for side in (recall.best, recall.worst)]
    is_rebuilt = "yes" if "\nrebuilt " in printed else "no"
    header = ("merge s", "built anew", *(f"recall@10 {side} (at least)" for side in SIDES), "users")
    return header, [[seconds, is_rebuilt, *found, f"{recall.best[0].users:,}"]]


def under_load(bench: Bench) -> Table:
    """A delta a second beside a service that is kept busy."""
    bodies = bench.scratch / "bodies"
    vectors = draw_users(_BODIES, seed=3).round(4).tolist()
    bodies.write_text("".join(f"{json.dumps({'name': f'u{i}', 'vector': row})}\n" for i, row in enumerate(vectors)))
    rows = []
    for label, prepare in (("built elsewhere", stream.elsewhere), ("built on the same cores", stream.beside)):
        with bench.root() as root:
            publishes = prepare(root, bench.changes())
            with service("this revision", root) as server:
                rows.append([label, *stream.measure(server, bodies, publishes)])
    return ("deltas", "failed", "served", "requests/s without", "throughput ratio", "p99 ms without", "p99 ratio"), rows


STEPS: dict[str, tuple[str, Callable[[Bench], Table]]] = {
    "freshness": ("From the command to the answers", freshness),
    "searches": ("Searches with a delta", filled_deltas),
    "merge": ("Merging a full delta", merge),
    "stream": (f"One delta a second, {stream.CHANGES_PER_DELTA} changes each, under load", under_load),
}


def finish(root: Path, *options: object) -> str:
    """Run the builder, and return what it prints."""
    with run_builder(root, *options) as command:
        printed, errors = command.communicate()
    if command.returncode:
        raise SystemExit(errors)
    return printed


def report(heading: str, text: str, options: argparse.Namespace) -> None:
    print(f"\n## {heading}\n\n{text}", flush=True)
    if options.write:
        _REPORT.write_text(update(_REPORT.read_text(), heading, text))


def _markdown(table: Table) -> list[str]:
    header, rows = table
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]


def _command(products: int, step: str) -> str:
    return f'make bench-update SIZES={products} ARGS="--steps {step}"'


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.updates", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=_SIZES, metavar="PRODUCTS")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[*STEPS])
    parser.add_argument("--directory", type=Path, help="where to keep built catalogues for further runs")
    parser.add_argument("--write", action="store_true", help=f"replace these sections of {_REPORT.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
