"""The builder's command line."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_builder.__main__ import main
from retrieval.artifact.store import open_current
from tests.support.catalogues import products_of, write_lines

PRODUCTS = products_of(np.random.default_rng(0).normal(size=(1200, 8)))
TOP = Path(__file__).parent.parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def products(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "products.jsonl", [*PRODUCTS, {**PRODUCTS[0], "id": "again"}])


def run(*arguments: object, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the builder as a process of its own, which may be forbidden to write larger files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "index_builder", *map(str, arguments)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, timeout=60, env=environment, preexec_fn=limit, check=False
    )


def test_the_help_names_every_format_of_products(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    formats = (
        "JSON lines, a JSON array, CSV, TSV, NPZ, NPY or Parquet, which may be gzipped, or a directory of such files"
    )
    assert f"build these: {formats}" in " ".join(capsys.readouterr().out.split())


def test_a_build_is_summed_up_in_eleven_lines(products: Path, root: Path) -> None:
    done = run("--products", products, "--out", root)
    build = open_current(root)
    megabytes = build.manifest.size_bytes / 1e6
    assert (done.returncode, done.stderr) == (0, "")
    *lines, size, report = done.stdout.splitlines()
    quality = build.manifest.quality
    assert quality
    assert lines == [
        f"published   {root / build.id}",
        "products    1,201 x 8 dimensions from products.jsonl",
        "index       Flat, fp32, worst side negated, 1,200 distinct vectors",
        "best        recall@10 1.0000 (at least 0.9991), recall@100 1.0000 (at least 0.9999)",
        "worst       recall@10 1.0000 (at least 0.9991), recall@100 1.0000 (at least 0.9999)",
        "promise     kept: recall@10 and @100 of at least 0.99 on each side, measured on means of random products",
        *(
            f"{side} lists".ljust(12) + f"reach {of_side.coverage:.1%} of products, Gini {of_side.gini:.2f}, "
            f"hubness {of_side.hubness:.1f}, one product in {of_side.largest_share:.1%} of lists, "
            f"distance {of_side.ild:.3f} within a list"
            for side, of_side in (("best", quality.best), ("worst", quality.worst))
        ),
        f"duplicates  {quality.near_duplicates.vectors} of 1,200 distinct vectors have a cosine of 0.999 or more "
        "with another",
    ]
    assert re.fullmatch(rf"size        {megabytes:.1f} MB, built in \d+\.\d s", size)
    assert report == f"report      {root / build.id / 'report.html'}"


def test_dropped_rows_and_given_users_are_in_the_summary(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    products = write_lines(tmp_path / "some.jsonl", [b"{", *PRODUCTS[:5], 5, *PRODUCTS[5:9]])
    users = write_lines(tmp_path / "users.jsonl", PRODUCTS)
    arguments = ["--products", products, "--out", root, "--queries", users, "--on-bad-row", "drop", "--index", "HNSW32"]
    scanned = "so few rows that all are scanned, without the index"
    assert main(list(map(str, arguments))) == 0
    assert capsys.readouterr().out.splitlines()[1:6] == [
        "products    9 x 8 dimensions from some.jsonl (2 bad rows dropped)",
        "index       HNSW32, fp32, worst side negated, 9 distinct vectors",
        f"best        recall@10 1.0000 (at least 0.9991), recall@100 1.0000 (at least 0.9999); {scanned}",
        f"worst       recall@10 1.0000 (at least 0.9991), recall@100 1.0000 (at least 0.9999); {scanned}",
        "promise     kept: recall@10 and @100 of at least 0.99 on each side, measured on users.jsonl",
    ]
    assert open_current(root).manifest.dropped_rows == 2


def test_bad_rows_fail_the_build_and_are_all_named(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", [*PRODUCTS[:2], None, {**PRODUCTS[2], "vector": [1, 2]}])
    assert main(["--products", str(bad), "--out", str(root)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"error: {bad}: 2 bad rows",
        "  line 3: a product must be an object, not null",
        "  line 4: vector has 2 numbers, 8 are expected",
        "--on-bad-row drop leaves such rows out",
        "nothing was published",
    ]
    assert list(root.glob("*")) == []


def test_a_name_that_is_no_unicode_is_told_all_the_same(tmp_path: Path, root: Path) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", [{**PRODUCTS[0], "id": "\ud800"}, {**PRODUCTS[0], "name": "\ud800"}])
    done = run("--products", bad, "--out", root)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"error: {bad}: 2 bad rows"
    assert done.stderr.splitlines()[-1] == "nothing was published"


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"--products": "missing.jsonl"}, "missing.jsonl: cannot be read: "),
        ({"--products": "."}, ".: is a directory without parts"),
        ({"--queries": "missing.jsonl"}, "missing.jsonl: cannot be read: "),
        ({"--index": "IVF2,Flat"}, "--index IVF2,Flat: FAISS's IndexIVFFlat cannot be negated; build with --worst s"),
        ({"--index": "nonsense"}, "--index nonsense: FAISS cannot build it: "),
    ],
    ids=["no products", "a directory", "no users", "IVF2,Flat", "nonsense"],
)
def test_what_cannot_be_built_publishes_nothing(
    products: Path, root: Path, options: dict[str, str], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    merged: dict[str, Any] = {"--products": products, "--out": root, **options}
    assert main([str(word) for option in merged.items() for word in option]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {culprit}")
    assert err.endswith("\nnothing was published\n")
    assert list(root.glob("*")) == []


@pytest.mark.parametrize("factory", ["HNSW0", "HNSW1"])
def test_a_graph_without_enough_links_is_refused(products: Path, root: Path, factory: str) -> None:
    done = run("--products", products, "--out", root, "--index", factory)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --index {factory}: ")
    assert list(root.glob("*")) == []


def test_a_file_in_the_place_of_the_artifacts_root_is_named(
    products: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write_text("mine")
    assert main(["--products", str(products), "--out", str(root)]) == 1
    assert str(root) in capsys.readouterr().err
    assert root.read_text() == "mine"


@pytest.mark.parametrize(
    ("names", "largest_file"), [(20, 20_000), (2000, 200_000)], ids=["the index", "the products table"]
)
def test_a_disk_that_fills_up_leaves_the_old_build_and_no_draft(
    tmp_path: Path, products: Path, root: Path, names: int, largest_file: int
) -> None:
    assert main(["--products", str(products), "--out", str(root)]) == 0
    before = sorted(path.name for path in root.iterdir())
    larger = write_lines(tmp_path / "larger.jsonl", [{**product, "name": "n" * names} for product in PRODUCTS])
    done = run("--products", larger, "--out", root, largest_file=largest_file)
    assert sorted(path.name for path in root.iterdir()) == before
    assert open_current(root).id in before
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("nothing was published\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--products", "x"], ["--out", "x"], ["--products", "x", "--out", "y", "--on-bad-row", "ignore"]],
    ids=["none", "no out", "no products", "unknown mode"],
)
def test_wrong_usage_ends_with_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m index_builder" in capsys.readouterr().err


def test_a_catalogue_with_names_of_its_own_is_built_with_a_hint(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sku": row["id"], "title": row["name"], "embedding": row["vector"]} for row in PRODUCTS]
    parts = tmp_path / "catalogue"
    parts.mkdir()
    write_lines(parts / "part-00000.jsonl", rows[:2])
    write_lines(parts / "part-00001.jsonl", rows[2:])
    options = ["--products", str(parts), "--out", str(root)]
    assert main(options) == 1
    hinted = capsys.readouterr().err.splitlines()
    assert hinted[-2:] == ["if it is 'sku', say --columns id=sku", "nothing was published"]
    assert main([*options, "--columns", "id=sku,name=title"]) == 1
    hinted = capsys.readouterr().err.splitlines()
    assert hinted[-2:] == ["if it is 'embedding', say --columns vector=embedding", "nothing was published"]
    assert main([*options, "--columns", "id=sku,name=title,vector=embedding"]) == 0
    build = open_current(root)
    assert [build.products[i] for i in range(len(rows))] == [{"id": r["id"], "name": r["name"]} for r in PRODUCTS]
    assert build.manifest.source.file == "catalogue"


@pytest.mark.parametrize("columns", ["sku", "id=", "key=sku", "id=sku,", ""])
def test_names_of_columns_that_are_none_are_refused(
    products: Path, root: Path, columns: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--products", str(products), "--out", str(root), "--columns", columns])
    assert ended.value.code == 2
    assert "is not like id=sku,name=title,vector=embedding" in capsys.readouterr().err
