"""A builder that dies or runs out of disk half way leaves the old build in use."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.store import open_current
from tests.support.catalogues import products_of, write_lines

TOP = Path(__file__).parent.parent.parent
DRAW = np.random.default_rng(0)
SECONDS = 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An artifacts root with a build of fifty products."""
    build(
        BuildRequest(products=write_lines(tmp_path / "old", products_of(DRAW.normal(size=(50, 8)))), out=tmp_path / "a")
    )
    return tmp_path / "a"


def builder(root: Path, products: Path, largest_file: int | None = None, *more: str) -> subprocess.Popen[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "index_builder", "--products", str(products), "--out", str(root), *more]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=limit)


def check_old_build(root: Path, build_id: str) -> None:
    built = open_current(root)
    assert built.id == build_id
    best, _ = built.index.search(np.eye(1, 8, dtype=np.float32), 50)
    assert sorted(best.positions[0].tolist()) == list(range(50))


@pytest.mark.parametrize("largest_file", [50_000, 200_000, 400_000], ids=["vectors", "index", "later"])
def test_a_disk_that_fills_up_while_a_compressed_index_is_built(tmp_path: Path, root: Path, largest_file: int) -> None:
    old = open_current(root).id
    np.savez(tmp_path / "p.npz", names=np.arange(6000).astype(str), vectors=DRAW.normal(size=(6000, 16)))
    with builder(root, tmp_path / "p.npz", largest_file, "--index", "PQ16x4fs", "--recall", "0.5") as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert err.endswith("nothing was published\n")
    assert sorted(path.name for path in root.iterdir()) == sorted([old, "CURRENT", "HISTORY"])
    check_old_build(root, old)


def test_a_builder_that_is_killed_leaves_a_draft_that_the_next_one_removes(tmp_path: Path, root: Path) -> None:
    old = open_current(root).id
    pipe = tmp_path / "endless"
    os.mkfifo(pipe)
    with builder(root, pipe) as process, pipe.open("wb"):
        deadline = time.monotonic() + SECONDS
        while not list(root.glob(".draft-*/*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
        assert process.returncode == -signal.SIGKILL
    assert len(list(root.glob(".draft-*"))) == 1
    check_old_build(root, old)
    newer = build(BuildRequest(products=tmp_path / "old", out=root)).build_id
    assert sorted(path.name for path in root.iterdir()) == sorted([old, newer, "CURRENT", "HISTORY"])
