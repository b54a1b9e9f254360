"""Servers that tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.artifact.build import Build
from service.recommender import Recommender
from tests.support.api import Api
from tests.support.engines import engine_of
from tests.support.server import Server, serving


@pytest.fixture(scope="session")
def recommender(sample_build: Build) -> Recommender:
    """What the servers answer from, in this process."""
    return Recommender(engine_of(sample_build))


@pytest.fixture(scope="session")
def server(sample_artifacts: Path) -> Iterator[Server]:
    """A server with two workers, and otherwise the default settings."""
    with serving(sample_artifacts, RECO_WORKERS="2") as server:
        yield server


@pytest.fixture(scope="session")
def api(server: Server, recommender: Recommender) -> Api:
    return Api(server.send, recommender)


@pytest.fixture(scope="session")
def tight_server(sample_artifacts: Path) -> Iterator[Server]:
    """A server with other limits."""
    limits = {"RECO_MAX_BODY_MB": "1", "RECO_MAX_K": "5000", "RECO_DEFAULT_K": "3", "RECO_MAX_BATCH": "20"}
    with serving(sample_artifacts, **limits) as server:
        yield server


@pytest.fixture(scope="session")
def tight_api(tight_server: Server, recommender: Recommender) -> Api:
    return Api(tight_server.send, recommender)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from tests.support.browser import started

    with started() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Any]:
    """A function that opens a page of a service, and fails the test where the page complains."""
    from tests.support.browser import opening

    with opening(browser, server) as open_page:
        yield open_page
