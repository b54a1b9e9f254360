"""A comparison of two builds as one page that needs nothing else, of the same kind as a build's report."""

from html import escape

from index_builder.report.charts import histogram
from index_builder.report.comparison.sections import Facts, Section, sections_of
from index_builder.report.html import figure, page, table

# By histogram: the chart's title, and what its axes say.
_CHARTS = {
    "overlap": ("Overlap of the ten", "share of a list that both have", "users"),
    "moves": ("Moves among the hundred", "ranks", "products in both lists"),
    "scores_best": ("Scores of the ten best", "cosine similarity", "matches"),
    "scores_worst": ("Scores of the ten worst", "cosine similarity", "matches"),
}


def render_page(facts: Facts) -> str:
    """Return the page of a comparison's facts, as `compare` returns them."""
    title = f"{facts['a']['build_id']} compared with {facts['b']['build_id']}"
    return page(title, [_section(section, facts) for section in sections_of(facts)])


def _section(section: Section, facts: Facts) -> str:
    sentences = "\n".join(map(escape, section.sentences))
    rows = [[*map(escape, row)] for row in section.rows]
    shown = table(section.header, rows, section.numbers) if rows else ""
    figures = [_figure(facts, name) for name in section.histograms]
    charts = f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""
    return f"<h2>{escape(section.title)}</h2>\n<p>{sentences}</p>\n{shown}\n{charts}"


def _figure(facts: Facts, name: str) -> str:
    """Return the chart of a histogram, unless it counts nothing."""
    series = [key for key in facts["histograms"][name] if key != "edges"]
    if not any(any(facts["histograms"][name][key]) for key in series):
        return ""
    swatches = (
        f'<span class="swatch kind{i}"></span> {key.upper() if len(key) == 1 else key}' for i, key in enumerate(series)
    )
    return figure(histogram(facts, name, *_CHARTS[name]), f"{', '.join(swatches)}.")
