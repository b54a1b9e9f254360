"""Engines as tests make them."""

from retrieval.artifact.store import Build
from service.cores import Cores, shared_cores
from service.engines.faiss_engine import FaissEngine


def engine_of(build: Build, cores: int = 1) -> FaissEngine:
    return FaissEngine(build, Cores(shared_cores(), cores))
