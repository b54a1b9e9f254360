"""The report of the index benchmark."""

import pytest

from benchmarks.index.contestants import Facts
from benchmarks.index.tables import Result, overview, section, update

REPORT = "# Kinds\n\nWhat it is.\n\n## words, 10 products\n\nold\n\n## texts, 10 products\n\nkept\n"
BOTH = {"best": 0.995, "worst": 0.992}


def facts(label: str, settings: str, reaches: bool = True, ks: tuple[str, ...] = ("10",)) -> Facts:
    return Facts(label, settings, reaches, 1.25, 30_000_000, 2_000_000, dict.fromkeys(ks, BOTH))


RESULT = Result(
    "words",
    10_000,
    25,
    "",
    {
        "flat": facts("FAISS Flat", ""),
        "exact": facts("exact", "Flat"),
        "choice": facts("choice", "PQ8", ks=("10", "100")),
        "scann": facts("ScaNN", "20 / 30"),
        "hnsw": facts("HNSW", "9 / 9", reaches=False),
    },
    {
        # The machine grows slower from round to round, and something disturbs the second.
        "flat": [[0.004] * 3, [0.008] * 3, [0.016] * 3],
        "exact": [[0.003] * 3, [0.006] * 3, [0.012] * 3],
        "choice": [[0.001] * 3, [0.020] * 3, [0.004] * 3],
        "scann": [[0.0015] * 3, [0.003] * 3, [0.006] * 3],
        "hnsw": [[0.0001] * 3, [0.0002] * 3, [0.0004] * 3],
    },
)


def test_a_ratio_is_taken_within_rounds() -> None:
    assert RESULT.ratio("choice", "flat") == pytest.approx(4)
    assert RESULT.ratio("choice", "scann") == pytest.approx(1.5)


def test_a_section_shows_the_command_and_every_contestant() -> None:
    heading, text = section(RESULT)
    assert heading == "words, 10,000 products"
    assert text.startswith('`make bench-index DATA="words" SIZES=10000`; machine: ')
    assert text.splitlines()[1:] == [
        "",
        "| index | settings | ms | p99 ms | x Flat | x exact | recall@10 | recall@100 | build s | peak MB | index MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| FAISS Flat |  | 8.000 | 16.000 | 1.00 | 0.75 | 0.9950 / 0.9920 |  | 1.2 | 30 | 2 |",
        "| exact | `Flat` | 6.000 | 12.000 | 1.33 | 1.00 | 0.9950 / 0.9920 |  | 1.2 | 30 | 2 |",
        "| choice | `PQ8` | 4.000 | 20.000 | 4.00 | 3.00 | 0.9950 / 0.9920 | 0.9950 / 0.9920 | 1.2 | 30 | 2 |",
        "| ScaNN | `20 / 30` | 3.000 | 6.000 | 2.67 | 2.00 | 0.9950 / 0.9920 |  | 1.2 | 30 | 2 |",
        "| HNSW (misses 0.99) | `9 / 9` | 0.200 | 0.400 | 40.00 | 30.00 | 0.9950 / 0.9920 |  | 1.2 | 30 | 2 |",
        "",
        "The vectors alone take 1 MB. The builder's choice is 1.50 times as fast as the quickest rival, ScaNN.",
    ]


def test_the_overview_compares_with_rivals_that_reach_the_recall() -> None:
    heading, text = overview(10_000, [RESULT, RESULT])
    assert heading == "All kinds, 10,000 products"
    assert text.startswith('`make bench-index DATA="words words" SIZES=10000`; machine: ')
    row = "| words | 25 | `PQ8` | 4.000 | 4.00 | 3.00 | 1.50 | 1.50, ScaNN | 0.9950 / 0.9920 | 0.9950 / 0.9920 | 1.2 |"
    assert text.splitlines()[4:] == [row, row]


def test_a_section_takes_the_place_of_the_one_with_its_heading() -> None:
    assert update(REPORT, "words, 10 products", "new") == REPORT.replace("old", "new")
    assert update(REPORT, "texts, 10 products", "new") == REPORT.replace("kept", "new")


def test_a_new_section_comes_last() -> None:
    assert update(REPORT, "words, 1", "new") == f"{REPORT}\n## words, 1\n\nnew\n"
