"""HTML that needs nothing else: a page, its figures and its tables."""

from collections.abc import Iterable, Sequence
from html import escape

from index_builder.report.svg import Chart

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
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px }}
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


def page(title: str, sections: Iterable[str]) -> str:
    """Return a page of sections that are HTML, without the empty ones."""
    return _PAGE.format(title=escape(title), body="\n".join(filter(None, sections)))


def figure(chart: Chart, caption: str) -> str:
    """Return a chart above its title and a caption, which is HTML."""
    return f"<figure>{chart}<figcaption>{escape(chart.title)}. {caption}</figcaption></figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of cells that are HTML; the columns of `numbers` are set right."""
    styles = [' class="number"' if i in numbers else "" for i in range(len(header))]
    head = "".join(f"<th{style}>{each}</th>" for style, each in zip(styles, header, strict=True))
    lines = ("".join(f"<td{style}>{cell}</td>" for style, cell in zip(styles, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
