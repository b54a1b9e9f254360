"""What a publish leaves on disk, and that it is published whole or not at all."""

import fcntl
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import pytest

from index_builder.kinds.negation import negate
from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact import store
from retrieval.artifact.manifest import Manifest
from retrieval.artifact.store import draft, open_current
from retrieval.errors import BadCatalogue
from retrieval.search.files import open_index, read_index, write_index
from retrieval.search.kinds import exact_rows
from retrieval.vectors import unit_vectors
from tests.support.published import DIMENSION, PRODUCTS, current, edit_manifest, file_facts, manifest_checksum, publish

REPORT = {"recall.json", "report.html"}  # with the times that searches took


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "artifacts"


@pytest.fixture(autouse=True)
def parent(root: Path) -> None:
    root.parent.mkdir()


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def leave_half_a_draft(root: Path) -> None:
    with draft(root) as unfinished:
        (unfinished / "best.faiss").write_bytes(b"half an index")
        raise RuntimeError("the disk is full")


def test_the_manifest_tells_the_truth(root: Path) -> None:
    before = datetime.now(UTC)
    returned = publish(root, embedding_model="glove")
    directory = current(root)
    manifest = json.loads((directory / "manifest.json").read_text())
    facts = asdict(returned, dict_factory=lambda pairs: {key: value for key, value in pairs if value not in ([], None)})
    assert {key: manifest[key] for key in facts} == facts
    assert manifest.keys() - facts.keys() == {"format"}

    assert manifest["format"] == 1
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", manifest["build_id"])
    assert directory.name == manifest["build_id"]
    assert before <= datetime.fromisoformat(manifest["created"]) <= datetime.now(UTC)
    assert manifest["source"] == {
        "file": "products 0.jsonl",
        "sha256": file_facts(root.parent / "products 0.jsonl")["sha256"],
    }
    assert manifest["checksum"] == manifest_checksum(manifest)
    assert {key: manifest[key] for key in ("products", "distinct_vectors", "dimension", "dropped_rows", "metric")} == {
        "products": PRODUCTS,
        "distinct_vectors": PRODUCTS - 1,
        "dimension": DIMENSION,
        "dropped_rows": 0,
        "metric": "cosine",
    }
    exact = {"candidates": 0, "per_match": 1.0, "nprobe": 0}
    assert manifest["index"] == {
        "factory": "Flat",
        "storage": "fp32",
        "worst": "negated",
        "search": {"best": exact, "worst": exact},
    }
    assert manifest["embedding_model"] == "glove"
    assert manifest["faiss_version"] == faiss.__version__
    assert json.loads((directory / "recall.json").read_text())["recall"] == manifest["recall"]


def test_the_manifest_lists_every_file_with_its_size_and_checksum(root: Path) -> None:
    files = publish(root).files
    present = [path for path in current(root).iterdir() if path.name != "manifest.json"]
    assert {name: asdict(facts) for name, facts in files.items()} == {path.name: file_facts(path) for path in present}
    assert set(files) >= {"best.faiss", "worst.faiss", "recall.json", "products.jsonl"}


def test_the_worst_index_holds_the_negated_vectors(root: Path) -> None:
    publish(root)
    best, worst = (faiss.read_index(str(current(root) / name)) for name in ("best.faiss", "worst.faiss"))
    assert best.metric_type == worst.metric_type == faiss.METRIC_INNER_PRODUCT
    assert (worst.reconstruct_n() == -best.reconstruct_n()).all()


def test_the_worst_index_of_a_compressed_kind_holds_codes_and_no_vectors(root: Path) -> None:
    publish(root, index="Tiers5x1", allow_low_recall=True)
    best, worst = (open_index(current(root) / name) for name in ("best.faiss", "worst.faiss"))
    assert exact_rows(best) is not None
    assert exact_rows(worst) is None
    assert worst.ntotal == PRODUCTS - 1


def test_a_build_whose_worst_index_has_vectors_of_its_own_still_opens(root: Path) -> None:
    """Builds of earlier versions have, and are verified by them."""
    publish(root, index="Tiers5x1", allow_low_recall=True)
    users = unit_vectors(np.random.default_rng(1).normal(size=(9, DIMENSION)))
    before = [side.positions.tolist() for side in open_current(root).index.search(users, 10)]
    worst = read_index(current(root) / "best.faiss")
    negate(worst)
    write_index(worst, current(root) / "worst.faiss")
    facts = file_facts(current(root) / "worst.faiss")
    edit_manifest(current(root), lambda manifest: manifest["files"].update({"worst.faiss": facts}))
    assert [side.positions.tolist() for side in open_current(root).index.search(users, 10)] == before


def test_golden_queries_hold_the_exact_answers(root: Path) -> None:
    golden = publish(root).golden_queries
    vectors = [json.loads(line)["vector"] for line in (root.parent / "products 0.jsonl").read_text().splitlines()]
    units = unit_vectors(np.array(vectors)).astype(np.float64)
    assert len(golden) == 8
    for query in golden:
        cosines = units @ np.array(query.vector)
        for answer, sign in ((query.best, 1), (query.worst, -1)):
            order = np.lexsort((np.arange(PRODUCTS), -sign * np.round(cosines, 6)))[:10]
            assert list(answer) == [f"p{i}" for i in order]
            assert list(answer.values()) == pytest.approx(cosines[order], abs=1e-6)


def test_current_is_one_line_with_the_build_id(root: Path) -> None:
    build_id = publish(root).build_id
    assert (root / "CURRENT").read_text() == f"{build_id}\n"
    assert entries(root) == sorted([build_id, "CURRENT", "HISTORY"])


def test_two_publishes_leave_both_builds_and_point_to_the_newer(root: Path) -> None:
    older, newer = publish(root, 0), publish(root, 1)
    assert entries(root) == sorted([older.build_id, newer.build_id, "CURRENT", "HISTORY"])
    assert open_current(root).manifest == newer
    (root / "CURRENT").write_text(older.build_id)
    assert open_current(root).manifest == older


def test_the_same_catalogue_twice_gives_two_builds(root: Path) -> None:
    first, second = publish(root), publish(root)
    assert first.build_id < second.build_id
    assert first.files.keys() == second.files.keys()
    reproducible = first.files.keys() - REPORT
    assert {name: first.files[name] for name in reproducible} == {name: second.files[name] for name in reproducible}


def test_an_open_build_answers_after_a_newer_one_is_published(root: Path) -> None:
    publish(root, 0)
    opened = open_current(root)
    user = np.eye(1, DIMENSION, dtype=np.float32)
    before = [side.positions.tolist() for side in opened.index.search(user, 30)]
    publish(root, 1)
    assert [side.positions.tolist() for side in opened.index.search(user, 30)] == before
    assert opened.products[29] == {"id": "p29", "name": "product 29", "season": 0}


def test_a_failed_build_leaves_current_and_no_draft(root: Path) -> None:
    published = publish(root)
    before = entries(root)
    with pytest.raises(BadCatalogue):
        build(BuildRequest(products=root / "CURRENT", out=root))
    with pytest.raises(RuntimeError, match="disk"):
        leave_half_a_draft(root)
    assert entries(root) == before
    assert open_current(root).manifest == published


def test_a_draft_is_not_seen_before_it_is_published(root: Path) -> None:
    published = publish(root)
    with draft(root) as unfinished:
        (unfinished / "anything").write_bytes(b"")
        assert open_current(root).manifest == published


def test_a_build_that_lost_its_power_before_current_changed_is_not_used(root: Path) -> None:
    older, newer = publish(root, 0), publish(root, 1)
    (root / "CURRENT").write_text(f"{older.build_id}\n")
    (root / f"CURRENT.{newer.build_id}").write_text(f"{newer.build_id}\n")
    assert open_current(root).manifest == older


def test_the_next_build_removes_an_abandoned_draft(root: Path) -> None:
    (root / ".draft-0123456789abcdef").mkdir(parents=True)
    (root / ".draft-0123456789abcdef" / "best.faiss").write_bytes(b"half an index")
    (root / ".draft-empty").mkdir()
    build_id = publish(root).build_id
    assert entries(root) == sorted([build_id, "CURRENT", "HISTORY"])


def test_the_next_build_leaves_the_draft_of_a_live_builder(root: Path) -> None:
    with draft(root) as live:
        (live / "best.faiss").write_bytes(b"half an index")
        publish(root)
        assert (live / "best.faiss").read_bytes() == b"half an index"
        store.publish(root, live, open_current(root).manifest)
    assert not live.exists()


def test_a_builder_that_dies_frees_its_draft(root: Path) -> None:
    abandoned = root / ".draft-dead"
    abandoned.mkdir(parents=True)
    lock = os.open(abandoned, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    publish(root)
    assert abandoned.exists()
    os.close(lock)
    publish(root)
    assert not abandoned.exists()


def test_builders_at_work_at_once_leave_each_other_alone(root: Path) -> None:
    def work(_: int) -> None:
        for _ in range(60):
            with draft(root) as own:
                (own / "best.faiss").write_bytes(b"half an index")

    with ThreadPoolExecutor(4) as builders:
        assert list(builders.map(work, range(4))) == [None] * 4
    assert entries(root) == []


def test_a_build_that_is_pruned_before_it_is_pinned_gives_way_to_the_next_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(root)
    pin, newer = store.pin, list[Manifest]()

    def pin_late(of: Path, build_id: str, manifest: Manifest | None = None) -> ExitStack:
        if not newer:
            newer.append(publish(root, seed=1, keep=1))
        return pin(of, build_id, manifest)

    monkeypatch.setattr(store, "pin", pin_late)
    assert open_current(root).manifest == newer[0]
