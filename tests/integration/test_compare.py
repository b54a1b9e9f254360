"""Two builds side by side: overlap, moves and shifts are those of exact lists, whole builds and deltas alike."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.__main__ import main
from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.compare.compare import CompareRequest, compare
from retrieval.artifact import store
from tests.support.catalogues import products_of, write_lines
from tests.support.oracle import SCORE_ERROR, Oracle
from tests.support.published import current, edit_manifest, file_facts
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

DIMENSION, PRODUCTS, USERS = 6, 150, 20
SIGNS = {"best": 1, "worst": -1}
SHARES = {"0%": 0, "1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99, "100%": 1}

Row = dict[str, Any]
List = list[tuple[str, float]]  # the id and the score of each product, in order


@dataclass(frozen=True)
class Builds:
    """A base, a delta on it, and a build of all products of the delta, with the products of each and a users file."""

    paths: dict[str, Path]
    rows: dict[str, list[Row]]
    queries: Path

    def compare(self, a: str, b: str) -> dict[str, Any]:
        return compare(CompareRequest(self.paths[a], self.paths[b], self.queries))

    def lists(self, name: str, side: str, k: int) -> list[List]:
        """The exact list of each user."""
        users = np.array([json.loads(line)["vector"] for line in self.queries.read_text().splitlines()])
        rows, sign = self.rows[name], SIGNS[side]
        scores = np.round(Oracle(np.array([row["vector"] for row in rows])).cosines(users), 6)
        return [
            [(rows[i]["id"], of_user[i]) for i in sorted(range(len(rows)), key=lambda i: (-sign * of_user[i], i))[:k]]
            for of_user in scores.tolist()
        ]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    directory, draw = tmp_path_factory.mktemp("compare"), np.random.default_rng(3)
    catalogue = ChangingCatalogue(directory / "artifacts", random_rows(draw, 0, PRODUCTS, DIMENSION), index="Flat")
    base, before = current(catalogue.root), catalogue.products
    catalogue.update(random_changes(draw, catalogue, 13, DIMENSION))
    catalogue.full_build(directory / "full")
    users = [{"name": "u", "vector": row} for row in draw.normal(size=(USERS, DIMENSION)).tolist()]
    paths = {"base": base, "delta": catalogue.root, "full": directory / "full"}
    rows = {"base": before, "delta": catalogue.products, "full": catalogue.products}
    return Builds(paths, rows, write_lines(directory / "users.jsonl", users))


def shared(a: List, b: List) -> list[tuple[int, float]]:
    """How many ranks each product in both lists moves, and how far its score shifts."""
    in_a = {identifier: (rank, score) for rank, (identifier, score) in enumerate(a)}
    return [
        (abs(rank - in_a[identifier][0]), score - in_a[identifier][1])
        for rank, (identifier, score) in enumerate(b)
        if identifier in in_a
    ]


def check_spread(spread: dict[str, Any], values: list[float]) -> None:
    assert spread["count"] == len(values)
    assert spread["mean"] == pytest.approx(sum(values) / len(values), abs=2 * SCORE_ERROR)
    expected = {name: float(np.quantile(values, share)) for name, share in SHARES.items()}
    assert spread["quantiles"] == pytest.approx(expected, abs=2 * SCORE_ERROR)


@pytest.mark.parametrize(("a", "b"), [("base", "delta"), ("full", "base"), ("delta", "full")])
@pytest.mark.parametrize("side", ["best", "worst"])
def test_overlap_moves_and_shifts_are_those_of_exact_lists(builds: Builds, a: str, b: str, side: str) -> None:
    found = builds.compare(a, b)["sides"][side]
    for each in found["overlap"]:
        pairs = [*zip(builds.lists(a, side, each["k"]), builds.lists(b, side, each["k"]), strict=True)]
        check_spread(each, [len(dict(one).keys() & dict(other)) / each["k"] for one, other in pairs])
        same = [[product for product, _ in one] == [product for product, _ in other] for one, other in pairs]
        assert each["same_lists"] == sum(same) / USERS
        if each["k"] == 10:
            for name, lists in (("a", [one for one, _ in pairs]), ("b", [other for _, other in pairs])):
                check_spread(found["scores"][name], [score for of_user in lists for _, score in of_user])
    assert [each["k"] for each in found["overlap"]] == [10, 100]
    both = [each for one, other in pairs for each in shared(one, other)]
    check_spread(found["moves"], [float(move) for move, _ in both])
    assert found["moves"]["unmoved"] == sum(move == 0 for move, _ in both) / len(both)
    check_spread(found["shifts"], [shift for _, shift in both])
    changes = {a, b} != {"delta", "full"}
    assert (found["overlap"][1]["mean"] < 1, found["moves"]["unmoved"] < 1) == (changes, changes)


def test_histograms_count_what_is_measured(builds: Builds) -> None:
    found = builds.compare("base", "delta")
    moves, overlap = found["histograms"]["moves"], found["histograms"]["overlap"]
    assert sum(overlap["best"]) == sum(overlap["worst"]) == USERS
    assert (overlap["edges"][0], overlap["edges"][-1]) == (0, 1)
    for side in ("best", "worst"):
        pairs = zip(builds.lists("base", side, 100), builds.lists("delta", side, 100), strict=True)
        expected = [move for one, other in pairs for move, _ in shared(one, other)]
        steps = zip(moves["edges"], moves["edges"][1:], strict=False)
        assert moves[side] == [sum(start <= move < end for move in expected) for start, end in steps]
        assert [sum(found["histograms"][f"scores_{side}"][name]) for name in "ab"] == [10 * USERS] * 2


def test_distinct_vectors_are_those_that_products_have(tmp_path: Path) -> None:
    catalogue = ChangingCatalogue(tmp_path / "artifacts", random_rows(np.random.default_rng(4), 0, 12, DIMENSION))
    base, rows = current(catalogue.root), catalogue.products
    catalogue.update(
        [
            {"id": "p1", "delete": True},
            {**rows[3], "vector": rows[2]["vector"]},
            {**rows[4], "vector": rows[1]["vector"]},
            {**rows[5], "id": "new", "vector": [*range(1, DIMENSION + 1)]},
            {"id": "p6", "set": {"price": 1}},
        ]
    )
    found = compare(CompareRequest(base, catalogue.root))
    distinct = {tuple(row["vector"]) for row in catalogue.products}
    assert (found["a"]["distinct_vectors"], found["b"]["distinct_vectors"]) == (12, len(distinct))


def labels(rows: list[Row]) -> list[Row]:
    return [{"id": row["id"], "name": row["name"]} for row in rows]


@pytest.mark.parametrize(("a", "b"), [("base", "delta"), ("full", "base"), ("delta", "full")])
def test_products_that_come_and_go_are_counted_and_named_in_catalogue_order(builds: Builds, a: str, b: str) -> None:
    ids = {name: {row["id"] for row in rows} for name, rows in builds.rows.items()}
    lost = [row for row in builds.rows[a] if row["id"] not in ids[b]]
    gained = [row for row in builds.rows[b] if row["id"] not in ids[a]]
    assert builds.compare(a, b)["products"] == {
        "common": len(ids[a] & ids[b]),
        "gained": {"count": len(gained), "first": labels(gained[:10])},
        "lost": {"count": len(lost), "first": labels(lost[:10])},
    }


def test_a_delta_is_described_with_its_base(builds: Builds) -> None:
    found = builds.compare("base", "delta")
    base, delta = found["a"], found["b"]
    assert delta["base"] == base["build_id"] == builds.paths["base"].name
    assert delta["build_id"] == store.current_build_id(builds.paths["delta"])
    assert (base["base"], base["products"], delta["products"]) == (None, PRODUCTS, len(builds.rows["delta"]))
    files = [path for path in builds.paths["base"].iterdir() if path.name != "manifest.json"]
    own = [path for path in (builds.paths["delta"] / delta["build_id"]).iterdir() if path.name != "manifest.json"]
    assert base["bytes"] == sum(path.stat().st_size for path in files)
    assert delta["bytes"] == base["bytes"] + sum(path.stat().st_size for path in own)
    assert base["recall"] == delta["recall"]
    written = json.loads((builds.paths["base"] / "recall.json").read_text())["recall"]
    assert base["recall"]["worst"] == [
        {"k": k, "mean": each["mean"], "lower_bound": each["lower_bound"]}
        for k, each in zip((10, 100), written["worst"], strict=True)
    ]


def small_build(root: Path, vectors: np.ndarray, first: int = 0) -> Path:
    rows = [{**row, "id": f"p{i}"} for i, row in enumerate(products_of(vectors), first)]
    build(BuildRequest(write_lines(root.parent / f"{root.name}.jsonl", rows), root))
    return root


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(30, 4))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    root = tmp_path_factory.mktemp("small") / "small"
    rows = [{**row, "price": 1, "size": 2, "kept": True} for row in products_of(vectors)]
    build(BuildRequest(write_lines(root.parent / "small.jsonl", rows), root, embedding_model="m1"))
    return root


def test_the_overlap_of_lists_that_hold_all_products_is_a_share_of_the_longer_one(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    few, more = small_build(tmp_path / "few", vectors[:4]), small_build(tmp_path / "more", vectors[:9])
    for request in (CompareRequest(few, more), CompareRequest(more, few)):
        for side in compare(request)["sides"].values():
            assert [set(each["quantiles"].values()) for each in side["overlap"]] == [{round(4 / 9, 6)}] * 2


def test_builds_are_kept_while_they_are_compared(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_build(tmp_path / "artifacts", vectors)
    older = current(root)
    for _ in range(2):
        small_build(root, vectors)

    def prune_instead(*_: Any) -> dict[str, Any]:
        return {"removed": store.prune(root, 1)}

    monkeypatch.setattr("index_builder.pipelines.compare.compare.compare_lists", prune_instead)
    assert older.name not in compare(CompareRequest(older, root))["removed"]
    assert store.prune(root, 1) == [older.name]


def test_fields_that_come_go_and_change_their_type_are_told(tmp_path: Path, small: Path, vectors: np.ndarray) -> None:
    rows = [{**row, "size": "m", "stock": True, "kept": False} for row in products_of(vectors)]
    build(BuildRequest(write_lines(tmp_path / "f", rows), tmp_path / "other", embedding_model="m1"))
    assert compare(CompareRequest(small, tmp_path / "other"))["fields"] == {
        "gained": [{"name": "stock", "type": "boolean"}],
        "lost": [{"name": "price", "type": "number"}],
        "changed": [{"name": "size", "a": "number", "b": "keyword"}],
    }


def test_what_a_report_says_of_the_quality_of_lists_is_told(small: Path, tmp_path: Path) -> None:
    other = current(Path(shutil.copytree(small, tmp_path / "b")))
    side = {"coverage": 0.5, "gini": 0.25, "first_scores": [0.1, 0.9]}
    facts = json.loads((other / "recall.json").read_text())
    facts["quality"] = {"k": 10, "users_from": "u", "best": side, "near_duplicates": {"pairs": 3, "sampled": True}}
    (other / "recall.json").write_text(json.dumps(facts))
    edit_manifest(other, lambda manifest: manifest["files"].update({"recall.json": file_facts(other / "recall.json")}))
    found = compare(CompareRequest(small, tmp_path / "b"))
    assert found["b"]["quality"] == {"best": {"coverage": 0.5, "gini": 0.25}, "near_duplicates": {"pairs": 3}}


def test_without_a_file_the_users_are_made_and_always_the_same(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_builder.pipelines.compare.compare._MAX_USERS", 60)
    request = CompareRequest(builds.paths["base"], builds.paths["delta"])
    found = compare(request)
    users = {"count": 60, "available": 60, "from": "means of random products", "synthetic": True}
    assert found["users"] == users
    assert compare(request) == found


def test_of_many_users_some_are_drawn(
    builds: Builds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("index_builder.pipelines.compare.compare._MAX_USERS", 7)
    assert main(["compare", *map(str, [builds.paths["base"], builds.paths["delta"], "--queries", builds.queries])]) == 0
    assert "Lists of 7 users of the 20 in users.jsonl." in capsys.readouterr().out


def test_all_formats_say_the_same(builds: Builds, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*options: str) -> str:
        arguments = [builds.paths["base"], builds.paths["delta"], "--queries", builds.queries, *options]
        assert main(["compare", *map(str, arguments)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return str(out)

    facts = builds.compare("base", "delta")
    assert json.loads(printed("--format", "json")) == facts
    text, page = printed(), printed("--format", "html")
    cells = {re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", page)}
    overlap = facts["sides"]["worst"]["overlap"][1]
    row = ["worst", "100", f"{overlap['mean']:.4f}", f"{overlap['quantiles']['0%']:.4f}"]
    assert re.search(rf"^{' +'.join(map(re.escape, row))} ", text, re.MULTILINE)
    assert cells >= {*row, facts["a"]["build_id"], facts["products"]["gained"]["first"][0]["id"]}
    assert set(re.findall(r"\S+", text)) >= cells - {cell for cell in cells if " " in cell or not cell}
    assert page.count("<svg ") == 4
    assert not re.search(r"<script|https?:|src=|NaN|None", page)


def test_another_embedding_model_is_a_warning(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = (
        f"embedding models differ: {small} has m1, {tmp_path / 'b'} has {{}}; users fit the vectors of one model alone"
    )
    monkeypatch.setattr("index_builder.pipelines.compare.compare._MAX_USERS", 60)
    other = current(Path(shutil.copytree(small, tmp_path / "b")))
    for label, said in (("m2", "m2"), (None, "no label")):
        edit_manifest(other, partial(dict.update, embedding_model=label))
        assert main(["compare", str(small), str(tmp_path / "b")]) == 0
        out, err = capsys.readouterr()
        assert err == f"warning: {warning.format(said)}\n"
        assert f"Warning: {warning.format(said)}." in out


def test_builds_that_cannot_be_compared_are_named(
    tmp_path: Path, small: Path, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = small_build(tmp_path / "narrow", vectors[:, :3])
    others = small_build(tmp_path / "others", vectors, first=30)
    damaged = Path(shutil.copytree(small, tmp_path / "damaged"))
    file = current(damaged) / "best.faiss"
    file.write_bytes(file.read_bytes()[::-1])
    bare = Path(shutil.copytree(small, tmp_path / "bare"))
    (current(bare) / "manifest.json").unlink()
    users = write_lines(tmp_path / "users.jsonl", [{"name": "u", "vector": [1, 2, 3]}])
    nothing = "is no build and no artifacts root, as it holds neither manifest.json nor CURRENT"
    for arguments, expected in (
        ([small, narrow], f"{narrow}: has 3 dimensions, {small} has 4"),
        ([others, small], f"{small}: has no product of {others}"),
        ([small, damaged], f"{file}: its SHA-256 is not the one in the manifest"),
        ([current(damaged), small], f"{file}: its SHA-256 is not the one in the manifest"),
        ([bare, small], f"{current(bare) / 'manifest.json'}: cannot be read ("),
        ([current(bare), small], f"{current(bare)}: {nothing}"),
        ([small, tmp_path / "nope"], f"{tmp_path / 'nope'}: {nothing}"),
        ([small, small, "--queries", users], f"{users}: line 1: vector has 3 numbers, 4 are expected"),
        ([small, small, "--queries", tmp_path / "no"], f"{tmp_path / 'no'}: cannot be read: "),
    ):
        assert main(["compare", *map(str, arguments)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.startswith(f"error: {expected}")) == ("", True), err


def test_a_path_need_not_be_unicode(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(small, odd)
    for form in ("text", "json", "html"):
        assert main(["compare", str(small), str(odd), "--format", form]) == 0
        assert "caf\\xe9" in capsys.readouterr().out.replace("\\\\", "\\")


@pytest.mark.parametrize(
    "arguments", [[], ["a"], ["a", "b", "c"], ["a", "b", "--format", "pdf"], ["a", "b", "--out", "x"]]
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    assert ended.value.code == 2
    assert "usage: python -m index_builder compare" in capsys.readouterr().err
