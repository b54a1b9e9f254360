"""What all benchmarks read and print: options, the machine, Markdown tables, answers of processes, times of calls."""

import argparse
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

CORES = len(os.sched_getaffinity(0))


def option_parser(module: str, description: str | None, **counts: int) -> argparse.ArgumentParser:
    """Return a parser with an option for each count, which has the default given."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def machine(more: str = "") -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    return f"machine: {CORES} cores of {names[0]}, Python {platform.python_version()}{more}"


def print_machine(more: str = "") -> None:
    print(machine(more))


def print_header(*columns: str) -> None:
    print_row(*columns)
    print(f"|{'---|' * len(columns)}", flush=True)


def print_row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


@contextmanager
def answers_only() -> Iterator[TextIO]:
    """Yield what standard output was; what libraries print goes to standard error instead."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
