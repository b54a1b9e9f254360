"""Imports point one way, in few layers, between few packages.

The nodes of the graph are packages two deep (`retrieval.search`), modules that stand loose in a package
(`service.settings`), `client` and `query`.
"""

import ast
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

from tests.structure.source import ROOT

PACKAGES = ("retrieval", "index_builder", "service", "client")
MAY_IMPORT = {
    "retrieval": set(),
    "index_builder": {"retrieval"},
    "service": {"retrieval"},
    "client": set(),
    "query": {"client"},
}
MAX_LAYERS, MAX_NODES = 8, 24

Graph = Mapping[str, set[str]]


@cache
def import_graph() -> Graph:
    """Return what each node imports, besides itself and what others have written."""
    modules = grimp.build_graph(*PACKAGES, cache_dir=None)
    graph: dict[str, set[str]] = {"client": set(), "query": {node_of(module) for module in imports_of_query()}}
    for module in modules.modules:
        for imported in modules.find_modules_directly_imported_by(module):
            graph.setdefault(node_of(module), set()).add(node_of(imported))
            graph.setdefault(node_of(imported), set())
    return {node: imported - {node} for node, imported in graph.items()}


def node_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "client" else ".".join(parts[:2])


def imports_of_query() -> list[str]:
    nodes = ast.walk(ast.parse((ROOT / "query.py").read_text()))
    found = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return [module for module in found if module.split(".")[0] in PACKAGES]


def layers_of(graph: Graph) -> list[list[str]]:
    """Return the nodes by the length of the longest way down from them. Raises CycleError."""
    height: dict[str, int] = {}
    for node in TopologicalSorter(graph).static_order():
        height[node] = 1 + max((height[imported] for imported in graph[node]), default=0)
    return [sorted(node for node in height if height[node] == layer) for layer in range(1, max(height.values()) + 1)]


def test_no_imports_go_round_in_a_circle() -> None:
    try:
        layers_of(import_graph())
    except CycleError as error:
        pytest.fail(f"packages import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(("package", "allowed"), MAY_IMPORT.items(), ids=MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str, allowed: set[str]) -> None:
    upwards = {
        f"{node} -> {imported}"
        for node, found in import_graph().items()
        for imported in found
        if node.split(".")[0] == package and imported.split(".")[0] not in {package, *allowed}
    }
    assert upwards == set()


def test_the_longest_chain_of_imports_is_short() -> None:
    layers = layers_of(import_graph())
    shown = "\n".join(f"{number}: {', '.join(layer)}" for number, layer in enumerate(layers, 1))
    assert len(layers) <= MAX_LAYERS, f"{len(layers)} layers, {MAX_LAYERS} are allowed:\n{shown}"


def test_there_are_few_packages_and_loose_modules() -> None:
    nodes = sorted(import_graph())
    assert len(nodes) <= MAX_NODES, f"{len(nodes)} packages and loose modules, {MAX_NODES} are allowed: {nodes}"
