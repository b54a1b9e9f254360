"""What a command has done stands, whatever becomes of its output and whatever files are called."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact.store import current_build_id, open_current
from tests.faults.conftest import DIMENSION, Publish
from tests.support.catalogues import products_of, write_lines
from tests.support.server import ROOT, SECONDS, environment

DATA = Path(__file__).parent / "data"
REDIRECTIONS = {"full": ">/dev/full", "closed": ">&-", "both closed": ">&- 2>&-", "reader gone": "| true"}
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


def run(
    module: str,
    *arguments: str | bytes | Path,
    root: Path,
    redirection: str = "",
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with its output redirected by a shell, which returns the command's status even from a pipe."""
    command = f'set -o pipefail; "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(root, PYTHONUNBUFFERED="", **(variables or {})),  # Buffers are written when Python ends.
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def products(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "products.jsonl", products_of(np.random.default_rng(0).normal(size=(40, 8))))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(2).normal(size=(3, DIMENSION))
    return write_lines(
        tmp_path / "users.jsonl", [{"name": f"u{i}", "vector": v.tolist()} for i, v in enumerate(vectors)]
    )


def check_is_done(done: subprocess.CompletedProcess[bytes], redirection: str, said: bytes) -> None:
    """Hold that a command has succeeded without a trace, and has said what it did on a stream that was left."""
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert said in done.stdout + done.stderr or redirection in ("both closed", "reader gone")


@pytest.mark.parametrize("redirection", REDIRECTIONS)
@pytest.mark.slow
def test_a_build_is_published_without_a_stream_to_say_so(products: Path, root: Path, redirection: str) -> None:
    arguments = ("--products", products, "--out", root)
    done = run("index_builder", *arguments, root=root, redirection=REDIRECTIONS[redirection])
    check_is_done(done, redirection, b"published ")
    assert len(open_current(root).products) == 40


@pytest.mark.parametrize("redirection", ["full", "closed"])
@pytest.mark.slow
def test_a_rollback_is_done_without_a_stream_to_say_so(root: Path, publish: Publish, redirection: str) -> None:
    first, _ = publish(0), publish(1)
    done = run("service", "rollback", root=root, redirection=REDIRECTIONS[redirection])
    check_is_done(done, redirection, b"rolled back from build ")
    assert current_build_id(root) == first


@pytest.mark.parametrize("redirection", ["full", "reader gone"])
@pytest.mark.slow
def test_a_batch_is_complete_without_a_stream_to_say_so(
    root: Path, publish: Publish, users: Path, redirection: str
) -> None:
    publish(0)
    output = users.with_name("answers.jsonl")
    arguments = ("batch", "--input", users, "--output", output)
    done = run("service", *arguments, root=root, redirection=REDIRECTIONS[redirection])
    check_is_done(done, redirection, b"3 users")
    assert len(output.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("redirection", [">&-", "| head -c 5"])
@pytest.mark.slow
def test_a_check_ends_without_a_trace(root: Path, publish: Publish, redirection: str) -> None:
    publish(0)
    done = run("service", "check", root=root, redirection=redirection)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("module", ["index_builder", "service"])
@pytest.mark.slow
def test_help_ends_without_a_trace(root: Path, module: str) -> None:
    done = run(module, "--help", root=root, redirection=">/dev/full")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_failure_is_a_status_where_it_cannot_be_said(root: Path) -> None:
    for redirection in ("2>/dev/full", "2>&-"):
        done = run("service", "check", root=root, redirection=redirection)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.parametrize("variables", ENCODINGS, ids=[" ".join(each) for each in ENCODINGS])
@pytest.mark.slow
def test_file_names_may_be_any_bytes(products: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    catalogue, root = (os.path.join(os.fsencode(tmp_path), name) for name in (b"cat\xe1logo", b"arte\xeeacts"))  # noqa: PTH118
    shutil.copy(products, os.fsdecode(catalogue))
    arguments = ("--products", catalogue, "--queries", catalogue, "--out", root)
    built = run("index_builder", *arguments, root=tmp_path, variables=variables)
    assert built.returncode == 0, built.stderr
    assert rb"40 x 8 dimensions from cat\xe1logo" in built.stdout
    manifest = open_current(Path(os.fsdecode(root))).manifest
    assert manifest.source.file == r"cat\xe1logo"
    assert manifest.recall.users_from.count(r"cat\xe1logo") == 1
    checked = run("service", "check", "--artifact", root, root=tmp_path, variables=variables)
    assert (checked.returncode, checked.stderr) == (0, b"")
    output = catalogue + b".answers.jsonl"
    files = ("--artifact", root, "--input", catalogue, "--output", output)
    answered = run("service", "batch", *files, root=tmp_path, variables=variables)
    assert answered.returncode == 0, answered.stderr
    assert len(Path(os.fsdecode(output)).read_bytes().splitlines()) == 40


@pytest.mark.slow
def test_messages_reach_any_console(tmp_path: Path, root: Path) -> None:
    bad = write_lines(tmp_path / "böse.jsonl", [{"id": "Crème", "vector": [1, 2]}, {"id": "Crème", "vector": [2, 1]}])
    done = run("index_builder", "--products", bad, "--out", root, root=root, variables=ENCODINGS[0])
    first, *_, last = done.stderr.splitlines()
    assert (done.returncode, last) == (1, b"nothing was published")
    assert rb"b\xf6se.jsonl: " in first


@pytest.mark.slow
def test_a_huge_row_does_not_stop_a_build_for_its_report(root: Path) -> None:
    done = run("index_builder", "--products", DATA / "huge_row.jsonl", "--out", root, root=root)
    assert (done.returncode, done.stderr) == (0, b"")
    build = open_current(root)
    norms = json.loads((root / build.id / "recall.json").read_bytes())["catalogue"]["norms"]
    assert 1e200 < norms["100%"] < 1e202
    assert "report.html" in build.manifest.files
