"""Bytes of a build, which is what workers map into memory, by how it stores vectors and the worst side.

python -m benchmarks.storage [--products 100000]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.catalogues import write_catalogue, write_users
from benchmarks.machine import machine
from retrieval.artifact.manifest import Manifest
from retrieval.artifact.store import open_current

_KINDS = [("fp32", "negated"), ("fp32", "shared"), ("fp16", "negated"), ("fp16", "shared")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--products", type=int, default=100_000)
    products = parser.parse_args().products
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_catalogue(directory / "products.npz", products)
        write_users(directory / "users.npz", 5000, seed=2)
        factory = ""
        for storage, worst in _KINDS:
            manifest = build(directory, storage, worst, factory)
            if not factory:  # the builder's choice, which the other kinds then have too
                factory = manifest.index.factory
                print(f"{products:,} products x {manifest.dimension} dimensions, {factory}\n")
                print("| storage | worst side | vectors MB | codes and tables MB | all MB | GB per million products |")
                print("|---|---|---|---|---|---|")
            copies = 2 if worst == "negated" else 1
            vectors = copies * products * manifest.dimension * (4 if storage == "fp32" else 2)
            total = manifest.size_bytes
            sizes = f"{vectors / 1e6:,.0f} | {(total - vectors) / 1e6:,.0f} | {total / 1e6:,.0f}"
            print(f"| {storage} | {worst} | {sizes} | {total / products / 1e3:.2f} |", flush=True)


def build(directory: Path, storage: str, worst: str, factory: str) -> Manifest:
    """Make a build of its own and return its manifest."""
    out = directory / f"{storage}-{worst}"
    sources = ["--products", str(directory / "products.npz"), "--queries", str(directory / "users.npz")]
    kind = ["--index", factory, "--allow-low-recall"] if factory else []
    options = ["--storage", storage, "--worst", worst, *kind, "--out", str(out)]
    command = [sys.executable, "-m", "index_builder", *sources, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return open_current(out).manifest


if __name__ == "__main__":
    main()
