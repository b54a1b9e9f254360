"""What the builder says of the fields to filter by: manifest, report, summary, and its option."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from index_builder.__main__ import main
from retrieval.artifact.fields.lists import FIELD_FILES
from retrieval.artifact.store import open_current
from retrieval.errors import BadArtifact
from retrieval.search.filters.facts import FieldFacts
from tests.structure.source import ROOT
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import change
from tests.support.filters import faults_of
from tests.support.published import current, edit_manifest

VECTORS = np.random.default_rng(1).normal(size=(8, 3))


def run(directory: Path, *options: str, fields: dict[str, list[Any]]) -> tuple[int, Path]:
    """Build products with these fields; returns the exit code and the artifacts root."""
    further = [dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True)] or [{}] * 8
    rows = [{**row, **more} for row, more in zip(products_of(VECTORS), further, strict=True)]
    source, root = write_lines(directory / "p.jsonl", rows), directory / "artifacts"
    return main(["--products", str(source), "--out", str(root), *options]), root


FIELDS: dict[str, list[Any]] = {"price": [1, 2, 2.5, None] * 2, "brand": ["a", "b"] * 4, "mixed": [1] * 7 + ["x"]}
PRICE, BRAND = FieldFacts("price", "number", 3, 0.75), FieldFacts("brand", "keyword", 2, 1.0)


def test_the_fields_stand_in_manifest_report_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, root = run(tmp_path, fields=FIELDS)
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("filterable  price (number), brand (keyword)") + 2].startswith("no filter   mixed: ")
    assert open_current(root).manifest.filterable == [PRICE, BRAND]
    assert orjson.loads((current(root) / "recall.json").read_bytes())["fields"] == {
        "filterable": [vars(PRICE), vars(BRAND)],
        "not_filterable": {"mixed": "mixes number and keyword, first in product 'p7'"},
        "further": 0,
    }


def not_filterable(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("no filter")]


def test_the_summary_says_why_the_first_fields_cannot_be_filtered_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = {f"f{number}": [1] * 7 + ["x"] for number in range(7)}
    for fields, further in (({name: mixed[name] for name in [*mixed][:5]}, []), (mixed, ["and 2 more"])):
        assert run(tmp_path, fields=fields)[0] == 0
        assert not_filterable(capsys.readouterr().out) == [
            *(f"no filter   f{number}: mixes number and keyword, first in product 'p7'" for number in range(5)),
            *(f"no filter   {text}, which the report lists" for text in further),
        ]
    assert run(tmp_path, "--filterable", "none", fields=mixed)[0] == 0
    assert not_filterable(capsys.readouterr().out) == []


def test_the_readme_shows_all_lines_of_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, fields={"price": FIELDS["price"], "brand": FIELDS["brand"]})
    printed = capsys.readouterr().out.splitlines()
    block = re.search(r"\$ make build-index PRODUCTS=.*\n((?:.+\n)+?)```", (ROOT / "README.md").read_text())
    assert block is not None
    assert [line[:12] for line in block[1].splitlines()] == [line[:12] for line in printed]


def test_a_catalogue_without_further_fields_pays_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--filterable", "none"]):
        code, root = run(tmp_path, *options, fields={})
        assert (code, "filterable" in capsys.readouterr().out) == (0, False)
        assert "filterable" not in orjson.loads((current(root) / "manifest.json").read_bytes())
        assert [*current(root).glob("fields*")] == []
        filters = open_current(root).filters
        assert filters.mask(filters.parse({})).matched == 8


def test_a_build_from_before_fields_were_filterable_still_opens(tmp_path: Path) -> None:
    _, root = run(tmp_path, fields=FIELDS)

    def forget(manifest: dict[str, Any]) -> None:
        del manifest["filterable"]
        for name in FIELD_FILES:
            del manifest["files"][name]
            (current(root) / name).unlink()

    edit_manifest(current(root), forget)
    build = open_current(root)
    assert faults_of(build.filters, {"price": 1}) == [
        ("unknown_field", "/price", "is no field of this build, which has none to filter by")
    ]
    assert build.products[1] == {"id": "p1", "name": "product 1", "price": 2, "brand": "b", "mixed": 1}


@pytest.mark.parametrize(
    ("option", "facts"), [("none", []), ("brand", [BRAND]), ("price,brand", [PRICE, BRAND])], ids=["none", "one", "two"]
)
def test_only_the_fields_named_are_filterable(tmp_path: Path, option: str, facts: list[FieldFacts]) -> None:
    code, root = run(tmp_path, "--filterable", option, fields=FIELDS)
    build = open_current(root)
    assert (code, build.manifest.filterable) == (0, facts)
    assert "mixed" in build.filters.vocabulary.names


def names(root: Path) -> list[str]:
    return [field.name for field in open_current(root).manifest.filterable]


@pytest.mark.parametrize(
    ("option", "fields", "chosen"),
    [("none", {}, []), ("price,brand", {name: FIELDS[name] for name in ("price", "brand")}, ["price", "brand"])],
    ids=["none", "all there are"],
)
def test_updates_and_merges_keep_to_the_fields_named(
    tmp_path: Path, option: str, fields: dict[str, list[Any]], chosen: list[str]
) -> None:
    _, root = run(tmp_path, "--filterable", option, fields=fields)
    for field in ("new", "newer"):
        change(tmp_path, [{"id": "p1", "set": {field: 5}}])
        pair = open_current(root)
        assert (pair.manifest.chosen_fields, names(root)) == (chosen, chosen)
        assert faults_of(pair.filters, {field: 5}) == [
            ("not_filterable", f"/{field}", "is not filterable: the build leaves it out; name it in --filterable")
        ]
        assert main(["--merge", "--out", str(root)]) == 0
        assert (open_current(root).manifest.chosen_fields, names(root)) == (chosen, chosen)


def test_a_field_named_that_was_gone_is_filterable_as_it_comes_again(tmp_path: Path) -> None:
    _, root = run(tmp_path, "--filterable", "price,brand", fields=FIELDS)
    change(tmp_path, [{"id": f"p{i}", "set": {"brand": None}} for i in range(8)])
    assert main(["--merge", "--out", str(root)]) == 0
    assert names(root) == ["price"]
    change(tmp_path, [{"id": "p1", "set": {"brand": 5, "other": "x"}}])
    assert open_current(root).manifest.filterable == [PRICE, FieldFacts("brand", "number", 1, 1 / 8)]


def test_a_build_from_before_the_fields_named_were_recorded_keeps_to_them(tmp_path: Path) -> None:
    _, root = run(tmp_path, "--filterable", "brand", fields=FIELDS)
    edit_manifest(current(root), lambda manifest: manifest.pop("chosen_fields"))
    change(tmp_path, [{"id": "p1", "set": {"other": "x"}}])
    assert (open_current(root).manifest.chosen_fields, names(root)) == (None, ["brand"])


def test_a_manifest_with_fields_named_that_are_no_texts_is_refused(tmp_path: Path) -> None:
    _, root = run(tmp_path, "--filterable", "brand", fields=FIELDS)
    edit_manifest(current(root), lambda manifest: manifest.update(chosen_fields=["brand", 5]))
    with pytest.raises(BadArtifact) as caught:
        open_current(root)
    assert str(caught.value) == f"{current(root) / 'manifest.json'}: chosen_fields/1: Not a valid str."


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("brand,prices", "--filterable prices: no product has such a field; the nearest is 'price'"),
        ("mixed", "--filterable mixed: mixes number and keyword, first in product 'p7'"),
    ],
)
def test_a_field_named_in_vain_fails_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, fault: str
) -> None:
    code, root = run(tmp_path, "--filterable", option, fields=FIELDS)
    assert (code, capsys.readouterr().err) == (1, f"error: {fault}\nnothing was published\n")
    assert [*root.iterdir()] == []


def test_a_build_that_lists_fields_and_not_their_files_is_refused(tmp_path: Path) -> None:
    _, root = run(tmp_path, fields=FIELDS)
    edit_manifest(current(root), lambda manifest: manifest["files"].pop("fields.bin"))
    with pytest.raises(BadArtifact) as caught:
        open_current(root)
    assert str(caught.value) == f"{current(root) / 'manifest.json'}: lists no fields.bin"


@pytest.mark.parametrize(
    ("fact", "value", "fault"),
    [
        (
            "type",
            "text",
            "filterable/0/type: Must be one of: keyword, number, boolean, list of keyword, list of number.",
        ),
        ("coverage", "1", "filterable/0/coverage: Not a valid float."),
        ("values", 1.5, "filterable/0/values: Not a valid int."),
    ],
)
def test_a_manifest_with_a_fact_of_another_type_is_refused(tmp_path: Path, fact: str, value: Any, fault: str) -> None:
    _, root = run(tmp_path, fields=FIELDS)
    edit_manifest(current(root), lambda manifest: manifest["filterable"][0].update({fact: value}))
    with pytest.raises(BadArtifact) as caught:
        open_current(root)
    assert str(caught.value) == f"{current(root) / 'manifest.json'}: {fault}"
