"""Command line: `python -m index_builder --products FILE --out ARTIFACTS_ROOT`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from index_builder.build import BuildRequest, build
from index_builder.errors import IndexBuilderError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    try:
        manifest = build(BuildRequest(**vars(options)))
    except (IndexBuilderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        print("nothing was published", file=sys.stderr)
        return 1
    print(_summary(options.out, manifest, time.perf_counter() - started))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m index_builder", description=sys.modules["index_builder"].__doc__)
    parser.add_argument(
        "--products", type=Path, required=True, metavar="FILE", help="JSON lines, JSON array or NPZ; may be .gz"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="ARTIFACTS_ROOT", help="where builds and CURRENT live"
    )
    parser.add_argument(
        "--queries", type=Path, metavar="FILE", help="users to measure recall with (default: synthetic users)"
    )
    parser.add_argument("--index", default="auto", metavar="auto|Flat|FACTORY", help="index kind (default: auto)")
    parser.add_argument(
        "--on-bad-row", choices=["fail", "drop"], default="fail", help="what a bad row does (default: fail)"
    )
    parser.add_argument("--embedding-model", metavar="LABEL", help="embedding model's label, kept in the manifest")
    return parser


def _summary(root: Path, manifest: dict[str, Any], seconds: float) -> str:
    recall, source = manifest["recall"], manifest["source"]["file"]
    size = sum(file["bytes"] for file in manifest["files"].values())
    dropped = manifest["dropped_rows"]
    return "\n".join(
        [
            f"published   {root / manifest['build_id']}",
            f"products    {manifest['products']:,} x {manifest['dimension']} dimensions from {source}"
            + (f" ({dropped:,} bad rows dropped)" if dropped else ""),
            f"index       {manifest['index']['factory']}, {manifest['distinct_vectors']:,} distinct vectors a side",
            f"recall@{recall['k']:<4} best {recall['best']:.4f}, worst {recall['worst']:.4f}"
            f" ({recall['users']:,} users: {recall['users_from']})",
            f"size        {size / 1e6:.1f} MB, built in {seconds:.1f} s",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
