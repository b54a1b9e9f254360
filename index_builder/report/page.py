"""The report of a build as one page that needs nothing else: `report.html`."""

from html import escape
from itertools import zip_longest

from index_builder.report.charts import COLOURS, Facts, histogram, kinds_in_order, lorenz, promise, trade_off
from index_builder.report.html import figure, page, table
from index_builder.tuning.users import SYNTHETIC
from retrieval.artifact.quality import MIN_NEAR_COSINE
from retrieval.search.ranking import SIDES

_SIDES = '<span class="swatch kind0"></span> the ten best, <span class="swatch kind1"></span> the ten worst.'


def render(facts: Facts) -> str:
    """Return the page of a build's facts, as they stand in `recall.json`."""
    title = f"{facts['index']} over {facts['catalogue']['products']:,} products"
    sections = [_promise(facts), _speed(facts), _lists(facts), _fields(facts), _filters(facts), _catalogue(facts)]
    return page(title, sections)


def _promise(facts: Facts) -> str:
    recall = facts["recall"]
    verdict = "The promise is kept" if recall["kept"] else '<span class="missed">The promise is NOT kept</span>'
    synthetic = "synthetic users: " if SYNTHETIC in recall["users_from"] else ""
    rows = [
        [side, str(each["k"]), f"{each['mean']:.4f}", f"{each['lower_bound']:.4f}", f"{each['users']:,}"]
        for side in SIDES
        for each in recall[side]
    ]
    return f"""<h2>Recall</h2>
<p>{verdict}: on each side at least {recall["target"]:g} of the 10 and of the 100 products that an exact scan finds.
Measured on {synthetic}{escape(recall["users_from"])}. The lower bound is that of a 95 % confidence interval.</p>
<div class="charts">{figure(promise(facts), "A dot is the mean, and the bar below it goes down to the lower bound.")}
{table(["side", "k", "mean", "lower bound", "users"], rows, numbers=(1, 2, 3, 4))}</div>"""


def _speed(facts: Facts) -> str:
    caption = "Each dot is a way to search that was measured; the ring marks the chosen one."
    charts = "".join(figure(trade_off(facts, side), caption) for side in SIDES)
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
{table(["kind", "ms a user", ""], rows, numbers=(1,))}"""


def _milliseconds(facts: Facts, kind: str) -> str:
    """Return how long a kind takes: as chosen, or else at the quickest that meets the target, if anything does."""
    trials = [trial for trial in facts["measured"] if trial["factory"] == kind]
    meeting = [trial for trial in trials if all(trial[side]["meets_target"] for side in SIDES)]
    shown = [facts["chosen"]] if kind == facts["index"] else meeting or trials
    return f"{min(trial['seconds'] for trial in shown) * 1e3:.3f}"


def _fate(facts: Facts, kind: str) -> str:
    if kind == facts["index"]:
        return "chosen"
    seconds = [trial["seconds"] for trial in facts["measured"] if trial["factory"] == kind]
    is_slower = bool(seconds) and min(seconds) >= facts["chosen"]["seconds"]
    return escape(facts["dropped"].get(kind, "slower" if is_slower else "not chosen"))


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
{table(header, rows, numbers=range(1, 6))}
<div class="charts">{figure(lorenz(facts), caption)}</div>
{_hubs(facts)}
{_near_duplicates(facts)}"""


def _hubs(facts: Facts) -> str:
    """Return a table of the products that are listed most."""
    users = facts["quality"]["users"]
    sides = [[[escape(hub["name"]), f"{hub['lists'] / users:.1%}"] for hub in facts["hubs"][side]] for side in SIDES]
    rows = [[*best, *worst] for best, worst in zip_longest(*sides, fillvalue=["", ""])]
    header = [text for side in SIDES for text in (f"listed most, {side} side", "lists")]
    return table(header, rows, numbers=(1, 3))


def _near_duplicates(facts: Facts) -> str:
    found = facts["quality"]["near_duplicates"]
    vectors = f"{found['vectors']:,} of {found['sampled']:,} distinct vectors"
    text = f"<p>{vectors} have a cosine of {MIN_NEAR_COSINE} or more with another.</p>"
    rows = [
        [*(escape(product["name"]) for product in pair["products"]), f"{pair['cosine']:.6f}"]
        for pair in facts["near_pairs"]
    ]
    return text + (table(["product", "and one nearly the same", "cosine"], rows, numbers=(2,)) if rows else "")


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
    shown = table(["field", "type", "values", "products that have it"], rows, numbers=(2,))
    return f"<h2>Fields</h2>\n{shown}{further}"


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
{table(["products", *(f"{share:.1%}" for share in shares)], rows)}"""


def _cell(cell: Facts) -> str:
    if cell["path"] == "exact":
        return "exact"
    return f"{cell['best']['lower_bound']:.4f} / {cell['worst']['lower_bound']:.4f}"


def _catalogue(facts: Facts) -> str:
    catalogue = facts["catalogue"]
    scores = histogram(facts, "scores", "Scores of the users' matches", "cosine similarity", "matches")
    figures = [figure(scores, _SIDES)]
    if "norms_log10" in facts["histograms"]:
        norms = histogram(facts, "norms_log10", "Lengths of vectors", "decimal logarithm of the length", "products")
        figures.append(figure(norms, "Before they were scaled to length 1."))
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in catalogue["row_faults"])
    faults = faults and f"<ul>{faults}</ul>"
    return f"""<h2>Catalogue</h2>
<p>{catalogue["products"]:,} products of {catalogue["dimension"]:,} dimensions.
{catalogue["products_in_such_groups"]:,} of them share their vector with another.
{_dropped_rows(catalogue["dropped_rows"])}{":" if catalogue["row_faults"] else "."}</p>
{faults}
<div class="charts">{"".join(figures)}</div>"""


def _dropped_rows(count: int) -> str:
    return "1 bad row was dropped" if count == 1 else f"{count:,} bad rows were dropped"
