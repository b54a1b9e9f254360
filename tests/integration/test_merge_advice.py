"""A merge is due where searches have become slow, the base's codes do not fit, or much of the base is gone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index_builder.kinds.codes import coding_error
from index_builder.pipelines.build import BuildRequest, build
from index_builder.pipelines.changes.advice import Finding, advise
from index_builder.pipelines.changes.update import Updated
from retrieval.artifact.store import open_current
from retrieval.vectors import unit_vectors
from tests.support.catalogues import products_of, write_lines
from tests.support.changes import change

DIMENSION = 8


def build_of(directory: Path, vectors: NDArray[np.float64], kind: str = "Flat") -> None:
    source = write_lines(directory / "products", products_of(vectors))
    build(BuildRequest(source, directory / "artifacts", index=kind, allow_low_recall=True))


def findings(directory: Path, updated: Updated) -> list[Finding]:
    return advise(open_current(directory / "artifacts"), updated.delta)


@pytest.fixture
def as_fast_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_builder.pipelines.changes.advice.median_seconds", lambda *_: [0.01, 0.01])


@pytest.mark.parametrize(
    ("alone", "together", "shown", "is_due"),
    [
        (0.0100, 0.0131, "1.31", True),
        (0.0100, 0.0129, "1.29", False),
        (0.0010, 0.0016, "1.60", True),
        (0.0001, 0.0005, "5.00", False),  # 0.4 ms are not worth a merge.
    ],
)
def test_a_merge_is_due_as_searches_take_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: float, together: float, shown: str, is_due: bool
) -> None:
    build_of(tmp_path, np.random.default_rng(1).normal(size=(40, DIMENSION)))
    updated = change(tmp_path, [{"id": "p1", "delete": True}])
    monkeypatch.setattr("index_builder.pipelines.changes.advice.median_seconds", lambda *_: [alone, together])
    expected = Finding(f"a search takes {shown} times as long as in the base alone", is_due)
    assert findings(tmp_path, updated)[0] == expected


@pytest.mark.usefixtures("as_fast_as_alone")
@pytest.mark.parametrize(
    ("deleted", "replaced", "share", "is_due"),
    [(4, 0, "8.0%", False), (3, 2, "10.0%", False), (6, 0, "12.0%", True), (3, 3, "12.0%", True)],
)
def test_a_merge_is_due_as_more_than_a_tenth_of_the_base_is_gone(
    tmp_path: Path, deleted: int, replaced: int, share: str, is_due: bool
) -> None:
    vectors = np.random.default_rng(1).normal(size=(50, DIMENSION))
    build_of(tmp_path, vectors)
    lines = [
        *({"id": f"p{i}", "delete": True} for i in range(deleted)),
        *({"id": f"p{i}", "name": "other", "vector": (-vectors[i]).tolist()} for i in range(40, 40 + replaced)),
        *({"id": f"p{i}", "set": {"name": "changed"}} for i in range(20, 30)),
        {"id": "new", "name": "new", "vector": [1] * DIMENSION},
    ]
    expected = Finding(f"{share} of the base's products are deleted or replaced", is_due)
    assert findings(tmp_path, change(tmp_path, lines))[1:] == [expected]


@pytest.mark.usefixtures("as_fast_as_alone")
@pytest.mark.parametrize(("kind", "is_foreign"), [("Tiers4x1", True), ("Tiers4x1", False), ("Flat", True)])
def test_a_merge_is_due_as_the_codes_of_the_base_do_not_fit_new_vectors(
    tmp_path: Path, kind: str, is_foreign: bool
) -> None:
    draw = np.random.default_rng(1)
    spread = np.geomspace(1, 0.01, DIMENSION)  # Few directions matter, and the codes spend their bits on those.
    build_of(tmp_path, draw.normal(size=(400, DIMENSION)) * spread, kind)
    new = draw.normal(size=(40, DIMENSION)) * (spread[::-1] if is_foreign else spread)
    updated = change(tmp_path, [{**row, "id": f"new {row['id']}"} for row in products_of(new)])
    found = findings(tmp_path, updated)[2:]
    base = open_current(tmp_path / "artifacts").base.index
    errors: list[Any] = [
        coding_error(base.index, vectors) for vectors in (unit_vectors(new), base.vectors(np.arange(400)))
    ]
    if kind == "Flat":
        assert (found, errors) == ([], [None, None])
    else:
        text = "the base's codes miss new vectors by {:.3f}, its own by {:.3f} (squared)".format(*errors)
        assert found == [Finding(text, is_foreign)]
