"""The tables of the index benchmark, and their place in a Markdown report."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.index.contestants import BASELINE, CHOICE, EXACT, RIVAL_NAMES, Facts
from benchmarks.index.tuned import TARGET
from benchmarks.report import machine
from retrieval.search.kinds import FAISS_VERSION


@dataclass(frozen=True)
class Result:
    """What was measured on one catalogue: each contestant's facts, and its seconds a user in each round.

    `arguments` are those of the command besides the catalogue.
    """

    data: str
    products: int
    dimension: int
    arguments: str
    facts: dict[str, Facts]
    rounds: dict[str, list[list[float]]]

    def seconds(self, name: str) -> float:
        return float(np.median(np.concatenate(self.rounds[name])))

    def ratio(self, name: str, base: str) -> float:
        """Return how many times as fast as another a contestant is: the median over rounds, as machines drift."""
        pairs = zip(self.rounds[name], self.rounds[base], strict=True)
        return median(median(others) / median(own) for own, others in pairs)

    def best_rival(self, prefix: str = "") -> str | None:
        """Return the quickest rival that reached the target in tuning; of those whose name begins so."""
        reaching = [name for name in RIVAL_NAMES if name in self.facts and self.facts[name].reaches]
        return min((name for name in reaching if name.startswith(prefix)), key=self.seconds, default=None)


def section(result: Result) -> tuple[str, str]:
    """Return the heading and the table of one catalogue."""
    columns = "index", "settings", "ms", "p99 ms", "x Flat", "x exact", "recall@10", "recall@100"
    header = [*columns, "build s", "peak MB", "index MB"]
    lines = [
        _command([result]),
        "",
        *_table(header, (_row(result, name) for name in result.facts)),
    ]
    raw_megabytes = result.products * result.dimension * 4 / 1e6
    heading = f"{result.data}, {result.products:,} products"
    return heading, "\n".join([*lines, "", f"The vectors alone take {raw_megabytes:,.0f} MB. {_comparison(result)}"])


def overview(products: int, results: list[Result]) -> tuple[str, str]:
    """Return the heading and the table of the builder's choice on many catalogues."""
    header = ["catalogue", "d", "builder's choice", "ms", "x Flat", "x exact", "x ScaNN", "x the quickest rival"]
    rows = [
        [
            result.data,
            str(result.dimension),
            f"`{result.facts[CHOICE].settings}`",
            f"{result.seconds(CHOICE) * 1e3:.3f}",
            f"{result.ratio(CHOICE, BASELINE):.2f}",
            f"{result.ratio(CHOICE, EXACT):.2f}",
            _against(result, result.best_rival("scann")),
            _against(result, result.best_rival(), named=True),
            _sides(result.facts[CHOICE], 10),
            _sides(result.facts[CHOICE], 100),
            f"{result.facts[CHOICE].build_seconds:.1f}",
        ]
        for result in results
    ]
    table = _table([*header, "recall@10", "recall@100", "build s"], rows)
    return f"All kinds, {products:,} products", "\n".join([_command(results), "", *table])


def update(report: str, heading: str, text: str) -> str:
    """Return a report with the section of a heading replaced, or added at its end."""
    written = f"## {heading}\n\n{text}\n"
    parts = re.split(r"^(?=## )", report, flags=re.MULTILINE)
    same = [part.startswith(f"## {heading}\n") for part in parts]
    if not any(same):
        return "".join([report.rstrip("\n"), "\n\n", written])
    rest = [part.rstrip("\n") + "\n" for part in parts]
    return "\n".join(written if replaced else part for part, replaced in zip(rest, same, strict=True))


def _row(result: Result, name: str) -> list[str]:
    facts, times = result.facts[name], np.concatenate(result.rounds[name])
    middle, slow = np.quantile(times, (0.5, 0.99)) * 1e3
    return [
        facts.label if facts.reaches else f"{facts.label} (misses {TARGET})",
        facts.settings and f"`{facts.settings}`",
        f"{middle:.3f}",
        f"{slow:.3f}",
        *(f"{result.ratio(name, base):.2f}" for base in (BASELINE, EXACT)),
        _sides(facts, 10),
        _sides(facts, 100),
        f"{facts.build_seconds:.1f}",
        *(f"{size / 1e6:,.0f}" for size in (facts.peak_bytes, facts.size_bytes)),
    ]


def _sides(facts: Facts, k: int) -> str:
    recall = facts.recall.get(str(k))
    return f"{recall['best']:.4f} / {recall['worst']:.4f}" if recall else ""


def _comparison(result: Result) -> str:
    rival = result.best_rival()
    if rival is None:
        return "No rival reached the recall wanted."
    speed = f"{_against(result, rival)} times as fast as the quickest rival"
    return f"The builder's choice is {speed}, {result.facts[rival].label}."


def _against(result: Result, rival: str | None, named: bool = False) -> str:
    if rival is None:
        return ""
    return f"{result.ratio(CHOICE, rival):.2f}" + (f", {result.facts[rival].label}" if named else "")


def _command(results: list[Result]) -> str:
    data, arguments = " ".join(result.data for result in results), results[0].arguments
    more = f' ARGS="{arguments}"' if arguments else ""
    return f'`make bench-index DATA="{data}" SIZES={results[0].products}{more}`; {machine(f", FAISS {FAISS_VERSION}")}'


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]
