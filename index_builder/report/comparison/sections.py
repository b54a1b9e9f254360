"""What a comparison of two builds says, section by section, for the console and for the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrieval.search.ranking import SIDES

_NONE = "-"
_SHOWN_QUANTILES = ("1%", "25%", "50%", "75%", "99%")
_FACTS = {
    "build": "build_id",
    "published": "created",
    "from": "source",
    "delta on": "base",
    "products": "products",
    "distinct vectors": "distinct_vectors",
    "dropped rows": "dropped_rows",
    "embedding model": "embedding_model",
    "index": "index",
    "storage": "storage",
    "worst side": "worst",
}

Facts = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """Sentences, and a table of plain texts; the columns of `numbers` are set right.

    `histograms` are those of the facts that belong to it.
    """

    title: str
    sentences: list[str]
    header: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)
    numbers: Sequence[int] = ()
    histograms: Sequence[str] = ()


def sections_of(facts: Facts) -> list[Section]:
    """Return the sections of a comparison's facts, as `compare` returns them."""
    return [_builds(facts), _products(facts), _fields(facts), _lists(facts), _moves(facts), _scores(facts)]


def _builds(facts: Facts) -> Section:
    pair = facts["a"], facts["b"]
    rows = [[label, *(_text(each[name]) for each in pair)] for label, name in _FACTS.items()]
    rows.append(["size", *(f"{each['bytes'] / 1e6:.1f} MB" for each in pair)])
    rows.append(["recall promised", *(f"{each['recall']['target']:g}" for each in pair)])
    rows.append(["recall measured on", *(each["recall"]["users_from"] for each in pair)])
    rows += _side_by_side([_recall(each) for each in pair])
    rows += _side_by_side([_quality(each) for each in pair])
    sentences = [f"{name} is {each['path']}." for name, each in zip("AB", pair, strict=True)]
    return Section("Builds", [*sentences, *(f"Warning: {text}." for text in facts["warnings"])], ("", "A", "B"), rows)


def _recall(build: Facts) -> dict[str, str]:
    return {
        f"recall@{each['k']} {side}": f"{each['mean']:.4f} (at least {each['lower_bound']:.4f})"
        for side in SIDES
        for each in build["recall"][side]
    }


def _quality(build: Facts) -> dict[str, str]:
    return {
        f"{name.replace('_', ' ')} {part.replace('_', ' ')}": f"{value:,.6g}"
        for part, members in build["quality"].items()
        for name, value in members.items()
    }


def _side_by_side(measured: list[dict[str, str]]) -> list[list[str]]:
    """Return a row for whatever either build has measured."""
    labels = dict.fromkeys(label for of_build in measured for label in of_build)
    return [[label, *(of_build.get(label, _NONE) for of_build in measured)] for label in labels]


def _products(facts: Facts) -> Section:
    products = facts["products"]
    rows = [
        [change, product["id"], product["name"]]
        for change in ("gained", "lost")
        for product in products[change]["first"]
    ]
    gained, lost = (products[change]["count"] for change in ("gained", "lost"))
    sentence = f"{products['common']:,} products are in both; B has gained {gained:,} and lost {lost:,}."
    listed = "The first of them in catalogue order:" if rows else ""
    return Section("Products", [*filter(None, (sentence, listed))], ("", "id", "name"), rows)


def _fields(facts: Facts) -> Section:
    fields = facts["fields"]
    rows = [
        *([each["name"], _NONE, each["type"]] for each in fields["gained"]),
        *([each["name"], each["type"], _NONE] for each in fields["lost"]),
        *([each["name"], each["a"], each["b"]] for each in fields["changed"]),
    ]
    sentence = "These can be filtered by in one of the builds, or have other types." if rows else "The same in both."
    return Section("Fields to filter by", [sentence], ("field", "A", "B"), rows)


def _lists(facts: Facts) -> Section:
    rows = [
        [
            side,
            str(each["k"]),
            f"{each['mean']:.4f}",
            *_quantiles_of(each, ("0%", "25%", "50%"), 4),
            f"{each['same_lists']:.1%}",
        ]
        for side in SIDES
        for each in facts["sides"][side]["overlap"]
    ]
    return Section(
        "Overlap of lists",
        [
            _users(facts["users"]),
            "Overlap is the share of a user's list that is the same in both builds, in any order.",
        ],
        ("side", "k", "overlap", "least", "25%", "50%", "same list and order"),
        rows,
        (1, 2, 3, 4, 5, 6),
        ("overlap",),
    )


def _users(users: Facts) -> str:
    if users["synthetic"]:
        return f"Lists of {users['count']:,} synthetic users, {users['from']} that both have."
    share = "" if users["count"] == users["available"] else f" of the {users['available']:,}"
    return f"Lists of {users['count']:,} users{share} in {users['from']}."


def _moves(facts: Facts) -> Section:
    rows = [
        [
            side,
            f"{moves['count']:,}",
            _share(moves["unmoved"]),
            _number(moves["mean"], 2),
            *_quantiles_of(moves, ("50%", "99%", "100%"), 0),
        ]
        for side, moves in _of_sides(facts, "moves")
    ]
    sentence = "How many ranks a product moves, up or down, among the hundred of a user's lists that both builds show."
    header = ("side", "in both lists", "unmoved", "mean", "50%", "99%", "most")
    return Section("Moves in rank", [sentence], header, rows, (1, 2, 3, 4, 5, 6), ("moves",))


def _scores(facts: Facts) -> Section:
    rows = []
    for side in SIDES:
        of_side = facts["sides"][side]
        for label, spread, decimals in (
            ("ten, in A", of_side["scores"]["a"], 4),
            ("ten, in B", of_side["scores"]["b"], 4),
            ("B less A", of_side["shifts"], 6),
        ):
            shown = _quantiles_of(spread, _SHOWN_QUANTILES, decimals)
            rows.append([side, label, _number(spread["mean"], decimals), *shown])
    sentence = "Of the ten matches in each build, and how they shift for products among the hundred of both."
    header = ("side", "", "mean", *_SHOWN_QUANTILES)
    charts = [f"scores_{side}" for side in SIDES]
    return Section("Scores", [sentence], header, rows, range(2, len(header)), charts)


def _of_sides(facts: Facts, name: str) -> Iterable[tuple[str, Facts]]:
    return ((side, facts["sides"][side][name]) for side in SIDES)


def _quantiles_of(spread: Facts, names: Sequence[str], decimals: int) -> list[str]:
    return [_number(spread["quantiles"].get(name), decimals) for name in names]


def _number(value: float | None, decimals: int) -> str:
    return _NONE if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"  # Without a negative zero.


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else str(value)
