"""The page of a build shows what its `recall.json` holds."""

import math
import re
from typing import Any

import pytest

from index_builder.report.charts import lorenz, promise, trade_off
from index_builder.report.page import render

AT_10, AT_100 = ({"k": k, "users": 300, "mean": 0.9951, "lower_bound": 0.9912} for k in (10, 100))


def effort(candidates: int, recall: float) -> dict[str, Any]:
    settings = {"candidates": candidates, "per_match": 1.0, "nprobe": 1}
    return {"settings": settings, "recall": {**AT_10, "mean": recall}, "meets_target": recall > 0.99}


def trial(factory: str, best: dict[str, Any], worst: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {"factory": factory, "best": best, "worst": worst, "seconds": seconds}


@pytest.fixture
def facts() -> dict[str, Any]:
    cell = {"products": "liked", "share": 0.1, "path": "candidates", "best": AT_10, "worst": AT_10}
    return {
        "recall": {
            "target": 0.99,
            "kept": True,
            "users_from": "<users>.json",
            "best": [AT_10, AT_100],
            "worst": [AT_10, AT_100],
            "filtered": [cell, {**cell, "share": 0.5, "path": "exact"}],
        },
        "index": "Tiers64x1",
        "chosen": trial("Tiers64x1", effort(60, 0.9951), effort(75, 0.9962), 0.0002),
        "measured": [
            trial("Flat", effort(0, 1.0), effort(0, 1.0), 0.001),
            trial("Tiers64x1", effort(48, 0.93), effort(48, 0.98), 0.0001),
            trial("Tiers64x2", effort(94, 0.97), effort(94, 0.98), 0.0003),
        ],
        "dropped": {"Tiers64x2": "misses the target for some", "Tiers32x1": "needs <more>"},
        "quality": {
            "k": 10,
            "users": 200,
            "users_from": "<users>.json",
            "best": {"coverage": 0.375, "gini": 0.78, "hubness": 3.21, "largest_share": 0.065, "ild": 0.1124},
            "worst": {"coverage": 0.0768, "gini": 0.97, "hubness": 10.9, "largest_share": 0.48, "ild": 0.34},
            "near_duplicates": {"sampled": 1500, "vectors": 3, "pairs": 2},
        },
        "hubs": {
            "best": [{"id": "a", "name": "<soup>", "lists": 13}, {"id": "b", "name": "stew", "lists": 12}],
            "worst": [{"id": "c", "name": "ice", "lists": 96}],
        },
        "near_pairs": [{"products": [{"id": "a", "name": "<soup>"}, {"id": "d", "name": "broth"}], "cosine": 0.99951}],
        "lorenz": {"best": [0.0, 0.25, 1.0], "worst": [0.0, 0.0, 1.0]},
        "catalogue": {
            "products": 20_000,
            "dimension": 64,
            "dropped_rows": 1,
            "row_faults": ["line 3: vector is <short>"],
            "products_in_such_groups": 7,
        },
        "fields": {
            "filterable": [{"name": "<brand>", "type": "keyword", "values": 1200, "coverage": 0.5}],
            "not_filterable": {"size": "has values of several types"},
            "further": 3,
        },
        "histograms": {
            "scores": {"edges": [-0.5, 0.0, 0.5], "best": [0, 30], "worst": [20, 0]},
            "norms_log10": {"edges": [0.0, 1.0, 2.0], "products": [5, 6]},
        },
    }


def cells_of(page: str) -> list[list[str]]:
    """The text of each table's rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[re.sub("<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]


def test_all_tables_hold_the_facts(facts: dict[str, Any]) -> None:
    rows = cells_of(render(facts))
    assert [row for row in rows if row] == [
        *([side, str(k), "0.9951", "0.9912", "300"] for side in ("best", "worst") for k in (10, 100)),
        ["Tiers64x1", "0.200", "chosen"],
        ["Flat", "1.000", "slower"],
        ["Tiers64x2", "0.300", "misses the target for some"],
        ["Tiers32x1", "", "needs &lt;more&gt;"],
        ["best", "37.5%", "0.780", "3.2", "6.5%", "0.112"],
        ["worst", "7.7%", "0.970", "10.9", "48.0%", "0.340"],
        ["&lt;soup&gt;", "6.5%", "ice", "48.0%"],
        ["stew", "6.0%", "", ""],
        ["&lt;soup&gt;", "broth", "0.999510"],
        ["&lt;brand&gt;", "keyword", "1,200", "50.0%"],
        ["size", "not filterable", "", "has values of several types"],
        ["liked", "0.9912 / 0.9912", "exact"],
    ]


def test_a_kind_that_is_quicker_than_the_chosen_one_is_not_called_slower(facts: dict[str, Any]) -> None:
    facts["measured"][0]["seconds"] = 0.0001
    assert ["Flat", "0.100", "not chosen"] in cells_of(render(facts))


def test_texts_say_what_the_tables_cannot(facts: dict[str, Any]) -> None:
    page = render(facts)
    assert "<title>Tiers64x1 over 20,000 products</title>" in page
    assert "The promise is kept: on each side at least 0.99 of" in page
    assert "Measured on &lt;users&gt;.json. The" in page
    assert "The first 10 matches a side of 200 users: &lt;users&gt;.json.\n" in page
    assert "<p>3 of 1,500 distinct vectors have a cosine of 0.999 or more with another.</p>" in page
    assert "3 further fields were not looked at." in page
    assert "1 bad row was dropped:</p>\n<ul><li>line 3: vector is &lt;short&gt;</li></ul>" in page
    assert not re.search(r"<script|https?:|src=|NaN|None", page)


def test_a_broken_promise_and_synthetic_users_are_said_so(facts: dict[str, Any]) -> None:
    facts["recall"] |= {"kept": False, "users_from": "means of random products"}
    page = render(facts)
    assert '<span class="missed">The promise is NOT kept</span>' in page
    assert "Measured on synthetic users: means of random products. The" in page


def test_what_a_build_does_not_have_is_left_out(facts: dict[str, Any]) -> None:
    facts["fields"] = {"filterable": [], "not_filterable": {}, "further": 0}
    facts["recall"]["filtered"] = facts["near_pairs"] = []
    page = render(facts)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Recall", "Kinds of index", "Lists", "Catalogue"]
    assert "and one nearly the same" not in page


def test_the_chosen_point_lies_on_its_curve_and_the_axis_ends_at_one(facts: dict[str, Any]) -> None:
    svg = str(trade_off(facts, "worst"))
    curve = re.findall(r'<polyline class="curve kind0" points="(.*?)"', svg)[0].split()
    ring = re.findall(r'<circle class="ring" cx="(.*?)" cy="(.*?)" r="9"><title>(.*?)</title>', svg)[0]
    assert curve[-1] == ",".join(ring[:2])
    assert ring[2] == "chosen: Tiers64x1, 75 candidates: recall@10 0.9962 in 0.200 ms"
    assert len(curve) == 2
    assert max(float(text) for text in re.findall(r'text-anchor="end">(.*?)<', svg)) == 1


def places_in(svg: str, lowest: float, trials: list[tuple[float, float]]) -> None:
    """Assert that trials (milliseconds, recall) are drawn in this order, between the lowest recall shown and 1.

    Times lie at equal factors from 0.8 of the least, 0.1 ms, to 1.25 of the greatest, 1 ms.
    """
    decades = math.log10(1.25 / 0.08)
    places = [
        (64 + 400 * math.log10(time / 0.08) / decades, 248 - 224 * (max(recall, lowest) - lowest) / (1 - lowest))
        for time, recall in trials
    ]
    dots = re.findall(r'<circle class="kind\d" cx="(.*?)" cy="(.*?)"', svg)
    assert [(float(x), float(y)) for x, y in dots] == [pytest.approx(place, abs=0.051) for place in places]
    [promised] = re.findall(r'"promise" d="M64 (.*?)H464"', svg)
    assert float(promised) == pytest.approx(248 - 224 * (0.99 - lowest) / (1 - lowest), abs=0.051)


def test_trials_lie_where_their_time_and_their_recall_are(facts: dict[str, Any]) -> None:
    times = [0.1, 0.2, 1.0, 0.3]  # of the chosen kind by its candidates, and then of the others
    places_in(str(trade_off(facts, "worst")), 0.979, [*zip(times, [0.98, 0.9962, 1.0, 0.98], strict=True)])
    places_in(str(trade_off(facts, "best")), 0.939, [*zip(times, [0.93, 0.9951, 1.0, 0.97], strict=True)])


def test_recall_far_below_the_promise_does_not_squeeze_the_rest(facts: dict[str, Any]) -> None:
    facts["measured"][1]["best"]["recall"]["mean"] = 0.1
    svg = str(trade_off(facts, "best"))
    places_in(svg, 0.939, [(0.1, 0.0), (0.2, 0.9951), (1.0, 1.0), (0.3, 0.97)])


def test_the_promise_is_a_line_below_what_was_measured(facts: dict[str, Any]) -> None:
    svg = str(promise(facts))
    level = float(re.findall(r'<path class="promise" d="M64 (.*?)H', svg)[0])
    whiskers = re.findall(r'<polyline class="whisker" points="(.*?),(.*?) (.*?),(.*?)"', svg)
    assert len(whiskers) == 4
    for x, lower, same_x, mean in whiskers:
        assert x == same_x
        assert float(mean) < float(lower) < level
    _, lower, _, mean = map(float, whiskers[0])
    a_unit = (lower - mean) / (0.9951 - 0.9912)
    assert level == pytest.approx(lower + a_unit * (0.9912 - 0.99), abs=0.2)


def test_a_side_whose_products_are_all_listed_alike_lies_on_the_diagonal(facts: dict[str, Any]) -> None:
    facts["lorenz"]["best"] = [0.0, 0.5, 1.0]
    lines = dict(re.findall(r'<polyline class="(.*?)" points="(.*?)"', str(lorenz(facts))))
    (left, bottom), (right, top) = (map(float, point.split(",")) for point in lines["grid"].split())
    middle = f"{(left + right) / 2:.1f}"
    assert lines["curve kind0"].split()[1] == f"{middle},{(bottom + top) / 2:.1f}"
    assert lines["curve kind1"] == f"{left:.1f},{bottom:.1f} {middle},{bottom:.1f} {right:.1f},{top:.1f}"
