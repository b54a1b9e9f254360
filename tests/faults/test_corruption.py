"""Random damage to any file of a build is refused by name, or changes nothing that is served."""

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import base_of, open_build
from retrieval.artifact.store import build_ids, open_current
from retrieval.errors import BadArtifact
from tests.support.figures import record
from tests.support.published import DIMENSION, PRODUCTS, current, edit_manifest, publish
from tests.support.served import answers_of
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

Damage = Callable[[random.Random, bytes, bytes], bytes]
MISSING = object()
DELTA = pytest.param("delta", marks=pytest.mark.slow)
REPLACEMENTS = [MISSING, None, "x", "", [], {}, [None], {"x": None}, True, -1, 0, 7, 0.5, 1e300, 2**60]


def flip_bits(draw: random.Random, content: bytes, __: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 4, 64])):
        damaged[draw.randrange(len(damaged))] ^= draw.randrange(1, 256)
    return bytes(damaged)


def flip_one_bit(draw: random.Random, content: bytes, _: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def truncate(draw: random.Random, content: bytes, _: bytes) -> bytes:
    return content[: draw.choice([0, len(content) - 1, draw.randrange(len(content))])]


def extend(draw: random.Random, content: bytes, _: bytes) -> bytes:
    return content + draw.choice([b"\0", b"\n", draw.randbytes(draw.randrange(1, 5000)), content])


def blank_a_page(draw: random.Random, content: bytes, _: bytes) -> bytes:
    start = draw.randrange(len(content))
    length = len(content[start : start + draw.choice([1, 16, 512, 4096])])
    return content[:start] + bytes(length) + content[start + length :]


def repeat_a_part(draw: random.Random, content: bytes, _: bytes) -> bytes:
    """As many bytes as before, some of them those of another place."""
    length = draw.randrange(1, len(content))
    source, target = (draw.randrange(len(content) - length + 1) for _ in range(2))
    return content[:target] + content[source : source + length] + content[target + length :]


def swap(_: random.Random, __: bytes, other: bytes) -> bytes:
    return other


def swap_the_end(draw: random.Random, content: bytes, other: bytes) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + other[start:]


DAMAGES: list[Damage] = [
    flip_bits,
    flip_one_bit,
    truncate,
    extend,
    blank_a_page,
    repeat_a_part,
    swap,
    swap_the_end,
]


class Target:
    """A root with two builds, of which one is in use, and what that serves; both may be deltas on a third."""

    def __init__(self, root: Path):
        self.root, self.build = root, current(root)
        of_kind = [build_id for build_id in build_ids(root) if bool(base_of(root, build_id)) == self.is_delta]
        (self.other,) = {root / build_id for build_id in of_kind} - {self.build}
        self.answers = answers_of(open_current(root))
        self.files = [*sorted(self.build.iterdir()), root / "CURRENT"]

    @property
    def is_delta(self) -> bool:
        return base_of(self.root, self.build.name) is not None

    def foreign(self, draw: random.Random, path: Path) -> bytes:
        """What may stand in a file by mistake: the other build's, or another file of this one."""
        if path.parent == self.root:
            return (self.other / "manifest.json").read_bytes()
        return draw.choice([self.other / path.name, draw.choice(self.files)]).read_bytes()

    def refuses(self, *names: str) -> bool:
        """Whether the root is refused by the name of one of these files; asserts that it serves the same otherwise."""
        try:
            build = open_current(self.root)
        except BadArtifact as refusal:
            message = str(refusal)
        else:
            assert answers_of(build) == self.answers
            return False
        assert any(name in message for name in names), message
        return True


@pytest.fixture(scope="module", params=["negated"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts root; the parameter says how the worst side is searched, or that deltas are to be damaged."""
    root = tmp_path_factory.mktemp("intact") / "artifacts"
    if request.param == "delta":
        draw = np.random.default_rng(6)
        catalogue = ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))
        for _ in range(2):
            catalogue.update(random_changes(draw, catalogue, 2, DIMENSION))
        return root
    for seed in (1, 0):
        publish(root, seed, worst=request.param)
    return root


@pytest.fixture
def target(intact: Path, tmp_path: Path) -> Target:
    return Target(Path(shutil.copytree(intact, tmp_path / "artifacts")))


@contextmanager
def damaged(path: Path, content: bytes, what: str) -> Iterator[None]:
    """Put other content into a file for a while."""
    intact = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    except BaseException as fault:
        fault.add_note(f"{path.name}: {what}")
        raise
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("intact", ["negated", "shared", DELTA], indirect=True)
def test_random_damage_is_refused_by_name_or_changes_nothing(target: Target, rounds: int) -> None:
    draw = random.Random(7)
    refused = cases = 0
    for path in rounds * target.files:
        intact = path.read_bytes()
        for damage in DAMAGES:
            content = damage(draw, intact, target.foreign(draw, path))
            if content != intact:
                cases += 1
                with damaged(path, content, damage.__name__):
                    refused += target.refuses(path.name)
    worst = json.loads((target.build / "manifest.json").read_bytes())["index"]["worst"]
    subject = "a delta" if target.is_delta else f"worst side {worst}"
    record(f"random damage, {subject}", cases=cases, refused=refused, served_the_same=cases - refused)
    assert cases >= 200
    assert refused >= 0.9 * cases
    assert not target.refuses()


def test_a_base_that_is_missing_or_was_replaced_by_another_build_is_named(tmp_path: Path) -> None:
    root, draw = tmp_path / "artifacts", np.random.default_rng(6)
    catalogue = ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))
    base = current(root)
    catalogue.update(random_changes(draw, catalogue, 2, DIMENSION))
    base.rename(tmp_path / "away")
    with pytest.raises(BadArtifact, match=re.escape(f"{base}: cannot be read ([Errno 2] No such file or directory")):
        open_current(root)
    publish(tmp_path / "other")
    shutil.copytree(current(tmp_path / "other"), base)
    expected = f"{current(root) / 'manifest.json'}: is of a delta on another build {base.name} than {base}"
    with pytest.raises(BadArtifact, match=re.escape(expected)):
        open_current(root)


def test_two_files_of_a_build_that_were_exchanged(target: Target) -> None:
    cases = 0
    for one, other in combinations(target.files, 2):
        contents = one.read_bytes(), other.read_bytes()
        if contents[0] != contents[1]:
            cases += 1
            with damaged(one, contents[1], "exchanged"), damaged(other, contents[0], "exchanged"):
                assert target.refuses(one.name, other.name)
    record("files of a build exchanged", cases=cases, refused=cases)


def test_two_builds_that_exchanged_a_file(target: Target) -> None:
    cases = refused = alike = 0
    for path in target.files[:-1]:
        other = target.other / path.name
        contents = path.read_bytes(), other.read_bytes()
        alike += contents[0] == contents[1]
        with damaged(path, contents[1], "exchanged"), damaged(other, contents[0], "exchanged"):
            cases += 1
            refused += target.refuses(path.name)
    record("files of two builds exchanged", cases=cases, refused=refused, served_the_same=cases - refused)
    assert cases - refused == alike
    assert alike < cases / 2


def facts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each fact in a manifest; of a list, only the first and the last item are looked into."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from facts(inner, (*path, key))
    elif isinstance(value, list):
        for i in sorted({0, len(value) - 1}):
            yield from facts(value[i], (*path, i))


def change(manifest: Any, path: tuple[str | int, ...], replacement: Any) -> None:
    for key in path[:-1]:
        manifest = manifest[key]
    if replacement is MISSING:
        del manifest[path[-1]]
    else:
        manifest[path[-1]] = replacement


@pytest.mark.parametrize("intact", ["negated", DELTA], indirect=True)
@pytest.mark.parametrize("replacements", [REPLACEMENTS[:2], pytest.param(REPLACEMENTS, marks=pytest.mark.soak)])
def test_a_sealed_manifest_with_a_strange_fact(target: Target, replacements: list[Any]) -> None:
    path = target.build / "manifest.json"
    intact = path.read_bytes()
    cases = refused = 0
    for place in facts(json.loads(intact)):
        if place in (("checksum",), ("format",)):
            continue
        for replacement in replacements:
            cases += 1
            with damaged(path, intact, f"{place} is {replacement}"):
                edit_manifest(target.build, lambda manifest: change(manifest, place, replacement))  # noqa: B023
                refused += target.refuses("manifest.json", *map(str, place[1:2] if place[0] == "files" else ()))
    record("strange facts in a sealed manifest", cases=cases, refused=refused, served_the_same=cases - refused)


@pytest.mark.parametrize(
    "fact",
    ["build_id", "files", "golden_queries", "index", "products", "dimension", "recall"],
)
def test_a_sealed_manifest_without_a_needed_fact(target: Target, fact: str) -> None:
    edit_manifest(target.build, lambda manifest: manifest.pop(fact))
    with pytest.raises(BadArtifact, match=re.escape(f"{target.build / 'manifest.json'}: has no {fact}")):
        open_current(target.root)


def test_a_sealed_manifest_that_does_not_list_a_file(target: Target) -> None:
    edit_manifest(target.build, lambda manifest: manifest["files"].pop("best.faiss"))
    with pytest.raises(BadArtifact, match=re.escape(f"{target.build / 'manifest.json'}: lists no best.faiss")):
        open_current(target.root)


def test_a_sealed_manifest_that_lists_files_elsewhere(target: Target) -> None:
    outside = {"bytes": 0, "sha256": ""}
    edit_manifest(target.build, lambda manifest: manifest["files"].update({"../CURRENT": outside}))
    with pytest.raises(BadArtifact, match=re.escape("manifest.json: files/../CURRENT: Not a file's bare name.")):
        open_current(target.root)


@pytest.mark.parametrize("share", [0.0, 0.5, None], ids=["emptied", "halved", "removed"])
def test_a_file_damaged_after_it_was_verified(target: Target, share: float | None) -> None:
    for path in target.files[:-1]:
        intact = path.read_bytes()
        if share is None:
            path.unlink()
        else:
            path.write_bytes(intact[: int(share * len(intact))])
        if path.name in ("recall.json", "report.html"):  # nothing that is served
            assert answers_of(open_build(target.root, target.build.name, verified=True)) == target.answers
        else:
            with pytest.raises(BadArtifact, match=re.escape(path.name)):
                open_build(target.root, target.build.name, verified=True)
        path.write_bytes(intact)
