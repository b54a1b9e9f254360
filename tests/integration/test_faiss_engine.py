"""The embedded engine keeps the contract, on one core and on several."""

from collections.abc import Callable

import pytest

from retrieval.artifact.build import Build
from service.engines.faiss_engine import FaissEngine
from tests.support.engine_contract import EngineContract, Products
from tests.support.engines import engine_of
from tests.support.field_contract import FieldContract


class TestOnOneCore(EngineContract):
    cores = 1

    @pytest.fixture
    def engine_over(self, build_of: Callable[..., Build]) -> Callable[[Products], FaissEngine]:
        return lambda products: engine_of(build_of(products), self.cores)


class TestOnThreeCores(TestOnOneCore):
    cores = 3


class TestFields(FieldContract):
    @pytest.fixture
    def engine_over(self, build_of: Callable[..., Build]) -> Callable[[Products], FaissEngine]:
        return lambda products: engine_of(build_of(products))
