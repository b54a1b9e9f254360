"""What make hands to the shell."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def words_of(target: str, *variables: str) -> list[str]:
    """The words of the last command that a target would run, but for the path of Python."""
    command = ["make", "--dry-run", "--silent", "--always-make", target, *variables]
    # What a make that runs the tests was given is not for this one.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "ARGS")}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return shlex.split(printed.splitlines()[-1])[1:]


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
