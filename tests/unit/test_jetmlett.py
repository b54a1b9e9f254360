"""The console command, which hands its words to the command line that has the command."""

import os
from pathlib import Path

import numpy as np
import pytest

import jetmlett
from index_builder.__main__ import _COMMANDS as BUILDER_COMMANDS
from retrieval import VERSION
from retrieval.artifact.store import build_ids, open_current
from service.__main__ import _parser as service_parser
from tests.support.catalogues import products_of, write_lines


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back at the end what commands set for processes of theirs."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run(*words: object) -> int:
    return jetmlett.main([*map(str, words)])


def test_its_version_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--version")
    assert (ended.value.code, capsys.readouterr().out) == (0, f"jetmlett {VERSION}\n")


def test_it_has_every_command_of_service_and_builder() -> None:
    [service_commands] = [action.choices for action in service_parser()._actions if action.choices is not None]
    expected = dict.fromkeys(service_commands, "service") | dict.fromkeys(BUILDER_COMMANDS, "index_builder")
    assert {name: package for name, (package, _) in jetmlett._COMMANDS.items()} == expected


@pytest.mark.parametrize("command", jetmlett._COMMANDS)
def test_the_help_of_a_command_is_written_as_one_types_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert (ended.value.code, capsys.readouterr().out.split()[:3]) == (0, ["usage:", "jetmlett", command])


def test_an_unknown_command_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("sevre")
    assert ended.value.code == 2
    assert (
        f"invalid choice: 'sevre' (choose from {', '.join(map(repr, jetmlett._COMMANDS))})" in capsys.readouterr().err
    )


def test_without_a_command_one_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: the following arguments are required: COMMAND\n")


def test_builds_come_and_go_by_its_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products = write_lines(tmp_path / "products.jsonl", products_of(np.random.default_rng(0).normal(size=(50, 6))))
    changes = write_lines(tmp_path / "changes.jsonl", [{"id": "p1", "delete": True}])
    root = tmp_path / "root"

    assert run("build", "--products", products, "--out", root) == 0
    base = open_current(root).id
    assert run("update", changes, "--out", root) == 0
    delta = open_current(root)
    assert (delta.base.id, len(delta.products)) == (base, 49)
    assert run("compare", root / base, root) == 0
    assert run("merge", "--out", root) == 0
    merged = open_current(root)
    assert (merged.base.id, len(merged.products)) == (merged.id, 49)
    assert run("rollback", "--artifact", root, "--to", base) == 0
    assert (open_current(root).id, {*build_ids(root)}) == (base, {base, delta.id, merged.id})
    capsys.readouterr()
    assert run("builds", "--artifact", root) == 0
    assert [line[2:].split()[0] for line in capsys.readouterr().out.splitlines()] == [*build_ids(root)]
    assert run("check", "--artifact", tmp_path / "nowhere") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nowhere'}")
