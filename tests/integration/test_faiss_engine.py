"""The embedded engine keeps the contract."""

from collections.abc import Callable

import pytest

from index_builder.artifact import Build
from service.engines.faiss_engine import FaissEngine
from tests.engine_contract import EngineContract, Products


class TestFlat(EngineContract):
    @pytest.fixture
    def engine_over(self, build_of: Callable[..., Build]) -> Callable[[Products], FaissEngine]:
        return lambda products: FaissEngine(build_of(products))
