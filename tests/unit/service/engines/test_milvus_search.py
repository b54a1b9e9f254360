"""How hard Milvus searches an approximate index grows with the depth."""

import pytest

from service.engines.milvus_cluster import BUILD_PARAMETERS, SEARCH_PARAMETERS
from service.settings import MILVUS_MAX_MATCHES


@pytest.mark.parametrize(("depth", "ef"), [(1, 2048), (512, 2048), (600, 2400), (MILVUS_MAX_MATCHES, 65_536)])
def test_a_graph_is_searched_four_times_as_deep_but_never_less_than_some_thousands(depth: int, ef: int) -> None:
    assert SEARCH_PARAMETERS["HNSW"](1_000_000, depth, 1_000) == {"ef": ef}


@pytest.mark.parametrize(
    ("products", "depth", "matched", "lists", "probes"),
    [
        (1, 1, 1, 4, 4),
        (3000, 10, 3000, 219, 73),
        (3000, 250, 3000, 219, 73),
        (3000, 375, 3000, 219, 110),
        (3000, 1500, 3000, 219, 219),
        (3000, 10, 2000, 219, 110),
        (3000, 10, 1001, 219, 219),
        (3000, 10, 7, 219, 219),
    ],
)
def test_so_many_lists_are_searched_that_they_hold_as_many_matches_whatever_the_filter(
    products: int, depth: int, matched: int, lists: int, probes: int
) -> None:
    assert BUILD_PARAMETERS["IVF_FLAT"](products) == {"nlist": lists}
    assert SEARCH_PARAMETERS["IVF_FLAT"](products, depth, matched) == {"nprobe": probes}
