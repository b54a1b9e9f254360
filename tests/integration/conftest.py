"""The app over the sample build, without a server."""

from collections.abc import Callable

import pytest

from index_builder.artifact import Build
from service.app import create_app
from service.engines.faiss_engine import FaissEngine
from service.recommender import Recommender
from service.settings import Limits
from tests.api import Answer, Api
from tests.sample import SampleProducts, read_products

ApiOver = Callable[..., Api]


@pytest.fixture(scope="session")
def recommender(sample_build: Build) -> Recommender:
    return Recommender(FaissEngine(sample_build))


@pytest.fixture(scope="session")
def api_over(recommender: Recommender) -> ApiOver:
    """A function that makes an app over a recommender (the sample's) and limits (the defaults)."""

    def api_over(
        recommender: Recommender = recommender, limits: Limits | None = None, max_body_bytes: int = 64 * 2**20
    ) -> Api:
        client = create_app(recommender, limits or Limits(), max_body_bytes).test_client()

        def send(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
            response = client.open(path, method=method, data=body, headers=headers)
            return Answer(response.status_code, response.headers, response.data)

        return Api(send, recommender)

    return api_over


@pytest.fixture(scope="session")
def api(api_over: ApiOver) -> Api:
    return api_over()


@pytest.fixture(scope="session")
def sample_products() -> SampleProducts:
    return read_products()
