"""What make hands to the shell."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands_of(target: str, *variables: str, **environment: str) -> list[list[str]]:
    """The words of each command that a target would run."""
    command = ["make", "--dry-run", "--silent", "--always-make", target, *variables]
    # What a make that runs the tests was given is not for this one.
    foreign = ("MAKEFLAGS", "MAKELEVEL", "ARGS", "RECO_ARTIFACTS")
    environment = {name: value for name, value in os.environ.items() if name not in foreign} | environment
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return [shlex.split(line) for line in printed.splitlines()]


def words_of(target: str, *variables: str) -> list[str]:
    """The words of the last command that a target would run, but for the path of Python."""
    return commands_of(target, *variables)[-1][1:]


@pytest.mark.parametrize("name", ["my cat.jsonl", "ann's *.jsonl", 'a"b$$HOME.jsonl', "data/products.jsonl.gz old"])
def test_names_of_files_may_hold_what_a_shell_would_read(name: str) -> None:
    file = name.replace("$$", "$")
    build = ["-m", "index_builder", "--products", file, "--out", f"{file}.out", "--recall", "0.99"]
    variables = (f"PRODUCTS={name}", f"OUT={name}.out")
    assert words_of("build-index", *variables) == build
    assert words_of("build-index", *variables, f"QUERIES={name}") == [*build, "--queries", file]
    change = ["-m", "index_builder", "--update", file, "--out", f"{file}.out"]
    assert words_of("update-index", f"CHANGES={name}", f"OUT={name}.out") == change
    assert words_of("merge-index", f"OUT={name}.out") == ["-m", "index_builder", "--merge", "--out", f"{file}.out"]


def test_the_sample_is_measured_with_its_own_users_and_args_are_words() -> None:
    sample = ["-m", "index_builder", "--products", "data/products.jsonl.gz", "--out", "artifacts", "--recall", "0.99"]
    users = ["--queries", "data/users_batch.json"]
    assert words_of("build-index", "ARGS=--index Flat") == [*sample, *users, "--index", "Flat"]


def test_serve_takes_the_artifacts_of_the_environment_and_builds_the_sample_only_without() -> None:
    *before, served = commands_of("serve")
    assert "RECO_ARTIFACTS=artifacts" in served
    assert any("index_builder" in words for words in before)
    *before, served = commands_of("serve", RECO_ARTIFACTS="/srv/my artifacts")
    assert "RECO_ARTIFACTS=/srv/my artifacts" in served
    assert not any("index_builder" in words or "build-index" in words for words in before)
