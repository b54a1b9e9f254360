"""The report of a build as one page that needs nothing else: `report.html`."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest

from index_builder.report.charts import COLOURS, Facts, histogram, kinds_in_order, lorenz, promise, trade_off
from index_builder.report.svg import Chart
from index_builder.tuning.users import SYNTHETIC
from retrieval.artifact.quality import MIN_NEAR_COSINE
from retrieval.search.ranking import SIDES

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#c9ced6, #444b57); --quiet: light-dark(#586069, #9aa4b2) }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 16px }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere }}
h2 {{ font-size: 1.15rem; margin-top: 2rem }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px }}
figure {{ margin: 0 }}
figcaption {{ color: var(--quiet) }}
svg {{ width: 100%; height: auto; font-size: 13px }}
svg text {{ fill: var(--quiet) }}
svg path, svg polyline {{ fill: none }}
.axis {{ stroke: var(--quiet) }}
.grid {{ stroke: var(--line); stroke-width: .6 }}
.promise {{ stroke: #c62828; stroke-dasharray: 6 4; stroke-width: 1.5 }}
.curve, .whisker {{ stroke: currentColor; stroke-width: 1.5 }}
.whisker {{ color: #1f77b4; stroke-width: 3 }}
.ring {{ fill: none; stroke: currentColor; stroke-width: 2 }}
circle, rect {{ fill: currentColor }}
.fill {{ opacity: .6 }}
.kind0 {{ color: #1f77b4 }} .kind1 {{ color: #e67e22 }} .kind2 {{ color: #2e9e5b }}
.kind3 {{ color: #a259c4 }} .kind4 {{ color: #b5892f }} .kind5 {{ color: #7f8894 }}
.scroll {{ overflow-x: auto; margin-top: 8px }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); white-space: nowrap }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
.swatch {{ display: inline-block; width: .7em; height: .7em; border-radius: 50%; background: currentColor }}
.missed {{ color: #c62828; font-weight: 600 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""

_SIDES = '<span class="swatch kind0"></span> the ten best, <span class="swatch kind1"></span> the ten worst.'


def render(facts: Facts) -> str:
    """Return the page of a build's facts, as they stand in `recall.json`."""
    title = f"{facts['index']} over {facts['catalogue']['products']:,} products"
    sections = [_promise(facts), _speed(facts), _lists(facts), _fields(facts), _filters(facts), _catalogue(facts)]
    return _PAGE.format(title=escape(title), body="\n".join(filter(None, sections)))


def _promise(facts: Facts) -> str:
    recall = facts["recall"]
    verdict = "The promise is kept" if recall["kept"] else '<span class="missed">The promise is NOT kept</span>'
    synthetic = ", which are synthetic users" if SYNTHETIC in recall["users_from"] else ""
    rows = [
        [side, str(each["k"]), f"{each['mean']:.4f}", f"{each['lower_bound']:.4f}", f"{each['users']:,}"]
        for side in SIDES
        for each in recall[side]
    ]
    return f"""<h2>Recall</h2>
<p>{verdict}: on each side at least {recall["target"]:g} of the 10 and of the 100 products that an exact scan finds.
Measured on {escape(recall["users_from"])}{synthetic}. The lower bound is that of a 95 % confidence interval.</p>
<div class="charts">{_figure(promise(facts), "A dot is the mean, and the bar below it goes down to the lower bound.")}
{_table(["side", "k", "mean", "lower bound", "users"], rows, numbers=(1, 2, 3, 4))}</div>"""


def _speed(facts: Facts) -> str:
    caption = "Each dot is a way to search that was measured; the ring marks the chosen one."
    charts = "".join(_figure(trade_off(facts, side), caption) for side in SIDES)
    rows = [
        [
            f'<span class="swatch kind{min(number, COLOURS - 1)}"></span> {escape(kind)}',
            _milliseconds(facts, kind),
            _fate(facts, kind),
        ]
        for number, kind in enumerate(kinds_in_order(facts))
    ]
    unmeasured = [kind for kind in facts["dropped"] if kind not in kinds_in_order(facts)]
    rows += [[escape(kind), "", _fate(facts, kind)] for kind in unmeasured]
    return f"""<h2>Kinds of index</h2>
<div class="charts">{charts}</div>
{_table(["kind", "ms a user", ""], rows, numbers=(1,))}"""


def _milliseconds(facts: Facts, kind: str) -> str:
    """Return how long a kind takes: as chosen, or else at the quickest that meets the target, if anything does."""
    trials = [trial for trial in facts["measured"] if trial["factory"] == kind]
    meeting = [trial for trial in trials if all(trial[side]["meets_target"] for side in SIDES)]
    shown = [facts["chosen"]] if kind == facts["index"] else meeting or trials
    return f"{min(trial['seconds'] for trial in shown) * 1e3:.3f}"


def _fate(facts: Facts, kind: str) -> str:
    return "chosen" if kind == facts["index"] else escape(facts["dropped"].get(kind, "slower"))


def _lists(facts: Facts) -> str:
    quality = facts["quality"]
    rows = [
        [
            side,
            f"{quality[side]['coverage']:.1%}",
            f"{quality[side]['gini']:.3f}",
            f"{quality[side]['hubness']:.1f}",
            f"{quality[side]['largest_share']:.1%}",
            f"{quality[side]['ild']:.3f}",
        ]
        for side in SIDES
    ]
    header = ["side", "products in any list", "Gini", "hubness", "lists with the top product", "distance within a list"]
    caption = f"{_SIDES} The grey line is where all products are listed alike; Gini is twice the area between."
    return f"""<h2>Lists</h2>
<p>The first {quality["k"]} matches a side of {quality["users"]:,} users: {escape(quality["users_from"])}.
Hubness is the skewness of how often a product is listed, and distance the mean of 1 - cosine over the pairs of a
list.</p>
<div class="charts">{_figure(lorenz(facts), caption)}<div>
{_table(header, rows, numbers=range(1, 6))}
{_hubs(facts)}</div></div>
{_near_duplicates(facts)}"""


def _hubs(facts: Facts) -> str:
    """Return a table of the products that are listed most."""
    users = facts["quality"]["users"]
    sides = [[[escape(hub["name"]), f"{hub['lists'] / users:.1%}"] for hub in facts["hubs"][side]] for side in SIDES]
    rows = [[*best, *worst] for best, worst in zip_longest(*sides, fillvalue=["", ""])]
    header = [text for side in SIDES for text in (f"listed most, {side} side", "lists")]
    return _table(header, rows, numbers=(1, 3))


def _near_duplicates(facts: Facts) -> str:
    found = facts["quality"]["near_duplicates"]
    vectors = f"{found['vectors']:,} of {found['sampled']:,} distinct vectors"
    text = f"<p>{vectors} have a cosine of {MIN_NEAR_COSINE} or more with another.</p>"
    rows = [
        [*(escape(product["name"]) for product in pair["products"]), f"{pair['cosine']:.6f}"]
        for pair in facts["near_pairs"]
    ]
    return text + (_table(["product", "and one nearly the same", "cosine"], rows, numbers=(2,)) if rows else "")


def _fields(facts: Facts) -> str:
    fields = facts["fields"]
    rows = [
        [escape(each["name"]), each["type"], f"{each['values']:,}", f"{each['coverage']:.1%}"]
        for each in fields["filterable"]
    ]
    rows += [[escape(name), "not filterable", "", escape(reason)] for name, reason in fields["not_filterable"].items()]
    if not rows:
        return ""
    further = f"<p>{fields['further']:,} further fields were not looked at.</p>" if fields["further"] else ""
    table = _table(["field", "type", "values", "products that have it"], rows, numbers=(2,))
    return f"<h2>Fields</h2>\n{table}{further}"


def _filters(facts: Facts) -> str:
    cells = facts["recall"]["filtered"]
    if not cells:
        return ""
    shares = list(dict.fromkeys(cell["share"] for cell in cells))
    rows = [
        [name, *(_cell(each) for each in cells if each["products"] == name)]
        for name in dict.fromkeys(cell["products"] for cell in cells)
    ]
    return f"""<h2>Recall under filters</h2>
<p>The lower bound of recall@10, best / worst, by the share of the products that a filter lets through: random ones, or
those nearest to what each user likes or does not like. “exact” is where all that match are compared.</p>
{_table(["products", *(f"{share:.1%}" for share in shares)], rows)}"""


def _cell(cell: Facts) -> str:
    if cell["path"] == "exact":
        return "exact"
    return f"{cell['best']['lower_bound']:.4f} / {cell['worst']['lower_bound']:.4f}"


def _catalogue(facts: Facts) -> str:
    catalogue = facts["catalogue"]
    scores = histogram(facts, "scores", "Scores of the users' matches", "cosine similarity", "matches")
    figures = [_figure(scores, _SIDES)]
    if "norms_log10" in facts["histograms"]:
        norms = histogram(facts, "norms_log10", "Lengths of vectors", "decimal logarithm of the length", "products")
        figures.append(_figure(norms, "Before they were scaled to length 1."))
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in catalogue["row_faults"])
    faults = faults and f"<ul>{faults}</ul>"
    return f"""<h2>Catalogue</h2>
<p>{catalogue["products"]:,} products of {catalogue["dimension"]:,} dimensions.
{catalogue["products_in_such_groups"]:,} of them share their vector with another.
{catalogue["dropped_rows"]:,} bad rows were dropped{":" if catalogue["row_faults"] else "."}</p>
{faults}
<div class="charts">{"".join(figures)}</div>"""


def _figure(chart: Chart, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{escape(chart.title)}. {caption}</figcaption></figure>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of cells that are HTML; the columns of `numbers` are set right."""
    styles = [' class="number"' if i in numbers else "" for i in range(len(header))]
    head = "".join(f"<th{style}>{each}</th>" for style, each in zip(styles, header, strict=True))
    lines = ("".join(f"<td{style}>{cell}</td>" for style, cell in zip(styles, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
