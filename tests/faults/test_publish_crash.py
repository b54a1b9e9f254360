"""A builder that is killed, or whose disk is full, at any moment of a publish leaves a complete build in use."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.crash_harness import Tally, Workshop, Workshops, workshops
from tests.support.fault_injection import READING, Outcome
from tests.support.figures import record

KILLED, CUT_SHORT = -signal.SIGKILL, -signal.SIGXFSZ
KINDS = {
    "default": (),
    "shared": ("--worst", "shared"),
    "fp16": ("--storage", "fp16"),
    "compressed": ("--index", "PQ1x4fs", "--allow-low-recall"),
}
LARGER = 4000  # products, of which an index takes some time
any_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshops]:
    with workshops(tmp_path_factory.mktemp("crash")) as shops:
        yield shops


@pytest.fixture(scope="module")
def empty_shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshops]:
    """Where no build was published before."""
    with workshops(tmp_path_factory.mktemp("first"), empty=True) as shops:
        yield shops


def operations_of(shop: Workshop, kind: str) -> list[str]:
    """What a builder that nothing happens to does to files, in order."""
    outcome = shop.build(*KINDS[kind])
    assert outcome.code == 0, outcome.stderr
    operations = [what for what, _, _ in outcome.operations if " " not in what]
    assert {"open", "read", "write", "os.mkdir", "os.rename", "os.remove", "os.fsync"} <= set(operations)
    return operations


def changes_of(shop: Workshop) -> list[int]:
    """The numbers of those that do more than read; between two of them, a kill always finds the same files."""
    return [at for at, what in enumerate(operations_of(shop, "default")) if what not in READING]


def settle(what: str, tally: Tally) -> None:
    record(what, **tally.figures)
    assert tally.failed == []


def kill_at(kind: str, after: Callable[[Workshop, Outcome], None] = lambda *_: None) -> Callable[[Workshop, int], bool]:
    def kill(shop: Workshop, at: int) -> bool:
        outcome = shop.build(*KINDS[kind], how="kill", at=at)
        assert outcome.code == KILLED, outcome.stderr
        after(shop, outcome)
        is_new = shop.check_complete()
        shop.check_next_builder()
        return is_new

    return kill


def cut_the_power(shop: Workshop, outcome: Outcome) -> None:
    """Empty every file that the builder wrote and had not synced."""
    for path in shop.root.rglob("*"):
        kept = shop.sound.old in (path.parent.name, path.read_text().strip() if path.name == "CURRENT" else None)
        if path.is_file() and not kept and path.stat().st_ino not in outcome.synced:
            path.write_bytes(b"")


def test_a_builder_killed_at_any_change_to_files(shops: Workshops) -> None:
    tally = shops.try_all(changes_of(shops.first), kill_at("default"))
    settle("builder killed at a change to files", tally)
    assert tally.new_in_use == 1  # by the last sync


@pytest.mark.soak
@any_kind
def test_a_builder_killed_at_any_file_operation(shops: Workshops, kind: str) -> None:
    tally = shops.try_all(range(len(operations_of(shops.first, kind))), kill_at(kind))
    settle(f"builder killed at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


@pytest.mark.soak
@any_kind
def test_the_power_fails_at_any_file_operation_of_a_builder(shops: Workshops, kind: str) -> None:
    tally = shops.try_all(range(len(operations_of(shops.first, kind))), kill_at(kind, cut_the_power))
    settle(f"power lost at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


@pytest.mark.soak
@any_kind
def test_the_first_builder_of_a_root_killed_at_any_file_operation(empty_shops: Workshops, kind: str) -> None:
    tally = empty_shops.try_all(range(len(operations_of(empty_shops.first, kind))), kill_at(kind))
    settle(f"first builder killed at a file operation, {kind}", tally)
    assert tally.new_in_use == 3  # by the reading and syncing after the last rename, and by the looking for old builds


def fail_at(kind: str, passed_over: set[int]) -> Callable[[Workshop, int], bool]:
    """Fail one operation as a full disk would; the builder may do without those `passed_over`."""

    def fail(shop: Workshop, at: int) -> bool:
        outcome = shop.build(*KINDS[kind], how="fail", at=at)
        if at in passed_over and outcome.code == 0:
            return shop.check_complete()
        shop.check_refused(outcome)
        return False

    return fail


def making_a_root_that_exists(shop: Workshop) -> set[int]:
    return set() if shop.empty else {0}


def looking_for_old_builds(operations: list[str]) -> set[int]:
    """The last thing that a builder does, when its build is published."""
    assert operations[-1] == "os.listdir"
    return {len(operations) - 1}


def test_a_disk_that_is_full_at_any_change_to_files(shops: Workshops) -> None:
    tally = shops.try_all(changes_of(shops.first), fail_at("default", making_a_root_that_exists(shops.first)))
    settle("disk full at a change to files", tally)


@pytest.mark.soak
@any_kind
@pytest.mark.parametrize("first", [False, True], ids=["a further build", "the first build"])
def test_a_disk_that_fails_at_any_file_operation(
    shops: Workshops, empty_shops: Workshops, kind: str, first: bool
) -> None:
    tried = empty_shops if first else shops
    operations = operations_of(tried.first, kind)
    passed_over = making_a_root_that_exists(tried.first) | looking_for_old_builds(operations)
    tally = tried.try_all(range(len(operations)), fail_at(kind, passed_over))
    settle(f"disk full at a file operation, {kind}{', first build' * first}", tally)


def cut_files(shop: Workshop, case: tuple[str, str, int]) -> bool:
    """No file may grow beyond a size: the kernel kills the builder in the middle of writing, or its write fails."""
    kind, how, size = case
    outcome = shop.build(*KINDS[kind], how=how, largest_file=size)
    if how == "fail":
        shop.check_refused(outcome)
        return False
    assert outcome.code == CUT_SHORT, outcome.stderr
    assert not shop.check_complete()
    shop.check_next_builder()
    return False


def sizes_of(shop: Workshop, kind: str) -> list[int]:
    """The sizes of the files that a builder writes for good."""
    assert shop.build(*KINDS[kind]).code == 0
    directory = shop.root / (shop.root / "CURRENT").read_text().strip()
    return sorted({path.stat().st_size for path in directory.iterdir()})


def test_a_disk_that_takes_all_of_a_file_but_its_last_byte(shops: Workshops) -> None:
    cases = [("default", how, size - 1) for size in sizes_of(shops.first, "default") for how in ("fail", "kill")]
    settle("files cut by a byte", shops.try_all(cases, cut_files))


@pytest.mark.parametrize("how", ["fail", "kill"])
def test_a_disk_that_takes_all_of_an_index_but_its_last_byte(shops: Workshops, tmp_path: Path, how: str) -> None:
    shape = (300, 64)  # wide enough that the index is by far the largest file of the build
    source = tmp_path / "wide.npz"
    np.savez(source, names=np.arange(shape[0]).astype(str), vectors=np.random.default_rng(6).normal(size=shape))
    shop = shops.first
    assert shop.build(source=source).code == 0
    size = (shop.root / (shop.root / "CURRENT").read_text().strip() / "best.faiss").stat().st_size
    outcome = shop.build(source=source, how=how, largest_file=size - 1)
    if how == "kill":
        assert outcome.code == CUT_SHORT
        assert not shop.check_complete()
        shop.check_next_builder()
    else:
        shop.check_refused(outcome)
        assert "best.faiss: cannot be written: [Errno 27] File too large" in outcome.stderr


@pytest.mark.soak
@any_kind
def test_a_disk_that_takes_only_part_of_a_file(shops: Workshops, kind: str) -> None:
    sizes = range(0, sizes_of(shops.first, kind)[-1], 331)
    cases = [(kind, how, size) for size in sizes for how in ("kill", "fail")]
    settle(f"files cut anywhere, {kind}", shops.try_all(cases, cut_files))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("larger") / "products.npz"
    vectors = np.random.default_rng(4).normal(size=(LARGER, 16))
    np.savez(path, names=np.arange(LARGER).astype(str), vectors=vectors)
    return path


def kill_within(stage: str, index: str, source: Path) -> Callable[[Workshop, float], bool]:
    """Kill some seconds after a stage begins, or earlier if it is over by then."""

    def kill(shop: Workshop, delay: float) -> bool:
        while True:
            outcome = shop.build("--index", index, source=source, stage=stage, delay=delay)
            assert outcome.code == KILLED, outcome.stderr
            assert not shop.check_complete()
            shop.check_next_builder()
            if outcome.operations[-1][0] == f"begin {stage}":
                return False
            delay /= 2

    return kill


@pytest.mark.parametrize("count", [2, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("stage", "index"), [("train", "PQ8x4fs"), ("add", "HNSW16")])
def test_a_builder_killed_while_it_trains_or_fills_an_index(
    shops: Workshops, larger: Path, stage: str, index: str, count: int
) -> None:
    tally = shops.try_all(np.linspace(0, 0.02, count).tolist(), kill_within(stage, index, larger))
    settle(f"builder killed in {stage} of {index}, {count} times", tally)


@pytest.mark.soak
def test_a_builder_killed_at_any_time(shops: Workshops) -> None:
    whole = shops.first.build()
    draw = random.Random(5)
    last = whole.operations[-1][1] * 1.1

    def kill(shop: Workshop, delay: float) -> bool:
        outcome = shop.build(stage="start", delay=delay)
        assert outcome.code in (KILLED, 0), outcome.stderr
        is_new = shop.check_complete()
        shop.check_next_builder()
        return is_new

    settle("builder killed at any time", shops.try_all([draw.uniform(0, last) for _ in range(300)], kill))
