"""CURRENT names a build of its own artifacts root, or nothing is opened."""

import shutil
from pathlib import Path

import pytest

from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from tests.support.published import current, publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "artifacts")
    return tmp_path / "artifacts"


def refusal(root: Path) -> str:
    with pytest.raises(BadArtifact) as caught:
        open_current(root)
    return str(caught.value)


def test_without_current_the_error_says_how_to_get_a_build(root: Path) -> None:
    build = current(root)
    (root / "CURRENT").unlink()
    message = refusal(root)
    assert message.startswith(f"{root / 'CURRENT'}: cannot be read (")
    assert message.endswith("; `python -m service rollback --to BUILD` makes one of the builds there the current one")
    shutil.rmtree(build)
    assert refusal(root).endswith("; `python -m index_builder` publishes a build")


@pytest.mark.parametrize("place", ["missing", "CURRENT/further"])
def test_a_root_that_is_not_there(root: Path, place: str) -> None:
    assert refusal(root / place).startswith(f"{root / place / 'CURRENT'}: cannot be read (")


def test_current_that_is_a_directory(root: Path) -> None:
    (root / "CURRENT").unlink()
    (root / "CURRENT").mkdir()
    assert refusal(root).startswith(f"{root / 'CURRENT'}: cannot be read (")


@pytest.mark.parametrize(
    "text", ["", "\n", "latest", "../x", "/etc", ".", "..", "20260101T000000.000000Z-0123456g", "x" * 1000], ids=repr
)
def test_current_that_holds_no_build_id(root: Path, text: str) -> None:
    (root / "CURRENT").write_text(text)
    assert refusal(root) == f"{root / 'CURRENT'}: holds no build id but {text.strip()[:60]!r}"


def test_current_that_is_no_text(root: Path) -> None:
    (root / "CURRENT").write_bytes(b"\xff\xfe")
    assert refusal(root).startswith(f"{root / 'CURRENT'}: cannot be read (")


@pytest.mark.parametrize("prefix", ["../", "./", "../artifacts/", "//"])
def test_a_sound_build_is_not_reached_by_a_path(root: Path, prefix: str) -> None:
    shutil.copytree(current(root), root.parent / current(root).name)
    text = f"{prefix}{current(root).name}"
    (root / "CURRENT").write_text(text)
    assert refusal(root) == f"{root / 'CURRENT'}: holds no build id but {text!r}"


def test_two_build_ids_are_none(root: Path) -> None:
    build_id = current(root).name
    (root / "CURRENT").write_text(f"{build_id}\n{build_id}\n")
    assert refusal(root).startswith(f"{root / 'CURRENT'}: holds no build id but ")


def test_current_that_names_a_missing_build(root: Path) -> None:
    missing = "20260101T000000.000000Z-01234567"
    (root / "CURRENT").write_text(f"{missing}\n")
    assert refusal(root) == f"{root / 'CURRENT'}: names {missing}, and there is no such build"


def test_a_renamed_build_is_refused(root: Path) -> None:
    build_id, another = current(root).name, "20260101T000000.000000Z-01234567"
    current(root).rename(root / another)
    (root / "CURRENT").write_text(another)
    assert refusal(root) == f"{root / another / 'manifest.json'}: is of build {build_id}"


def test_the_end_of_the_line_may_be_missing(root: Path) -> None:
    build_id = current(root).name
    (root / "CURRENT").write_text(build_id)
    assert open_current(root).id == build_id
