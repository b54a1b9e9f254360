"""A damaged build is refused, and the error names the file at fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from tests.support.published import current, edit_manifest, file_facts, publish

FILES = [
    "best.faiss",
    "worst.faiss",
    "products.jsonl",
    "products.line_starts.npy",
    "products.head_lengths.npy",
    "products.row_starts.npy",
    "products.by_row.npy",
    "products.rows.npy",
    "products.by_id.npy",
    "products.by_name.npy",
    "fields.json",
    "fields.bin",
    "map.json",
    "sample_users.json",
    "recall.json",
    "report.html",
]
ALIKE = {  # in both of the intact builds
    "recall.json",
    "products.line_starts.npy",
    "products.head_lengths.npy",
    "products.by_id.npy",
    "products.by_name.npy",
    "fields.json",
    "sample_users.json",
}


@pytest.fixture(scope="module")
def intact_roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Artifacts roots of two different builds."""
    directory = tmp_path_factory.mktemp("intact")
    for seed in (0, 1):
        publish(directory / str(seed), seed)
    return [directory / "0", directory / "1"]


@pytest.fixture
def root(intact_roots: list[Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(intact_roots[0], tmp_path / "artifacts"))


@pytest.fixture
def other(intact_roots: list[Path]) -> Path:
    """The directory of another intact build."""
    return current(intact_roots[1])


def refusal(root: Path) -> str:
    with pytest.raises(BadArtifact) as caught:
        open_current(root)
    return str(caught.value)


def flip(path: Path, position: int, bits: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(content)


def says(content: bytes, manifest: dict[str, Any]) -> bool:
    try:
        return json.loads(content) == manifest
    except ValueError:
        return False


def test_the_copy_opens_while_nothing_is_wrong_with_it(root: Path) -> None:
    assert open_current(root).id == current(root).name


def test_every_file_of_a_build_is_tried_here(root: Path) -> None:
    assert sorted(path.name for path in current(root).iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file(root: Path, name: str) -> None:
    path = current(root) / name
    path.unlink()
    assert refusal(root).startswith(f"{path}: cannot be read (")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, -1], ids=["emptied", "one byte short"])
def test_a_truncated_file(root: Path, name: str, kept: int) -> None:
    path = current(root) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert refusal(root) == f"{path}: has {len(whole[:kept])} bytes, the manifest says {len(whole)}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_something_after_its_end(root: Path, name: str) -> None:
    path = current(root) / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    assert refusal(root) == f"{path}: has {size + 1} bytes, the manifest says {size}"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999], ids=["first byte", "middle byte", "last byte"])
def test_a_flipped_byte(root: Path, name: str, share: float) -> None:
    path = current(root) / name
    flip(path, int(path.stat().st_size * share))
    assert refusal(root) == f"{path}: its SHA-256 is not the one in the manifest"


@pytest.mark.parametrize("step", [31, pytest.param(3, marks=pytest.mark.slow)])
def test_any_flipped_bit_that_changes_what_the_manifest_says(root: Path, step: int) -> None:
    path = current(root) / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), step):
        flip(path, position, bits=1)
        if not says(path.read_bytes(), json.loads(whole)):  # the seventeenth digit of a number may say nothing
            assert refusal(root).startswith(f"{path}: "), position
        path.write_bytes(whole)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99], ids=["emptied", "half", "the last brace short"])
def test_a_truncated_manifest(root: Path, share: float) -> None:
    path = current(root) / "manifest.json"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert refusal(root).startswith(f"{path}: not JSON (")


@pytest.mark.parametrize("name", sorted(set(FILES) - ALIKE))
def test_a_file_of_another_build(root: Path, other: Path, name: str) -> None:
    path = current(root) / name
    sizes = [file.stat().st_size for file in (other / name, path)]
    shutil.copy(other / name, path)
    reasons = {True: "its SHA-256 is not the one in the manifest", False: "has {} bytes, the manifest says {}"}
    assert refusal(root) == f"{path}: " + reasons[sizes[0] == sizes[1]].format(*sizes)


def test_the_manifest_of_another_build(root: Path, other: Path) -> None:
    path = current(root) / "manifest.json"
    shutil.copy(other / "manifest.json", path)
    assert refusal(root) == f"{path}: is of build {other.name}"


def test_a_directory_in_the_place_of_a_file(root: Path) -> None:
    path = current(root) / "recall.json"
    path.unlink()
    path.mkdir()
    assert refusal(root).startswith(f"{path}: ")


@pytest.mark.parametrize("content", ["null", "[]", "1", "{}", '{"format": "1"}', '{"format": 2}'])
def test_a_manifest_of_another_format(root: Path, content: str) -> None:
    path = current(root) / "manifest.json"
    path.write_text(content)
    found = json.loads(content).get("format") if content.startswith("{") else None
    assert refusal(root) == f"{path}: format {found}, this version reads 1"


def test_a_sound_manifest_of_another_format_version(root: Path) -> None:
    edit_manifest(current(root), lambda manifest: manifest.update(format=2))
    assert refusal(root) == f"{current(root) / 'manifest.json'}: format 2, this version reads 1"


def test_an_edited_manifest(root: Path) -> None:
    edit_manifest(current(root), lambda manifest: manifest.update(embedding_model="another"), seal=False)
    assert refusal(root) == f"{current(root) / 'manifest.json'}: does not match its own checksum"


def test_a_manifest_with_a_checksum_of_nothing(root: Path) -> None:
    edit_manifest(current(root), lambda manifest: manifest.update(checksum="0" * 64), seal=False)
    assert refusal(root) == f"{current(root) / 'manifest.json'}: does not match its own checksum"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"products": 31}, "manifest.json: says 31 products, the files hold 30"),
        ({"dimension": 6}, "manifest.json: says 6 dimension, the files hold 5"),
    ],
    ids=["products", "dimension"],
)
def test_counts_that_are_not_those_of_the_files(root: Path, change: dict[str, int], reason: str) -> None:
    edit_manifest(current(root), lambda manifest: manifest.update(change))
    assert refusal(root) == f"{current(root)}: {reason}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "0.99"}, "recall/target: Not a valid float."),
        ({"target": True}, "recall/target: Not a valid float."),
        ({"kept": "yes"}, "recall/kept: Not a valid bool."),
        ({"kept": 1}, "recall/kept: Not a valid bool."),
        ({"users_from": None}, "recall/users_from: Field may not be null."),
        ({"best": []}, "recall/best: Shorter than minimum length 1."),
    ],
    ids=str,
)
def test_facts_of_another_type(root: Path, change: dict[str, Any], reason: str) -> None:
    edit_manifest(current(root), lambda manifest: manifest["recall"].update(change))
    assert refusal(root) == f"{current(root) / 'manifest.json'}: {reason}"


@pytest.mark.parametrize("vector", [None, [], ["1"], [True], {"0": 1.0}], ids=str)
def test_golden_vectors_that_are_no_numbers(root: Path, vector: Any) -> None:
    edit_manifest(current(root), lambda manifest: manifest["golden_queries"][0].update(vector=vector))
    assert refusal(root).startswith(f"{current(root) / 'manifest.json'}: golden_queries/0/vector: ")


@pytest.mark.parametrize("side", ["best", "worst"])
@pytest.mark.parametrize(
    "alter",
    [
        lambda answer: {product: score + 0.001 for product, score in answer.items()},
        lambda answer: {f"another {product}": score for product, score in answer.items()},
    ],
    ids=["scores", "products"],
)
def test_golden_answers_that_the_index_does_not_give(
    root: Path, side: str, alter: Callable[[dict[str, float]], dict[str, float]]
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for query in manifest["golden_queries"]:
            query[side] = alter(query[side])

    edit_manifest(current(root), change)
    assert refusal(root) == f"{current(root)}: {side}.faiss: gives 0 of the 80 golden answers in manifest.json"


@pytest.mark.parametrize(
    ("source", "target"), [("best", "worst"), ("worst", "best")], ids=["both are the best", "both are the worst"]
)
def test_an_index_that_is_not_the_one_it_was_measured_as(root: Path, source: str, target: str) -> None:
    directory = current(root)
    shutil.copy(directory / f"{source}.faiss", directory / f"{target}.faiss")
    facts = file_facts(directory / f"{target}.faiss")
    edit_manifest(directory, lambda manifest: manifest["files"].update({f"{target}.faiss": facts}))
    assert refusal(root).startswith(f"{directory}: {target}.faiss: gives ")
