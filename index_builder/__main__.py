"""Command line: `python -m index_builder --products FILE --out ARTIFACTS_ROOT`."""

import argparse
import sys
import time
from pathlib import Path

from index_builder.pipeline import BuildRequest, build
from retrieval.artifact.manifest import Manifest, RecallAtK
from retrieval.errors import IndexBuilderError
from retrieval.search.settings import SearchSettings


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
    parser.add_argument(
        "--recall", type=_share, default=0.99, help="share of the ten best, and worst, to find (default: 0.99)"
    )
    parser.add_argument("--index", default="auto", metavar="auto|Flat|FACTORY", help="index kind (default: auto)")
    parser.add_argument(
        "--allow-low-recall", action="store_true", help="publish an index that misses --recall, and say so"
    )
    parser.add_argument(
        "--storage", choices=["fp32", "fp16"], default="fp32", help="precision of stored vectors (default: fp32)"
    )
    parser.add_argument(
        "--worst",
        choices=["negated", "shared"],
        default="negated",
        help="worst side: an index of its own, or the best side's searched with negated queries (default: negated)",
    )
    parser.add_argument(
        "--on-bad-row", choices=["fail", "drop"], default="fail", help="what a bad row does (default: fail)"
    )
    parser.add_argument(
        "--keep", type=_count, default=5, metavar="N", help="newest builds to keep, this one included (default: 5)"
    )
    parser.add_argument("--embedding-model", metavar="LABEL", help="embedding model's label, kept in the manifest")
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return count


def _summary(root: Path, manifest: Manifest, seconds: float) -> str:
    index, recall, dropped = manifest.index, manifest.recall, manifest.dropped_rows
    return "\n".join(
        [
            f"published   {root / manifest.build_id}",
            f"products    {manifest.products:,} x {manifest.dimension} dimensions from {manifest.source.file}"
            + (f" ({dropped:,} bad rows dropped)" if dropped else ""),
            f"index       {index.factory}, {index.storage}, worst side {index.worst},"
            f" {manifest.distinct_vectors:,} distinct vectors",
            _recall_line("best", recall.best, index.search.best),
            _recall_line("worst", recall.worst, index.search.worst),
            f"promise     {'kept' if recall.kept else 'NOT KEPT'}: recall@10 of at least {recall.target}"
            f" on each side, measured on {recall.users_from}",
            f"size        {manifest.size_bytes / 1e6:.1f} MB, built in {seconds:.1f} s",
        ]
    )


def _recall_line(side: str, recall: list[RecallAtK], settings: SearchSettings) -> str:
    at_k = ", ".join(f"recall@{each.k} {each.mean:.4f} (at least {each.lower_bound:.4f})" for each in recall)
    effort = f"; {settings.candidates:,} candidates re-ranked" if settings.candidates else ""
    lists = f" from {settings.nprobe:,} lists" if settings.nprobe else ""
    return f"{side:<11} {at_k}{effort}{lists}"


if __name__ == "__main__":
    sys.exit(main())
