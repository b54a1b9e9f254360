"""A comparison of two builds for the console."""

from collections.abc import Sequence

from index_builder.report.comparison.sections import Facts, Section, sections_of

_GAP = "  "


def render_text(facts: Facts) -> str:
    """Return the facts of a comparison as aligned columns."""
    return "\n\n".join(map(_section, sections_of(facts)))


def _section(section: Section) -> str:
    lines = [section.title, *section.sentences]
    if section.rows:
        lines += _aligned([section.header, *section.rows], section.numbers)
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return [_GAP.join(line).rstrip() for line in lines]
