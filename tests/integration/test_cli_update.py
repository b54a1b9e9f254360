"""The builder's command line for changes: what it says, and what it refuses."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.__main__ import main
from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import UpdateRequest, advise_on, update
from retrieval.artifact.store import open_current
from tests.support.catalogues import products_of, write_lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = products_of(np.random.default_rng(0).normal(size=(50, 6)))
    build(BuildRequest(write_lines(tmp_path / "products.jsonl", rows), tmp_path / "root", embedding_model="words"))
    return tmp_path / "root"


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


def test_an_update_says_what_it_changed_and_whether_a_merge_is_due(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = open_current(root).id
    lines = [
        {"id": "new", "name": "new", "vector": [1, 2, 3, 4, 5, 6]},
        {"id": "p1", "set": {"name": "other"}},
        *({"id": f"p{i}", "delete": True} for i in range(2, 12)),
    ]
    changes = write_lines(tmp_path / "changes.jsonl", lines)
    assert run("--update", changes, "--out", root, "--embedding-model", "words") == 0
    *shown, size, merge = capsys.readouterr().out.splitlines()
    assert shown == [
        f"published   {root / open_current(root).id}",
        "changes     1 added, 0 replaced, 1 changed, 10 deleted by changes.jsonl",
        f"delta       1 added, 0 replaced, 1 changed, 10 deleted since {base}",
        "products    41",
    ]
    assert re.fullmatch(r"size        \d\.\d kB, published in \d+\.\d\d s", size)
    assert merge.startswith("merge       due, as ")
    assert "20.0% of the base's products are deleted or replaced" in merge
    assert merge.endswith(f": python -m index_builder --merge --out {root}")


def test_a_merge_is_summed_up_as_a_build_is(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--update", write_lines(tmp_path / "changes.jsonl", [{"id": "p1", "delete": True}]), "--out", root)
    assert "merge       not due: " in capsys.readouterr().out
    assert run("--merge", "--out", root) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"published   {root / open_current(root).id}",
        "products    49 x 6 dimensions from products.jsonl",
        "index       Flat, fp32, worst side negated, 49 distinct vectors",
    ]


def test_an_update_and_its_advice_read_each_manifest_once(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_current(root).id
    pair = update(UpdateRequest(write_lines(tmp_path / "f", [{"id": "p1", "delete": True}]), root)).manifest.build_id
    changes = write_lines(tmp_path / "g", [{"id": "p2", "delete": True}])
    read, opened = list[str](), io.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        if Path(file).name == "manifest.json":
            read.append(Path(file).parent.name)
        return opened(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", counting)
        updated = update(UpdateRequest(changes, root))
        new = updated.manifest.build_id
        assert [each for each in read if not each.startswith(".draft-")] == [pair, base]
        read.clear()
        advise_on(root, updated)
        assert read == [new, base]


def test_what_cannot_be_changed_is_said_and_nothing_is_published(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "CURRENT").read_text()
    changes = write_lines(tmp_path / "changes.jsonl", [{"id": "px", "delete": True}])
    assert run("--update", changes, "--out", root) == 1
    assert capsys.readouterr().err == (
        f"error: {changes}: 1 bad rows\n  line 1: no product has the id 'px'\nnothing was published\n"
    )
    assert (root / "CURRENT").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update", "f", "--recall", "0.9"], "--recall does not go with --update"),
        (["--merge", "--embedding-model", "words"], "--embedding-model does not go with --merge"),
        (["update", "f", "--index", "HNSW32"], "--index does not go with update"),
        (["build", "--products", "f", "--merge"], "unrecognized arguments: --merge"),
        (["merge", "--filterable", "none"], "--filterable does not go with merge"),
        (["--merge", "--keep", "few"], "argument --keep: 'few' is no whole number from 1 up"),
        (["--merge", "--keep", "0"], "argument --keep: '0' is no whole number from 1 up"),
        (["--merge", "--recall", "most"], "argument --recall: 'most' is no share from 0 to 1"),
        (["--merge", "--update", "f"], "argument --update: not allowed with argument --merge"),
        ([], "one of the arguments --products --update --merge is required"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments, "--out", root)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f": error: {message}\n")
