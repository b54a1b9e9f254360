"""Builds that Spark and Ray answer from."""

from pathlib import Path

import pytest

from tests.cluster.users import PRODUCTS, publish

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("cluster") / "artifacts"
    publish(root, PRODUCTS)
    return str(root)
