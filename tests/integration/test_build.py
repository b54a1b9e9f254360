"""From a product file to an open build."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.tuning.recall import summarise
from retrieval.artifact.build import Build
from retrieval.artifact.manifest import Source
from retrieval.artifact.store import open_current
from retrieval.errors import BadCatalogue, BadQueries, RetrievalError
from retrieval.vectors import unit_vectors
from tests.support.catalogues import products_of, write_lines

VECTORS = np.random.default_rng(0).normal(size=(120, 12))
USERS = np.random.default_rng(1).normal(size=(25, 12))
BAD_ROWS = [b"{", {"name": "zeros", "vector": [0.0] * 12}, {"id": "p3", "name": "again", "vector": [1.0] * 12}, 5]

BuildOf = Callable[..., Build]


def answers(build: Build, k: int) -> list[list[tuple[str, str, float]]]:
    """(id, name, score) of each user's matches: best sides first, then worst."""
    return [
        [
            (build.products[position]["id"], build.products[position]["name"], score)
            for position, score in zip(positions, scores, strict=True)
        ]
        for side in build.index.search(unit_vectors(USERS), k)
        for positions, scores in zip(side.positions.tolist(), side.scores.tolist(), strict=True)
    ]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_products_are_read_by_position_with_all_their_fields(build_of: BuildOf) -> None:
    rows = [{**product, "price": i / 4, "tags": ["é", None]} for i, product in enumerate(products_of(VECTORS))]
    products = build_of(rows).products
    assert [products[i] for i in range(len(products))] == [
        {"id": f"p{i}", "name": f"product {i}", "price": i / 4, "tags": ["é", None]} for i in range(120)
    ]


def test_dropping_bad_rows_gives_the_answers_of_the_clean_catalogue(tmp_path: Path) -> None:
    good = products_of(VECTORS)
    mixed = [BAD_ROWS[0], *good[:50], BAD_ROWS[1], BAD_ROWS[2], *good[50:], BAD_ROWS[3]]
    for name, rows in (("clean", good), ("mixed", mixed)):
        source = write_lines(tmp_path / f"{name}.jsonl", rows)
        build(BuildRequest(products=source, out=tmp_path / name, on_bad_row="drop"))
    clean, dropped = open_current(tmp_path / "clean"), open_current(tmp_path / "mixed")
    assert answers(dropped, 15) == answers(clean, 15)
    assert (clean.manifest.dropped_rows, dropped.manifest.dropped_rows) == (0, 4)
    assert (dropped.manifest.products, len(dropped.products)) == (120, 120)


@pytest.mark.parametrize(
    ("rows", "on_bad_row"),
    [
        ([*products_of(VECTORS), *BAD_ROWS], "fail"),
        (BAD_ROWS, "fail"),
        (BAD_ROWS[:2], "drop"),
        ([], "fail"),
        ([], "drop"),
    ],
    ids=["some bad rows", "all bad", "all bad, dropped", "empty", "empty, dropped"],
)
def test_a_bad_catalogue_leaves_the_artifacts_root_untouched(
    tmp_path: Path, rows: list[Any], on_bad_row: Literal["fail", "drop"]
) -> None:
    root = tmp_path / "artifacts"
    build(BuildRequest(products=write_lines(tmp_path / "good", products_of(VECTORS)), out=root))
    before = tree(root)
    with pytest.raises(BadCatalogue, match=f"^{tmp_path / 'bad'}: "):
        build(BuildRequest(products=write_lines(tmp_path / "bad", rows), out=root, on_bad_row=on_bad_row))
    assert tree(root) == before


def test_a_bad_catalogue_leaves_a_new_artifacts_root_empty(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue):
        build(BuildRequest(products=write_lines(tmp_path / "bad", BAD_ROWS), out=tmp_path / "artifacts"))
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_identical_vectors_are_indexed_once_and_answered_in_catalogue_order(build_of: BuildOf) -> None:
    vectors = np.concatenate([VECTORS[:10], np.tile(USERS[:1], (50, 1)), VECTORS[10:20], USERS[:1] * 1e-30])
    built = build_of(products_of(vectors))
    assert (built.manifest.products, built.manifest.distinct_vectors) == (71, 21)
    [best, *_] = answers(built, 51)
    assert best == [(f"p{i}", f"product {i}", 1.0) for i in [*range(10, 60), 70]]


@pytest.mark.parametrize("factory", ["Flat", "auto"])
def test_an_exact_build_measures_and_records_recall_one(build_of: BuildOf, factory: str) -> None:
    manifest = build_of(products_of(VECTORS), index=factory).manifest
    exact = {"candidates": 0, "per_match": 1.0, "nprobe": 0}
    assert asdict(manifest.index) == {
        "factory": "Flat",
        "storage": "fp32",
        "worst": "negated",
        "search": {"best": exact, "worst": exact},
        "filtered": [],
        "uneven": [],
    }
    side = [vars(summarise(np.ones(300), k)) for k in (10, 100)]
    assert [(at_k["k"], at_k["users"], at_k["mean"]) for at_k in side] == [(10, 300, 1.0), (100, 300, 1.0)]
    assert asdict(manifest.recall) == {
        "target": 0.99,
        "kept": True,
        "users_from": "means of random products",
        "best": side,
        "worst": side,
        "filtered": [],
    }


def test_the_recorded_recall_of_an_approximate_build_is_numpys(tmp_path: Path, build_of: BuildOf) -> None:
    draw = np.random.default_rng(2)
    vectors, users = draw.normal(size=(1500, 24)), draw.normal(size=(600, 24))
    queries = write_lines(tmp_path / "users.jsonl", [{"name": "u", "vector": user} for user in users.tolist()])
    built = build_of(products_of(vectors), index="HNSW4", queries=queries, recall=0.7)
    users = np.random.default_rng(1).permutation(users)[150:300]  # those not tuned with, who are asked first
    cosines = unit_vectors(users).astype(np.float64) @ unit_vectors(vectors).astype(np.float64).T
    recorded = built.manifest.recall
    assert (recorded.target, recorded.kept, recorded.users_from) == (0.7, True, "users.jsonl")
    for i, k in enumerate((10, 100)):
        sides = (recorded.best[i], recorded.worst[i])
        for at_k, sign, found in zip(sides, (1, -1), built.index.search(unit_vectors(users), k), strict=True):
            kth = np.sort(sign * cosines, axis=1)[:, -k]
            reached = np.take_along_axis(sign * cosines, found.positions, axis=1) >= kth[:, None] - 1e-5
            assert (at_k.k, at_k.users) == (k, 150)
            assert at_k.mean == pytest.approx(reached.mean(), abs=0.002)
            assert at_k.mean < 0.97


def test_an_hnsw_build_replays_its_golden_queries(build_of: BuildOf) -> None:
    built = build_of(products_of(VECTORS), index="HNSW32", embedding_model="glove-300")
    assert built.manifest.index.factory == "HNSW32"
    assert built.manifest.embedding_model == "glove-300"


@pytest.mark.parametrize(
    ("users", "reason"),
    [
        ([], "holds no users"),
        ([{"vector": [1.0] * 12}, {"vector": [1.0] * 3}], "line 2: vector has 3 numbers, 12 are expected"),
        ([{"vector": [0.0] * 12}], "line 1: vector is all zeros, which has no direction"),
        ([b'{"vector": ['], "line 1: not JSON: "),
        ([[1.0, 2.0], {"vector": [1.0] * 12}], None),
    ],
    ids=["none", "dimension", "zeros", "not JSON", "two arrays"],
)
def test_users_who_do_not_fit_publish_nothing(tmp_path: Path, users: list[Any], reason: str | None) -> None:
    products = write_lines(tmp_path / "products", products_of(VECTORS))
    queries = write_lines(tmp_path / "users", users)
    with pytest.raises(BadQueries if reason else RetrievalError) as caught:
        build(BuildRequest(products=products, out=tmp_path / "artifacts", queries=queries))
    assert str(caught.value).startswith(f"{queries}: {reason or ''}")
    assert list((tmp_path / "artifacts").glob("*")) == []


def test_the_same_catalogue_gives_the_same_answers_from_any_format(tmp_path: Path) -> None:
    products = products_of(VECTORS)
    (tmp_path / "array.json").write_text(json.dumps(products))
    write_lines(tmp_path / "lines.jsonl", products)
    ids, names = ([product[field] for product in products] for field in ("id", "name"))
    np.savez(tmp_path / "arrays.npz", vectors=VECTORS, ids=ids, names=names)
    found = []
    for name in ("array.json", "lines.jsonl", "arrays.npz"):
        manifest = build(BuildRequest(products=tmp_path / name, out=tmp_path / f"built from {name}"))
        sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert manifest.source == Source(name, sha256)
        found.append(answers(open_current(tmp_path / f"built from {name}"), 10))
    assert found[0] == found[1] == found[2]
