"""The report of a build as files: `recall.json` for machines, and `report.html` for people."""

from pathlib import Path
from typing import Any

import orjson

from index_builder.report.page import render

FACTS, PAGE = "recall.json", "report.html"


def write_report(directory: Path, facts: dict[str, Any]) -> None:
    """Write what `facts.py` says of a build into its directory, as data and as a page."""
    content = orjson.dumps(facts, option=orjson.OPT_INDENT_2)
    (directory / FACTS).write_bytes(content)
    (directory / PAGE).write_text(render(orjson.loads(content)), encoding="utf-8")
