"""The version of the service."""

import tomllib
from importlib import metadata
from pathlib import Path

_PROJECT_FILE = Path(__file__).parents[2] / "pyproject.toml"


def version() -> str:
    """Return the version of the installed distribution, or that of pyproject.toml where none is installed."""
    try:
        return metadata.version("jetmlett")
    except metadata.PackageNotFoundError:
        return tomllib.loads(_PROJECT_FILE.read_text())["project"]["version"]
