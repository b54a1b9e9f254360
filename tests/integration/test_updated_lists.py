"""Lists of a base and a delta are those of a whole build of the same products."""

from pathlib import Path

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.update import UpdateRequest, update
from retrieval import open_build
from retrieval.search.ranking import SIDES
from retrieval.search.reranking import request
from tests.support.catalogues import write_lines
from tests.support.filtered import DIMENSION, FilteredProducts
from tests.support.list_oracle import drawn_options


@pytest.mark.parametrize("spare", [0, 3])
def test_lists_of_a_delta_are_those_of_a_whole_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    monkeypatch.setattr(request, "_SPARE_PER_MATCH", spare)  # With none, lists need further searches.
    products, draw = FilteredProducts(), np.random.default_rng(1)
    products.build(tmp_path, index="Flat")
    rows = {row["id"]: dict(row) for row in products.rows}
    changes = []
    for i in range(0, 30, 3):
        vector = draw.normal(size=DIMENSION).tolist()
        rows[f"p{i}"] = {**rows[f"p{i + 1}"], "id": f"p{i}", "name": "replaced", "vector": vector}
        changes.append(rows[f"p{i}"])
    for i in range(40, 50):
        del rows[f"p{i}"]
        changes.append({"id": f"p{i}", "delete": True})
    for i in range(60, 70):
        rows[f"p{i}"]["brand"] = "acme"
        changes.append({"id": f"p{i}", "set": {"brand": "acme"}})
    for i in range(200, 215):
        rows[f"p{i}"] = {**products.rows[i - 200], "id": f"p{i}", "name": "added", "brand": "fresh"}
        changes.append(rows[f"p{i}"])
    update(UpdateRequest(write_lines(tmp_path / "changes.jsonl", changes), tmp_path / "artifacts"))
    source = write_lines(tmp_path / "whole.jsonl", rows.values())
    build(BuildRequest(source, tmp_path / "whole", index="Flat", allow_low_recall=True))
    of_pair, of_whole = open_build(tmp_path / "artifacts"), open_build(tmp_path / "whole")
    for vector, options in drawn_options(60, 5):
        found, expected = (each.recommend(np.array(vector), **options) for each in (of_pair, of_whole))
        for side in SIDES:
            assert getattr(found, side).ids.tolist() == getattr(expected, side).ids.tolist(), options
            assert getattr(found, side).scores.tolist() == getattr(expected, side).scores.tolist(), options
