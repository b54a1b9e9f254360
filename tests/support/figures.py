"""Collects what the tests that break things on purpose count, for the table of reliability figures."""

import json
import os
from pathlib import Path
from typing import Any


def record(name: str, **figures: Any) -> None:
    """Print a line of figures, and append it as JSON to the file that RELIABILITY_FIGURES names, if it does."""
    print(f"{name}: " + ", ".join(f"{what.replace('_', ' ')} {figure}" for what, figure in figures.items()))
    path = os.environ.get("RELIABILITY_FIGURES")
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps({"name": name, **figures}) + "\n")
