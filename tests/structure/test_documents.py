"""What the documents name exists."""

import re

import pytest

from tests.structure.source import ROOT

DOCUMENTS = ("CONTRIBUTING.md", "docs/architecture.md", "README.md")
PATH = re.compile(r"`((?:client|retrieval|index_builder|service|tests|benchmarks|data|deploy|docs)/[\w./-]*)`")
TARGET = re.compile(r"`make ([a-z-]+)")
LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_and_link_leads_somewhere(document: str) -> None:
    text, folder = (ROOT / document).read_text(), (ROOT / document).parent
    targets = {path: ROOT / path for path in PATH.findall(text)} | {link: folder / link for link in LINK.findall(text)}
    assert targets, "the document names nothing"
    assert [name for name, target in targets.items() if not target.exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_is_one(document: str) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall((ROOT / document).read_text())) - known == set()


def test_commits_and_checks_use_the_same_tools() -> None:
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert check is not None
    tools = set(re.findall(r"\$\(BIN\)/(\S+(?: -m \S+)?)", check[1]))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert {tool for tool in tools if f"entry: .venv/bin/{tool}" not in hooks} == set()
