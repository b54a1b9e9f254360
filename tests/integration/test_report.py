"""The report of what is served: the page of the build, or of the base of a delta."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from service.recommender import Recommender
from tests.integration.conftest import ApiOver
from tests.support.api import Api, check_problem
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.published import current, edit_manifest, publish
from tests.support.updated import ChangingCatalogue, random_rows


def check_page(answer: Any, page: Path) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.body == page.read_bytes()


def test_it_is_the_page_that_the_builder_wrote(api: Api, sample_artifacts: Path) -> None:
    check_page(api.get("/report"), current(sample_artifacts) / "report.html")


def test_of_a_delta_it_is_that_of_the_base(tmp_path: Path, api_over: ApiOver) -> None:
    rows = random_rows(np.random.default_rng(1), 0, 12, 4)
    catalogue = ChangingCatalogue(tmp_path / "artifacts", rows, index="Flat")
    base = current(catalogue.root)
    catalogue.update([{"id": "p1", "delete": True}])
    api = api_over(Recommender(engine_of(open_current(catalogue.root))))
    check_page(api.get("/report"), base / "report.html")
    assert api.build_id != base.name


def test_it_may_have_its_own_style_and_load_nothing(api: Api) -> None:
    headers = api.get("/report").headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert not re.search(rb"<script|<link|https?:|src=|url\(", api.get("/report").body)


def test_it_needs_a_key_where_answers_do(served_api_over: ApiOver, sample_artifacts: Path) -> None:
    api = served_api_over(api_keys=("secret",))
    assert api.get("/report").status == 401
    keyed = api.request("GET", "/report", headers={"X-API-Key": "secret"})
    check_page(keyed, current(sample_artifacts) / "report.html")


def without_report(root: Path) -> Build:
    """A build as older versions have published it."""
    publish(root)
    directory = current(root)
    (directory / "report.html").unlink()
    edit_manifest(directory, lambda manifest: manifest["files"].pop("report.html"))
    return open_current(root)


@pytest.mark.parametrize(
    "make",
    [
        lambda root, sample: compass(),
        lambda root, sample: engine_of(sample, shown='{"section": "drinks"}'),
        lambda root, sample: engine_of(without_report(root)),
    ],
    ids=["another engine", "only some products are shown", "an older build"],
)
def test_where_there_is_none_a_sentence_says_so(
    tmp_path: Path, api_over: ApiOver, sample_build: Build, make: Callable[[Path, Build], Any]
) -> None:
    api = api_over(Recommender(make(tmp_path / "artifacts", sample_build)))
    check_problem(api.get("/report"), 404, f"{api.build_id} is served without a report")
