"""Engines as tests make them."""

from retrieval.artifact.build import Build
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import FaissEngine
from service.engines.shown_products import read_shown


def engine_of(build: Build, cores: int = 1, shown: str = "") -> FaissEngine:
    return FaissEngine(build, Cores(shared_cores(), cores), read_shown(build.filters.vocabulary, shown))
