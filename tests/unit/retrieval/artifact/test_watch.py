"""When a new build is noticed, verified, refused and tried again."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.artifact import build, watch
from retrieval.artifact.manifest import FileFacts, check_contents
from retrieval.artifact.store import build_ids
from retrieval.artifact.watch import BuildWatch, PinnedBuild
from retrieval.errors import BadArtifact
from tests.faults.conftest import damaged_copy, point
from tests.support.published import publish
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

SECONDS = 20


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MIN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_MAX_RETRY_SECONDS", 0.1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def builds(root: Path) -> list[str]:
    return [publish(root, seed=seed).build_id for seed in range(2)]


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The builds that were verified, whatever came of it."""
    verified: list[str] = []
    verify = watch._verify

    def count(root: Path, build_id: str, verified_base: str | None) -> PinnedBuild:
        verified.append(build_id)
        return verify(root, build_id, verified_base)

    monkeypatch.setattr(watch, "_verify", count)
    return verified


def polled(builds: BuildWatch, in_use: str, seconds: float = SECONDS) -> tuple[str | None, list[str]]:
    """The id of the new build, if one comes in time, and the refusals before."""
    refusals: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := builds.poll_new_build(in_use):
                found.release()
                return found.build_id, refusals
        except BadArtifact as error:
            refusals.append(str(error))
        time.sleep(0.005)
    return None, refusals


def test_a_build_whose_files_come_after_current_is_refused_once_and_then_found(
    root: Path, builds: list[str], tmp_path: Path
) -> None:
    old, new = builds
    (root / new).rename(tmp_path / "elsewhere")
    watching = BuildWatch(root, 0.01)
    assert polled(watching, old, 0.5) == (
        None,
        [f"{root / new}: cannot be read ([Errno 2] No such file or directory: '{root / new}')"],
    )
    (root / new).mkdir()
    for path in sorted((tmp_path / "elsewhere").iterdir(), reverse=True):
        content = path.read_bytes()
        (root / new / path.name).write_bytes(content[: len(content) // 2])
        assert polled(watching, old, 0.15) == (None, [])
        (root / new / path.name).write_bytes(content)
    assert polled(watching, old) == (new, [])


def test_a_file_that_cannot_be_read_for_a_while(root: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = builds
    watching = BuildWatch(root, 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "check_build", stale)
        found, refusals = polled(watching, old, 0.3)
        assert (found, len(refusals)) == (None, 1)
    assert polled(watching, old) == (new, [])


def stale(*_: object) -> None:
    raise BadArtifact("best.faiss: cannot be read") from OSError(116, "Stale file handle")


def test_a_damaged_build_is_verified_again_only_when_its_files_change(
    root: Path, builds: list[str], verified: list[str]
) -> None:
    broken = damaged_copy(root, builds[1], 1)
    watching = BuildWatch(root, 0.01)
    found, refusals = polled(watching, builds[0], 0.5)
    assert (found, len(refusals), verified) == (None, 1, [broken])
    for path in (root / builds[1]).iterdir():
        if path.name != "manifest.json":
            shutil.copy2(path, root / broken / path.name)
    found, refusals = polled(watching, builds[0], 0.5)
    assert (found, refusals) == (None, [])
    assert len(verified) > 1


def test_a_build_that_comes_again_after_another_is_tried_at_once(
    root: Path, builds: list[str], verified: list[str]
) -> None:
    broken = damaged_copy(root, builds[1], 1)
    watching = BuildWatch(root, 0.01)
    for _ in range(2):
        point(root, broken)
        assert len(polled(watching, builds[0], 0.3)[1]) == 1
        point(root, builds[0])
        assert polled(watching, builds[0], 0.1) == (None, [])
    assert verified == [broken, broken]


def test_a_build_that_workers_refuse_is_tried_again(root: Path, builds: list[str]) -> None:
    old, new = builds
    watching = BuildWatch(root, 0.01)
    assert polled(watching, old) == (new, [])
    assert watching.refuse(new)
    assert polled(watching, old) == (new, [])
    assert not watching.refuse(new)
    point(root, old)
    assert polled(watching, old, 0.3) == (None, [])


def test_without_an_interval_only_a_call_checks_but_passing_faults_are_tried_again(
    root: Path, builds: list[str], tmp_path: Path
) -> None:
    old, new = builds
    (root / new).rename(tmp_path / "elsewhere")
    watching = BuildWatch(root, 0)
    assert polled(watching, old, 0.2) == (None, [])
    watching.check_now()
    assert len(polled(watching, old, 0.2)[1]) == 1
    (tmp_path / "elsewhere").rename(root / new)
    assert polled(watching, old) == (new, [])


def test_current_that_cannot_be_read_is_refused_once(root: Path, builds: list[str]) -> None:
    (root / "CURRENT").rename(root / "elsewhere")
    watching = BuildWatch(root, 0.01)
    found, refusals = polled(watching, builds[0], 0.3)
    assert (found, len(refusals)) == (None, 1)
    (root / "elsewhere").rename(root / "CURRENT")
    assert polled(watching, builds[0]) == (builds[1], [])


def test_of_deltas_on_a_base_that_was_verified_only_their_own_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(1)
    catalogue = ChangingCatalogue(tmp_path / "artifacts", random_rows(draw, 0, 12, 4))
    base = build_ids(catalogue.root)[0]
    deltas = [catalogue.update(random_changes(draw, catalogue, 1, 4)).build_id for _ in range(2)]
    read: list[str] = []

    def count(path: Path, expected: FileFacts) -> None:
        read.append(path.parent.name)
        check_contents(path, expected)

    monkeypatch.setattr(build, "check_contents", count)
    watching = BuildWatch(catalogue.root, 0.01, verified_base=base)
    assert polled(watching, base) == (deltas[1], [])
    assert {*read} == {deltas[1]}
    point(catalogue.root, deltas[0])
    assert polled(watching, deltas[1]) == (deltas[0], [])
    assert {*read} == {*deltas}
    assert polled(BuildWatch(catalogue.root, 0.01), base) == (deltas[0], [])
    assert {*read} == {base, *deltas}
