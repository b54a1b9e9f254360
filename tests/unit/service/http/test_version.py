"""One version, stated in pyproject.toml alone."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from service.http.version import version

ROOT = Path(__file__).parents[4]


def test_a_checkout_has_the_version_that_pyproject_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing_installed)
    assert version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_an_installed_distribution_states_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"jetmlett": "7.8.9"}.__getitem__)
    assert version() == "7.8.9"


def test_the_image_brings_the_file_that_states_the_version() -> None:
    assert re.search(r"^COPY pyproject\.toml \./$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert "!pyproject.toml" in (ROOT / ".dockerignore").read_text().splitlines()
