"""The charts of a build's report, drawn from its facts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from index_builder.report.svg import Chart, Linear, Logarithmic, Names
from retrieval.search.ranking import SIDES

COLOURS = 6  # The page has classes kind0 to kind5, and the last one stands for all further kinds.
_SMALLEST_SECONDS = 1e-7
_MAX_SHORTFALL, _MARGIN = 0.05, 0.001

Facts = dict[str, Any]


def kinds_in_order(facts: Facts) -> list[str]:
    """Return the kinds that were measured, the chosen one first."""
    return list(dict.fromkeys([facts["index"], *(trial["factory"] for trial in facts["measured"])]))


def trade_off(facts: Facts, side: str) -> Chart:
    """Draw recall against time on one side: a curve a kind, the promise as a line, and the chosen point."""
    target, chosen = facts["recall"]["target"], facts["chosen"]
    trials = [*facts["measured"], chosen]
    times = [_milliseconds(trial) for trial in trials]
    chart = Chart(
        f"Recall against time, {side} side",
        Logarithmic("milliseconds a user, both sides, one thread", 0.8 * min(times), 1.25 * max(times)),
        _recall_scale("recall@10", target, [_recall(trial, side) for trial in trials]),
    )
    chart.level(target, "promise", f"promise {target:g}")
    for number, kind in enumerate(kinds_in_order(facts)):
        of_kind = sorted((trial for trial in trials if trial["factory"] == kind), key=_candidates)
        style = f"kind{min(number, COLOURS - 1)}"
        chart.line([(_milliseconds(trial), _recall(trial, side)) for trial in of_kind], f"curve {style}")
        for trial in of_kind:
            chart.dot(_milliseconds(trial), _recall(trial, side), style, _tip(trial, side))
    chart.dot(_milliseconds(chosen), _recall(chosen, side), "ring", f"chosen: {_tip(chosen, side)}", radius=9)
    return chart


def promise(facts: Facts) -> Chart:
    """Draw the mean recall of each side at each k, down to its lower bound, and the promise as a line."""
    recall = facts["recall"]
    measured = {f"{side} {each['k']}": each for side in SIDES for each in recall[side]}
    bounds = [each["lower_bound"] for each in measured.values()]
    chart = Chart(
        "Recall of each side", Names("side and k", list(measured)), _recall_scale("recall", recall["target"], bounds)
    )
    chart.level(recall["target"], "promise", f"promise {recall['target']:g}")
    for place, (name, each) in enumerate(measured.items()):
        chart.line([(place, each["lower_bound"]), (place, each["mean"])], "whisker")
        chart.dot(
            place, each["mean"], "kind0", f"{name}: {each['mean']:.4f}, at least {each['lower_bound']:.4f}", radius=5
        )
    return chart


def histogram(facts: Facts, name: str, title: str, label: str, counted: str) -> Chart:
    """Draw how often values occur, by the name of a histogram in the facts."""
    series = dict(facts["histograms"][name])
    edges = series.pop("edges")
    highest = max(max(counts) for counts in series.values())
    chart = Chart(title, Linear(label, edges[0], edges[-1]), Linear(counted, 0, 1.1 * highest))
    for number, (key, counts) in enumerate(series.items()):
        for (start, end), count in zip(pairwise(edges), counts, strict=True):
            if count:
                chart.bar(start, end, count, f"fill kind{number}", f"{key}: {count:,} from {start:.4g} to {end:.4g}")
    return chart


def lorenz(facts: Facts) -> Chart:
    """Draw how evenly products are listed on each side: on the diagonal if all are listed alike."""
    chart = Chart(
        "How evenly products are listed",
        Linear("share of the products, those listed least first", 0, 1),
        Linear("share of all places in lists", 0, 1),
    )
    chart.line([(0, 0), (1, 1)], "grid")
    for number, side in enumerate(SIDES):
        shares = facts["lorenz"][side]
        chart.line([(i / (len(shares) - 1), share) for i, share in enumerate(shares)], f"curve kind{number}")
    return chart


def _recall_scale(label: str, target: float, recalls: Sequence[float]) -> Linear:
    """Return a scale that ends at 1 and shows the promise; what is far below it lies at the bottom."""
    lowest = max(min(target, *recalls), target - _MAX_SHORTFALL)
    return Linear(label, max(0.0, lowest - _MARGIN), 1.0)


def _recall(trial: Facts, side: str) -> float:
    mean: float = trial[side]["recall"]["mean"]
    return mean


def _milliseconds(trial: Facts) -> float:
    return max(trial["seconds"], _SMALLEST_SECONDS) * 1e3


def _candidates(trial: Facts) -> int:
    """Return how many rows both sides re-rank, by which time rises but for the machine's noise."""
    return sum(trial[side]["settings"]["candidates"] for side in SIDES)


def _tip(trial: Facts, side: str) -> str:
    settings = trial[side]["settings"]
    effort = f", {settings['candidates']:,} candidates" if settings["candidates"] else ""
    lists = f" of {settings['nprobe']:,} lists" if settings["nprobe"] > 1 else ""
    return f"{trial['factory']}{effort}{lists}: recall@10 {_recall(trial, side):.4f} in {_milliseconds(trial):.3f} ms"
