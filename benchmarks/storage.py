"""Bytes of a build, which is what workers map into memory, by how it stores vectors and the worst side.

python -m benchmarks.storage [--products 100000]
"""

from itertools import product

from benchmarks.catalogues import sources
from benchmarks.processes import build
from benchmarks.report import option_parser, print_header, print_machine, print_row
from retrieval.artifact.store import open_current


def main() -> None:
    products = option_parser("benchmarks.storage", __doc__, products=100_000).parse_args().products
    print_machine()
    with sources(products) as directory:
        kind: list[str] = []
        for storage, worst in product(("fp32", "fp16"), ("negated", "shared")):
            options = ["--storage", storage, "--worst", worst, *kind]
            manifest = open_current(build(directory, f"{storage}-{worst}", *options)).manifest
            if not kind:  # The builder chooses for the first, and the others then have the same kind.
                kind = ["--index", manifest.index.factory, "--allow-low-recall"]
                print(f"{products:,} products x {manifest.dimension} dimensions, {manifest.index.factory}\n")
                sizes = ("vectors MB", "codes and tables MB", "all MB", "GB per million products")
                print_header("storage", "worst side", *sizes)
            copies = 2 if worst == "negated" and manifest.index.factory == "Flat" else 1
            vectors = copies * products * manifest.dimension * (4 if storage == "fp32" else 2)
            total = manifest.size_bytes
            megabytes = [f"{size / 1e6:,.0f}" for size in (vectors, total - vectors, total)]
            print_row(storage, worst, *megabytes, f"{total / products / 1e3:.2f}")


if __name__ == "__main__":
    main()
