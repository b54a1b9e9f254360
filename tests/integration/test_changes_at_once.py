"""Updates, merges, full builds and pruning at the same root: each waits or is void, and none loses what another did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes import merge as merging
from index_builder.pipelines.changes import update as updating
from index_builder.pipelines.changes.merge import MergeRequest, merge
from index_builder.pipelines.changes.update import UpdateRequest, update
from retrieval.artifact.durable import AT_ONCE, EXCLUSIVE, locked
from retrieval.artifact.store import build_ids, current_build_id, prune
from retrieval.errors import BadArtifact
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import change

RUNS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "update": (updating, lambda directory: change(directory, [{"id": "p2", "delete": True}])),
    "merge": (merging, lambda directory: merge(MergeRequest(directory / "artifacts"))),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a delta in use."""
    rows = products_of(np.random.default_rng(5).normal(size=(20, 6)))
    build(BuildRequest(write_lines(tmp_path / "products", rows), tmp_path / "artifacts"))
    change(tmp_path, [{"id": "p1", "delete": True}])
    return tmp_path / "artifacts"


def before_it_writes(monkeypatch: pytest.MonkeyPatch, module: Any, act: Callable[[], object]) -> None:
    fill = module._fill

    def act_and_fill(*arguments: Any) -> Any:
        act()
        return fill(*arguments)

    monkeypatch.setattr(module, "_fill", act_and_fill)


@pytest.mark.parametrize("command", RUNS)
def test_updates_and_merges_hold_the_lock_while_they_write(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (module, run), held = RUNS[command], []

    def try_lock() -> None:
        with pytest.raises(BlockingIOError), locked(root / ".updating", EXCLUSIVE | AT_ONCE):
            pass
        held.append(True)

    before_it_writes(monkeypatch, module, try_lock)
    run(tmp_path)
    assert held == [True]


@pytest.mark.parametrize("command", RUNS)
def test_changes_of_a_build_that_another_replaced_meanwhile_are_void(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (module, run), old, newer = RUNS[command], current_build_id(root), list[str]()
    before_it_writes(
        monkeypatch, module, lambda: newer.append(build(BuildRequest(tmp_path / "products", root)).build_id)
    )
    with pytest.raises(BadArtifact) as caught:
        run(tmp_path)
    assert str(caught.value) == f"{root}: {newer[0]} was published meanwhile, so that changes of {old} are void"
    assert current_build_id(root) == newer[0]
    assert not list(root.glob(".draft-*"))


def deletion(directory: Path, identifier: str) -> Path:
    return write_lines(directory / f"without {identifier}", [{"id": identifier, "delete": True}])


def test_the_base_of_a_delta_that_is_kept_is_kept(tmp_path: Path) -> None:
    root, source = tmp_path / "artifacts", write_lines(tmp_path / "products", products_of(np.eye(6)))
    base = build(BuildRequest(source, root)).build_id
    delta = update(UpdateRequest(deletion(tmp_path, "p1"), root)).manifest.build_id
    whole = [build(BuildRequest(source, root)).build_id for _ in range(2)]
    assert prune(root, keep=1) == whole[:1]
    assert build_ids(root) == [base, delta, whole[1]]


def test_updates_and_merges_prune(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    base = build(BuildRequest(write_lines(tmp_path / "products", products_of(np.eye(6))), root)).build_id
    requests = [UpdateRequest(deletion(tmp_path, f"p{i}"), root, keep=2) for i in range(4)]
    deltas = [update(request).manifest.build_id for request in requests]
    assert build_ids(root) == [base, *deltas[-2:]]
    done = merge(MergeRequest(root, keep=1))
    assert done is not None
    assert build_ids(root) == [base, deltas[-1], done.manifest.build_id]
