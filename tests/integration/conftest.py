"""The app over the sample build, without a server and in one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import pytest

from retrieval.artifact.build import Build
from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import Limits, Settings
from tests.support.api import Answer, Api
from tests.support.engines import engine_of
from tests.support.sample import SampleProducts, read_products
from tests.support.server import SECONDS, exchange
from tests.support.threaded_server import threaded_server

ApiOver = Callable[..., Api]


@pytest.fixture(scope="session")
def recommender(sample_build: Build) -> Recommender:
    return Recommender(engine_of(sample_build))


@pytest.fixture(scope="session")
def api_over(recommender: Recommender) -> ApiOver:
    """A function that makes an app over a recommender (the sample's), limits and further settings (the defaults)."""

    def api_over(recommender: Recommender = recommender, limits: Limits | None = None, **options: Any) -> Api:
        settings = Settings(limits=limits or Limits(), **options)
        client = create_app(Serving(recommender), settings).test_client()

        def send(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
            response = client.open(path, method=method, data=body, headers=headers)
            return Answer(response.status_code, response.headers, response.data)

        return Api(send, recommender)

    return api_over


@pytest.fixture(scope="session")
def served_api_over(recommender: Recommender) -> Iterator[ApiOver]:
    """A function that serves an app in a thread of this process, over HTTP, with these settings."""
    with ExitStack() as stack:

        def served_api_over(recommender: Recommender = recommender, **options: Any) -> Api:
            settings = Settings(log_level="WARNING", **options)
            address = stack.enter_context(threaded_server(recommender, settings)).address

            def send(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
                with closing(HTTPConnection(*address, timeout=SECONDS)) as connection:
                    return exchange(connection, method, path, body, headers)

            return Api(send, recommender)

        yield served_api_over


@pytest.fixture(scope="session")
def api(api_over: ApiOver) -> Api:
    return api_over()


@pytest.fixture(scope="session")
def sample_products() -> SampleProducts:
    return read_products()
