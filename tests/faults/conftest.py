"""Servers, requests and builds for fault tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.build import open_build
from service.recommender import Recommender
from tests.support.catalogues import products_of, write_lines
from tests.support.engines import engine_of
from tests.support.load import ExpectedRequest
from tests.support.matches import answers_to, user_row

PRODUCTS, DIMENSION, K = 500, 24, 10
USERS = np.random.default_rng(1).normal(size=(200, DIMENSION))
Publish = Callable[[int], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def publish(root: Path, tmp_path: Path) -> Publish:
    """A function that builds and publishes the catalogue of a seed, and returns the build's id."""

    def publish(seed: int) -> str:
        vectors = np.random.default_rng(100 + seed).normal(size=(PRODUCTS, DIMENSION))
        source = write_lines(tmp_path / f"products {seed}.jsonl", products_of(vectors))
        return build(BuildRequest(products=source, out=root, keep=100)).build_id

    return publish


def requests_to(
    root: Path, *build_ids: str, users: int = len(USERS), users_at_once: int = 1, k: int = K
) -> list[ExpectedRequest]:
    """A request for each user or batch, with the answers of each build."""
    recommenders = {build_id: Recommender(engine_of(open_build(root, build_id))) for build_id in build_ids}
    requests = []
    for start in range(0, users, users_at_once):
        rows = range(start, min(start + users_at_once, users))
        bodies = [json.dumps({"name": f"u{i}", "vector": USERS[i].tolist(), "k": k}) for i in rows]
        path, body = ("/infer", bodies[0]) if users_at_once == 1 else ("/batch", f"[{','.join(bodies)}]")
        answers = {build_id: _answer(each, rows, users_at_once > 1, k) for build_id, each in recommenders.items()}
        requests.append(ExpectedRequest(path, body.encode(), answers))
    return requests


def batch_body(users: int, k: int) -> bytes:
    """A batch of few bytes a user."""
    vectors = np.random.default_rng(3).integers(-9, 9, (users, DIMENSION))
    rows = [{"name": "u", "vector": vector.tolist(), "k": k} for vector in vectors]
    return json.dumps(rows, separators=(",", ":")).encode()


def _answer(recommender: Recommender, rows: range, as_array: bool, k: int) -> bytes:
    answers = answers_to(recommender, [user_row(f"u{i}", USERS[i], k) for i in rows])
    return b"[" + b",".join(answers) + b"]" if as_array else answers[0]


def damaged_copy(root: Path, build_id: str, number: int) -> str:
    """Publish by hand a copy of a build with a flipped byte, as if it came broken from elsewhere."""
    copy = f"{build_id[:-8]}{number:08x}"
    shutil.copytree(root / build_id, root / copy)
    manifest: dict[str, Any] = json.loads((root / copy / "manifest.json").read_text())
    path = root / copy / sorted(manifest["files"])[number % len(manifest["files"])]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    point(root, copy)
    return copy


def point(root: Path, build_id: str) -> None:
    """Make a build the current one, as a rollback does."""
    (root / "CURRENT.new").write_text(f"{build_id}\n")
    (root / "CURRENT.new").replace(root / "CURRENT")
