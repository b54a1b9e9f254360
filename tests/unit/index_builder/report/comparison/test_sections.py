"""A comparison says side by side what either build has measured, and nothing of what neither has."""

import re
from typing import Any

import pytest

from index_builder.report.comparison.page import render_page
from index_builder.report.comparison.text import render_text

NOTHING: dict[str, Any] = {"count": 0, "mean": None, "quantiles": {}}
SCORES = {"count": 3, "mean": -0.0000001, "quantiles": {"1%": -0.25, "25%": 0.0, "50%": 0.125, "75%": 0.5, "99%": 1.0}}


def described(build_id: str, quality: dict[str, Any]) -> dict[str, Any]:
    recall = [{"k": k, "mean": 0.9951, "lower_bound": 0.9912} for k in (10, 100)]
    return {
        "path": f"builds/<{build_id}>",
        "build_id": build_id,
        "created": "2026-01-01T12:00:00",
        "source": "products.jsonl",
        "base": None,
        "products": 2_460,
        "distinct_vectors": 2_400,
        "dropped_rows": 0,
        "dimension": 300,
        "embedding_model": None,
        "index": "Flat",
        "storage": "fp32",
        "worst": "negated",
        "bytes": 6_512_345,
        "recall": {"target": 0.99, "users_from": "users.jsonl", "best": recall, "worst": recall},
        "quality": quality,
    }


@pytest.fixture
def facts() -> dict[str, Any]:
    """Two builds of which no user's lists have a product in common."""
    overlap = {"same_lists": 0.0, "count": 3, "mean": 0.0, "quantiles": dict.fromkeys(("0%", "25%", "50%"), 0.0)}
    side = {
        "overlap": [{"k": k, **overlap} for k in (10, 100)],
        "moves": {"unmoved": None, **NOTHING},
        "shifts": NOTHING,
        "scores": {"a": SCORES, "b": SCORES},
    }
    counts = {"edges": [0, 1], "best": [3], "worst": [3]}
    none = {"count": 0, "first": []}
    return {
        "a": described("one", {"best": {"gini": 0.5, "largest_share": 1234.5}}),
        "b": described("two", {"best": {"gini": 0.25}, "near_duplicates": {"pairs": 7}}),
        "warnings": ["models <differ>"],
        "products": {"common": 1_000, "gained": {"count": 1_001, "first": [{"id": "x", "name": "<x>"}]}, "lost": none},
        "fields": {"gained": [], "lost": [], "changed": []},
        "users": {"count": 3, "available": 3, "from": "means of random products", "synthetic": True},
        "sides": {"best": side, "worst": side},
        "histograms": {
            "overlap": counts,
            "moves": {**counts, "best": [0], "worst": [0]},
            **{f"scores_{side}": {"edges": [0, 1], "a": [3], "b": [3]} for side in ("best", "worst")},
        },
    }


def test_the_text_holds_all_facts_in_aligned_columns(facts: dict[str, Any]) -> None:
    text = render_text(facts)
    lines = [re.split(" {2,}", line) for line in text.splitlines()]
    for expected in (
        ["A is builds/<one>."],
        ["Warning: models <differ>."],
        ["products", "2,460", "2,460"],
        ["embedding model", "-", "-"],
        ["size", "6.5 MB", "6.5 MB"],
        ["recall@100 worst", "0.9951 (at least 0.9912)", "0.9951 (at least 0.9912)"],
        ["gini best", "0.5", "0.25"],
        ["largest share best", "1,234.5", "-"],
        ["pairs near duplicates", "-", "7"],
        ["1,000 products are in both; B has gained 1,001 and lost 0."],
        ["gained", "x", "<x>"],
        ["The same in both."],
        ["Lists of 3 synthetic users, means of random products that both have."],
        ["worst", "100", "0.0000", "0.0000", "0.0000", "0.0000", "0.0%"],
        ["best", "0", "-", "-", "-", "-", "-"],
        ["worst", "ten, in A", "0.0000", "-0.2500", "0.0000", "0.1250", "0.5000", "1.0000"],
        ["worst", "B less A", "-", "-", "-", "-", "-", "-"],
    ):
        assert expected in lines
    assert (
        "\nside   in both lists  unmoved  mean  50%  99%  most\nbest               0        -     -    -    -     -\n"
        in text
    )


def test_the_page_leaves_out_charts_that_would_be_empty_and_escapes_all_texts(facts: dict[str, Any]) -> None:
    page = render_page(facts)
    titles = re.findall(r'<svg viewBox="0 0 480 300" role="img" aria-label="(.*?)"', page)
    assert titles == ["Overlap of the ten", "Scores of the ten best", "Scores of the ten worst"]
    assert "<title>one compared with two</title>" in page
    assert "A is builds/&lt;one&gt;.\nB is builds/&lt;two&gt;.\nWarning: models &lt;differ&gt;.</p>" in page
    assert "<tr><td>gained</td><td>x</td><td>&lt;x&gt;</td></tr>" in page
    assert '<td>worst</td><td class="number">100</td><td class="number">0.0000</td>' in page
    assert not re.search(r"<script|https?:|src=|NaN|None", page)


def test_users_of_a_file_are_said_to_be_so(facts: dict[str, Any]) -> None:
    for available, said in (
        (3, "Lists of 3 users in users.jsonl."),
        (5_000, "Lists of 3 users of the 5,000 in users.jsonl."),
    ):
        facts["users"] = {"count": 3, "available": available, "from": "users.jsonl", "synthetic": False}
        assert f"\n{said}\n" in render_text(facts)
