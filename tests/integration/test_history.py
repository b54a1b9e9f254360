"""A rollback follows what was current, not the names of builds, and pruning leaves it something to go back to."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.artifact import durable, store
from retrieval.artifact.store import build_ids, current_build_id, open_current, prune, roll_back
from retrieval.errors import BadArtifact
from service.__main__ import main
from tests.faults.conftest import point
from tests.support.published import PRODUCTS, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def publish_id(root: Path, seed: int, keep: int = 5) -> str:
    return publish(root, seed=seed, keep=keep).build_id


def recorded(root: Path) -> list[str]:
    return (root / "HISTORY").read_text().split()


def test_a_withdrawn_build_does_not_come_back(root: Path) -> None:
    first, _withdrawn = publish_id(root, 0), publish_id(root, 1)
    assert roll_back(root) == first
    third = publish_id(root, 2)
    assert recorded(root) == [first, third]
    assert roll_back(root) == first
    assert current_build_id(root) == first
    with pytest.raises(BadArtifact, match="has no build older than the current one"):
        roll_back(root)


def test_rollbacks_one_after_the_other_go_further_back(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(3)]
    assert [roll_back(root), roll_back(root)] == [builds[1], builds[0]]


def test_a_rollback_goes_back_from_what_is_published_just_before_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = [publish_id(root, seed) for seed in range(2)][1]

    @contextmanager
    def publish_first(directory: Path) -> Iterator[None]:
        monkeypatch.undo()
        publish_id(root, 2)
        with durable.locked(directory):
            yield

    monkeypatch.setattr(store, "locked", publish_first)
    assert roll_back(root) == current_build_id(root) == second


def test_a_root_without_a_history_goes_by_names(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(3)]
    (root / "HISTORY").unlink()
    assert roll_back(root) == builds[1]
    assert recorded(root) == builds[:2]


def test_current_changed_by_hand_counts(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(3)]
    point(root, builds[1])
    assert publish_id(root, 3) == recorded(root)[-1]
    assert recorded(root)[:-1] == builds[:2]
    assert roll_back(root) == builds[1]


def test_pruning_keeps_what_a_rollback_goes_back_to(root: Path) -> None:
    first, withdrawn = publish_id(root, 0), publish_id(root, 1)
    roll_back(root)
    third = publish_id(root, 2, keep=2)
    assert build_ids(root) == [first, withdrawn, third]
    assert roll_back(root) == first


def test_pruned_builds_leave_the_history(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(3)]
    assert prune(root, keep=1) == builds[:2]
    with pytest.raises(BadArtifact, match="has no build older"):
        roll_back(root)
    newest = publish_id(root, 3)
    assert recorded(root) == [builds[2], newest]


def test_a_rollback_that_stops_half_way_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish_id(root, 0), publish_id(root, 1)
    replace_text = durable.replace_text

    def die_at_current(path: Path, text: str) -> None:
        if path.name == "CURRENT":
            raise KeyboardInterrupt  # nothing tidies up, as if the process had been killed
        replace_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(store, "replace_text", die_at_current)
        with pytest.raises(KeyboardInterrupt):
            roll_back(root)
    assert open_current(root).id == second
    third = publish_id(root, 2)
    assert recorded(root) == [first, second, third]


def test_a_rollback_that_fails_leaves_both_as_they_were(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish_id(root, 0), publish_id(root, 1)
    replace_text = durable.replace_text

    def fail_once(path: Path, text: str) -> None:
        if text == f"{first}\n" and path.name == "CURRENT":
            raise OSError(28, "No space left on device")
        replace_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(store, "replace_text", fail_once)
        with pytest.raises(OSError, match="No space left"):
            roll_back(root)
    assert (current_build_id(root), recorded(root)) == (second, [first, second])


def test_a_rollback_may_go_to_any_build_that_is_there(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(4)]
    assert roll_back(root, builds[1]) == builds[1]
    assert recorded(root) == builds[:2]
    assert roll_back(root, builds[3]) == builds[3]  # It was withdrawn, and is current again.
    assert recorded(root) == [*builds[:2], builds[3]]
    assert roll_back(root) == current_build_id(root) == builds[1]


def lose_file(root: Path) -> str:
    (root / "CURRENT").unlink()
    return "cannot be read ("


def lose_build(root: Path) -> str:
    gone = current_build_id(root)
    shutil.rmtree(root / gone)
    return f"names {gone}, and there is no such build"


@pytest.mark.parametrize("lose", [lose_file, lose_build])
def test_without_a_current_build_builds_are_listed_and_one_is_gone_back_to(
    root: Path, lose: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    builds = [publish_id(root, seed) for seed in range(4)]
    reason = lose(root)
    capsys.readouterr()
    assert main(["builds", "--artifact", str(root)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == build_ids(root)
    assert err.startswith(f"warning: {root / 'CURRENT'}: {reason}")
    assert main(["rollback", "--artifact", str(root), "--to", builds[1]]) == 0
    before = f" from build {builds[3]}" if lose is lose_build else ""
    assert capsys.readouterr().out == f"rolled back{before} to {builds[1]}\n"
    assert (open_current(root).id, recorded(root)) == (builds[1], builds[:2])
    assert roll_back(root) == builds[0]


def test_without_the_current_build_a_rollback_goes_to_the_one_before(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(3)]
    lose_build(root)
    assert roll_back(root) == builds[1]
    assert recorded(root) == builds[:2]


def test_without_current_a_rollback_wants_a_name(root: Path) -> None:
    builds = [publish_id(root, seed) for seed in range(2)]
    lose_file(root)
    with pytest.raises(BadArtifact, match="cannot be read") as caught:
        roll_back(root)
    advice = "`python -m service rollback --to BUILD` makes one of the builds there the current one"
    assert str(caught.value).endswith(f"; {advice}")
    assert recorded(root) == builds


def test_a_build_that_is_published_without_current_is_gone_back_from(root: Path) -> None:
    first, withdrawn = publish_id(root, 0), publish_id(root, 1)
    roll_back(root)
    lose_file(root)
    third = publish_id(root, 2, keep=2)
    assert (build_ids(root), recorded(root)) == ([first, withdrawn, third], [first, third])
    assert roll_back(root) == first


def test_a_root_without_builds_has_none_to_list(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["builds", "--artifact", str(root)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {root / 'CURRENT'}: cannot be read (")


def test_a_rollback_to_what_is_no_build_changes_nothing(root: Path) -> None:
    first, current = publish_id(root, 0), publish_id(root, 1)
    for build_id, reason in (
        (current, "is the current build"),
        ("20200101T000000.000000Z-00000000", "is no build there"),
    ):
        with pytest.raises(BadArtifact) as caught:
            roll_back(root, build_id)
        assert str(caught.value) == f"{root}: {build_id} {reason}"
    (root / first / "best.faiss").unlink()
    with pytest.raises(BadArtifact, match=r"best\.faiss"):
        roll_back(root, first)
    assert (recorded(root), current_build_id(root)) == ([first, current], current)


def test_builds_are_listed_with_what_they_find(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, current = publish_id(root, 0), publish_id(root, 1)
    (root / first / "manifest.json").write_text("{")
    assert main(["builds", "--artifact", str(root)]) == 0
    broken, listed = capsys.readouterr().out.splitlines()
    assert broken.startswith(f"  {first}  cannot be opened: {root / first / 'manifest.json'}: not JSON (")
    recall = open_current(root).manifest.recall
    found = f"recall@10 best {recall.best[0].mean:.4f}, worst {recall.worst[0].mean:.4f}"
    assert listed == f"* {current}  0 min old  {PRODUCTS} products  {found}  Flat"
    assert main(["rollback", "--artifact", str(root), "--to", "nowhere"]) == 1
    assert capsys.readouterr().err == f"error: {root}: nowhere is no build there\n"
