"""Merges: a base and its delta become the build that their products would be built into."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.__main__ import main
from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.merge import Merged, MergeRequest, merge
from index_builder.tuning.recall import UserRecall
from retrieval.artifact.store import open_current
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.filters.language import BadFilter
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import is_exact
from retrieval.search.ranking import SIDES
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import ChangedProducts, RandomChanges, answers, build_whole, change
from tests.support.filter_oracle import RandomFilters
from tests.support.filtered import DIMENSION, FilteredProducts

FIRST = 10  # products, which have every field between them: fields are written in the order in which they first come
OF_A_BUILD = {"build_id", "created", "source", "merged", "files", "checksum"}


def changed_build(directory: Path, seed: int, untouched: int = 0, **options: Any) -> ChangedProducts:
    """Build products in `artifacts` and change them twice."""
    start = FilteredProducts(seed=seed)
    start.build(directory, **options)
    expected, changes = ChangedProducts(start.rows), RandomChanges(DIMENSION, seed)
    for _ in range(2):
        lines = changes.lines(expected.products[untouched:], 25)
        expected.apply(lines)
        change(directory, lines)
    return expected


def merged(directory: Path) -> Merged:
    done = merge(MergeRequest(directory / "artifacts"))
    assert done is not None
    return done


def test_a_merged_exact_build_has_the_files_and_facts_of_a_whole_one(tmp_path: Path) -> None:
    expected = changed_build(tmp_path, 0, FIRST, index="Flat")
    opened = merged(tmp_path).manifest
    whole = build_whole(tmp_path, expected.products).manifest
    facts, of_whole = (
        {name: value for name, value in vars(each).items() if name not in OF_A_BUILD} for each in (opened, whole)
    )
    assert facts == of_whole
    different = {name for name, facts in whole.files.items() if opened.files.get(name) != facts}
    # These have times, and the lengths of vectors as the catalogue gives them.
    assert different == {"recall.json", "report.html"}


@pytest.mark.parametrize(("seed", "storage"), [(1, "fp32"), (2, "fp16")])
def test_a_merged_build_answers_what_a_whole_one_does(tmp_path: Path, seed: int, storage: Any) -> None:
    expected = changed_build(tmp_path, seed, index="Flat", storage=storage)
    assert merged(tmp_path).rebuilt_because == ""
    whole, opened = build_whole(tmp_path, expected.products, storage=storage), open_current(tmp_path / "artifacts")
    assert opened.manifest.delta is None
    assert {each.name: each for each in opened.manifest.filterable} == {
        each.name: each for each in whole.manifest.filterable
    }
    filters = RandomFilters(seed)
    for query in [None, *(filters.filter() for _ in range(20))]:
        assert answers(opened, 1000, query) == answers(whole, 1000, query)
    for prefix in ("", "new", "RENAMED 1"):
        assert names_with(opened, prefix) == names_with(whole, prefix)


def names_with(build: Any, prefix: str) -> list[int]:
    return np.concatenate([*build.products.starting_with(prefix)]).tolist()


KINDS = ["Tiers4x1,IVF4", "HNSW8"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_approximate_build_has_the_codes_of_the_base(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained: FAISS's training would fail."""
    rows = products_of(np.random.default_rng(1).normal(size=(400, DIMENSION)))
    root = tmp_path / "artifacts"
    base = build(BuildRequest(write_lines(tmp_path / "f", rows), root, index=kind, allow_low_recall=True))
    expected, changes = ChangedProducts(rows), RandomChanges(DIMENSION, 3)
    lines = changes.lines(expected.products, 60)
    expected.apply(lines)
    change(tmp_path, lines)
    with monkeypatch.context() as patch:
        patch.setattr("index_builder.kinds.training.Trainer.train", None)
        done = merged(tmp_path)
    assert done.manifest.index.factory == base.index.factory
    assert done.manifest.index.search == base.index.search
    opened, whole = open_current(root), build_whole(tmp_path, expected.products)
    # So many candidates are re-ranked that all rows are scanned, whatever the codes say.
    assert answers(opened, 400) == answers(whole, 400)


def test_a_merge_that_misses_the_recall_builds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = products_of(np.random.default_rng(1).normal(size=(400, DIMENSION)))
    root = tmp_path / "artifacts"
    build(BuildRequest(write_lines(tmp_path / "f", rows), root, index="Tiers4x1", recall=0.5))
    change(tmp_path, [{"id": "p5", "delete": True}])
    for module in ("recall", "tuner"):
        monkeypatch.setattr(f"index_builder.tuning.{module}.recall_of_users", found_by_none_but_an_exact_scan)
    done = merged(tmp_path)
    assert done.manifest.index.factory == "Flat"
    assert done.rebuilt_because.startswith(
        "with the base's codes and settings it misses the recall of 0.5: best 0.4000 (at least "
    )
    whole = build_whole(tmp_path, [row for row in rows if row["id"] != "p5"])
    assert answers(open_current(root), 400) == answers(whole, 400)


def found_by_none_but_an_exact_scan(index: ProductIndex, *_: Any) -> UserRecall:
    share = 1.0 if index.path(10) == "exact" and is_exact(index.index) else 0.4
    return {side: [np.full(300, share)] * 2 for side in SIDES}


def test_a_field_that_no_product_has_any_more_is_gone_with_the_merge(tmp_path: Path) -> None:
    first, *others = products_of(np.eye(5))
    rows = [{**first, "promo": 1}, *({**row, "price": 2} for row in others)]
    build(BuildRequest(write_lines(tmp_path / "f", rows), tmp_path / "artifacts"))
    change(tmp_path, [{"id": "p0", "set": {"promo": None, "price": 3}}])
    assert answers(open_current(tmp_path / "artifacts"), 1, {"promo": 1})[0] == 0
    merged(tmp_path)
    opened = open_current(tmp_path / "artifacts")
    assert opened.manifest.filterable == [FieldFacts("price", "number", 2, 1.0)]
    with pytest.raises(BadFilter, match="filter/promo is no field of this build; the nearest is 'price'"):
        opened.filters.parse({"promo": 1})


def test_a_merged_build_names_the_last_file_of_changes_until_the_next_one(tmp_path: Path) -> None:
    rows = products_of(np.random.default_rng(1).normal(size=(40, DIMENSION)))
    base = build(BuildRequest(write_lines(tmp_path / "f", rows), tmp_path / "artifacts", index="Flat"))
    change(tmp_path, [{"id": "p1", "set": {"season": 1}}])
    last = open_current(tmp_path / "artifacts").manifest.source
    merged(tmp_path)
    manifest = open_current(tmp_path / "artifacts").manifest
    assert (manifest.source, manifest.merged) == (base.source, last)
    change(tmp_path, [{"id": "p1", "set": {"season": 2}}])
    delta = open_current(tmp_path / "artifacts").manifest
    assert (delta.source != last, delta.merged) == (True, None)


def test_there_is_nothing_to_merge_in_a_whole_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "artifacts"
    build(BuildRequest(write_lines(tmp_path / "f", products_of(np.eye(5))), root))
    before = sorted(root.iterdir())
    assert main(["--merge", "--out", str(root)]) == 0
    assert capsys.readouterr().out == f"nothing to merge: the current build of {root} is no delta\n"
    assert [path for path in sorted(root.iterdir()) if path.name != ".updating"] == before


def test_a_merge_measures_the_users_of_a_file(tmp_path: Path) -> None:
    root, draw = tmp_path / "artifacts", np.random.default_rng(1)
    build(BuildRequest(write_lines(tmp_path / "products", products_of(draw.normal(size=(40, 5)))), root))
    change(tmp_path, [{"id": "p1", "delete": True}])
    users = write_lines(tmp_path / "users.jsonl", [{"vector": row} for row in draw.normal(size=(400, 5)).tolist()])
    done = merge(MergeRequest(root, queries=users))
    assert done is not None
    recall, quality = done.manifest.recall, done.manifest.quality
    assert quality is not None
    assert (recall.users_from, quality.users_from, quality.synthetic) == ("users.jsonl", "users.jsonl", False)
