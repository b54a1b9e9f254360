"""The report of a build as files: `recall.json` for machines, and `report.html` for people."""

from pathlib import Path
from typing import Any

import orjson

from index_builder.report.page import render
from retrieval.artifact.build import REPORT

FACTS = "recall.json"


def write_report(directory: Path, facts: dict[str, Any]) -> None:
    """Write what `facts.py` says of a build into its directory, as data and as a page."""
    content = as_json(facts)
    (directory / FACTS).write_text(content, encoding="utf-8")
    (directory / REPORT).write_text(render(orjson.loads(content)), encoding="utf-8")


def read_not_filterable(directory: Path) -> dict[str, str]:
    """Return by their names why fields of a published build are not filterable, as its report says. Raises OSError."""
    reasons: dict[str, str] = orjson.loads((directory / FACTS).read_bytes())["fields"]["not_filterable"]
    return reasons


def as_json(facts: dict[str, Any]) -> str:
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode()
