"""Modules, folders and functions stay small enough to be read at once."""

import ast
from collections import Counter
from statistics import median

from tests.structure.source import name_of, source_files

MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_MEDIAN_FUNCTION_LINES = 300, 40, 6
MAX_MODULES_IN_A_FOLDER = 12
MAY_BE_LONG = {"client/jetmlett_client.py"}  # one file by contract, so that it can be copied


def function_lines() -> dict[str, int]:
    """Return how many lines each function takes, its nested functions included."""
    return {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_module_is_long() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in source_files()}
    assert {name: n for name, n in lines.items() if n > MAX_MODULE_LINES and name not in MAY_BE_LONG} == {}


def test_no_folder_holds_many_modules() -> None:
    modules = Counter(name_of(path.parent) for path in source_files())
    assert {folder: n for folder, n in modules.items() if n > MAX_MODULES_IN_A_FOLDER} == {}


def test_no_function_is_long() -> None:
    assert {name: n for name, n in function_lines().items() if n > MAX_FUNCTION_LINES} == {}


def test_most_functions_are_a_few_lines() -> None:
    assert median(function_lines().values()) <= MAX_MEDIAN_FUNCTION_LINES
