"""Command line: `python -m index_builder --products FILE --out ARTIFACTS_ROOT`, or `--update CHANGES`, or `--merge`.

These are commands too: `build --products FILE`, `update CHANGES`, `merge`. `compare BUILD_A BUILD_B` publishes nothing.
"""

import argparse
import os
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from retrieval.artifact.manifest import Manifest, Recall, RecallAtK
from retrieval.artifact.quality import MIN_NEAR_COSINE, Quality, SideQuality
from retrieval.cores import available_cores
from retrieval.errors import RetrievalError
from retrieval.records.console import parse_count, parse_share, print_message, print_result, standard_streams
from retrieval.records.roles import READABLE, ROLES
from retrieval.search.settings import SearchSettings, fewest_for_scan

_PROGRAM = "python -m index_builder"
_MAX_FIELDS_SHOWN = 5
_COMPARE = "compare"
_COMMANDS = ("build", "update", "merge", _COMPARE)


@standard_streams()
def main(arguments: list[str] | None = None, program: str = _PROGRAM) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    command = words[0] if words and words[0] in _COMMANDS else ""
    compares = command == _COMPARE
    parser = _compare_parser(program) if compares else _parser(program, command)
    options = vars(parser.parse_args(words[bool(command) :]))
    # Threads that wait would spin, and take cores from those that work. OpenMP knows no quota of a container, and would
    # start a thread for each core of the machine. FAISS reads both as it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    return _compare(options) if compares else _publish(parser, options, command)


def _publish(parser: argparse.ArgumentParser, options: dict[str, Any], command: str) -> int:
    from index_builder.catalogue import BadProducts
    from index_builder.pipelines.build import BuildRequest
    from index_builder.pipelines.changes.merge import MergeRequest
    from index_builder.pipelines.changes.update import UpdateRequest

    commands = {
        "products": (BuildRequest, _build),
        "update": (UpdateRequest, _update),
        "merge": (MergeRequest, _merge),
    }
    name = next(name for name in commands if name in options)
    request_type, run = commands[name]
    if name == "merge":
        del options[name]  # It has no value that a request would take.
    if foreign := options.keys() - {field.name for field in fields(request_type)}:
        parser.error(f"--{min(foreign).replace('_', '-')} does not go with {command or f'--{name}'}")
    try:
        run(request_type(**options))
    except (RetrievalError, OSError) as error:
        advice = "\n--on-bad-row drop leaves such rows out" if isinstance(error, BadProducts) else ""
        print_message(f"error: {error}{advice}\nnothing was published")
        return 1
    return 0


def _compare(options: dict[str, Any]) -> int:
    from index_builder.pipelines.compare.compare import CompareRequest, compare
    from index_builder.report.comparison.page import render_page
    from index_builder.report.comparison.text import render_text
    from index_builder.report.files import as_json

    write = {"text": render_text, "json": as_json, "html": render_page}[options.pop("format")]
    try:
        facts = compare(CompareRequest(**options))
    except (RetrievalError, OSError) as error:
        print_message(f"error: {error}")
        return 1
    for warning in facts["warnings"]:
        print_message(f"warning: {warning}")
    print_result(write(facts))
    return 0


def _build(request: Any) -> None:
    from index_builder.pipelines.build import build
    from retrieval.artifact.build import REPORT

    started = time.perf_counter()
    manifest = build(request)
    page = request.out / manifest.build_id / REPORT
    print_result(f"{_summary(request.out, manifest, time.perf_counter() - started)}\nreport      {page}")


def _update(request: Any) -> None:
    from index_builder.pipelines.changes.update import advise_on, update

    started = time.perf_counter()
    updated = update(request)
    print_result(_update_summary(request.out, updated, time.perf_counter() - started))
    try:
        findings = advise_on(request.out, updated)
    except (RetrievalError, OSError) as error:  # The delta is published for all that.
        print_message(f"merge       cannot be advised on: {error}")
        return
    print_result(_merge_line(request.out, findings))


def _merge(request: Any) -> None:
    from index_builder.pipelines.changes.merge import merge

    started = time.perf_counter()
    merged = merge(request)
    if merged is None:
        print_result(f"nothing to merge: the current build of {request.out} is no delta")
        return
    print_result(_summary(request.out, merged.manifest, time.perf_counter() - started))
    if merged.rebuilt_because:
        print_result(f"rebuilt     with training and tuning, as {merged.rebuilt_because}")


def _parser(program: str = _PROGRAM, command: str = "") -> argparse.ArgumentParser:
    """Return the parser of the requests, which have the defaults; without a command, an option says which one it is."""
    parser = argparse.ArgumentParser(
        prog=f"{program} {command}".rstrip(),
        description=sys.modules["index_builder"].__doc__,
        argument_default=argparse.SUPPRESS,
        epilog=None if command else f"`%(prog)s {_COMPARE} --help` tells how to compare two builds.",
    )
    _add_request(parser, command)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="ARTIFACTS_ROOT", help="where builds and CURRENT live")
    add("--queries", type=Path, metavar="FILE", help="users to measure recall with (default: synthetic users)")
    add(
        "--recall",
        type=parse_share,
        help="share of the ten and of the hundred best, and worst, to find (default: 0.99)",
    )
    add("--index", metavar="auto|Flat|TIERS|FACTORY", help="index kind (default: auto)")
    add("--allow-low-recall", action="store_true", help="publish an index that misses --recall, and say so")
    add("--storage", choices=["fp32", "fp16"], help="precision of stored vectors (default: fp32)")
    shared = "worst side: an index of its own, or the best side's searched with negated queries (default: negated)"
    add("--worst", choices=["negated", "shared"], help=shared)
    add("--on-bad-row", choices=["fail", "drop"], help="what a bad row does (default: fail)")
    only = "fields to filter by, separated by commas, or none (default: all that can be)"
    add("--filterable", type=_field_names, metavar="FIELDS|none", help=only)
    called = "what the file calls ids, names and vectors: id=sku,vector=embedding"
    add("--columns", type=_columns, metavar="ROLE=NAME,…", help=called)
    add("--keep", type=parse_count, metavar="N", help="newest builds to keep, this one included (default: 5)")
    label = "label of the model that made the vectors, which the service holds requests to"
    add("--embedding-model", metavar="LABEL", help=label)
    return parser


def _add_request(parser: argparse.ArgumentParser, command: str) -> None:
    """Add what is to be built: in one of three options, or what the command leaves open of it."""
    products = f"build these: {READABLE}"
    changes = "publish these changes as a delta on the current build"
    merge = "publish the current build's base and delta as one build"
    if command == "build":
        parser.add_argument("--products", type=Path, required=True, metavar="FILE", help=products)
    elif command == "update":
        parser.add_argument("update", type=Path, metavar="CHANGES", help=changes)
    elif command == "merge":
        parser.set_defaults(merge=True)
    else:
        add = parser.add_mutually_exclusive_group(required=True).add_argument
        add("--products", type=Path, metavar="FILE", help=products)
        add("--update", type=Path, metavar="CHANGES", help=changes)
        add("--merge", action="store_true", help=merge)


def _compare_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program} {_COMPARE}",
        description="Tell how the lists, products and measures of two builds differ.",
    )
    add = parser.add_argument
    where = "directory of a build, or an artifacts root for its current one"
    add("a", type=Path, metavar="BUILD_A", help=f"{where}: the one before")
    add("b", type=Path, metavar="BUILD_B", help=f"{where}: the one after")
    add("--queries", type=Path, metavar="FILE", help="users to ask both for lists (default: synthetic users)")
    add("--format", choices=["text", "json", "html"], default="text", help="of what is printed (default: text)")
    return parser


def _field_names(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split(","))


def _columns(text: str) -> dict[str, str]:
    columns = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    if len(columns) < text.count(",") + 1 or columns.keys() - {*ROLES} or not all(columns.values()):
        raise argparse.ArgumentTypeError(f"{text} is not like id=sku,name=title,vector=embedding")
    return columns


def _summary(root: Path, manifest: Manifest, seconds: float) -> str:
    index, recall = manifest.index, manifest.recall
    names = ", ".join(f"{field.name} ({field.type})" for field in manifest.filterable)
    filterable = names and f"\nfilterable  {names}\n{_filtered_line(recall)}"
    fields = f"{filterable}{_not_filterable_lines(root / manifest.build_id)}"
    dropped = f" ({manifest.dropped_rows:,} bad rows dropped)" if manifest.dropped_rows else ""
    return f"""\
published   {root / manifest.build_id}
products    {manifest.products:,} x {manifest.dimension} dimensions from {manifest.source.file}{dropped}
index       {index.factory}, {index.storage}, worst side {index.worst}, {manifest.distinct_vectors:,} distinct vectors
{_recall_line("best", recall.best, index.search.best, manifest.distinct_vectors)}
{_recall_line("worst", recall.worst, index.search.worst, manifest.distinct_vectors)}
promise     {"kept" if recall.kept else "NOT KEPT"}: recall@10 and @100 of at least {recall.target} on each side, \
measured on {recall.users_from}{fields}{_quality_lines(manifest.quality)}
size        {manifest.size_bytes / 1e6:.1f} MB, built in {seconds:.1f} s"""


def _not_filterable_lines(directory: Path) -> str:
    """Say why fields cannot be filtered by: a field that is missing from the filterable ones may go unnoticed."""
    from index_builder.report.files import read_not_filterable

    lines: list[str] = []
    with suppress(OSError):  # The build is published, even where its report cannot be read.
        lines = [f"{name}: {reason}" for name, reason in read_not_filterable(directory).items()]
    rest = len(lines) - _MAX_FIELDS_SHOWN
    shown = [*lines[:_MAX_FIELDS_SHOWN], *([f"and {rest:,} more, which the report lists"] if rest > 0 else [])]
    return "".join(f"\nno filter   {line}" for line in shown)


def _quality_lines(quality: Quality | None) -> str:
    if quality is None:
        return ""
    near = quality.near_duplicates
    duplicates = f"{near.vectors:,} of {near.sampled:,} distinct vectors"
    return f"""
{_lists_line("best", quality.best)}
{_lists_line("worst", quality.worst)}
duplicates  {duplicates} have a cosine of {MIN_NEAR_COSINE} or more with another"""


def _lists_line(side: str, quality: SideQuality) -> str:
    hub = f"one product in {quality.largest_share:.1%} of lists"
    lists = f"reach {quality.coverage:.1%} of products, Gini {quality.gini:.2f}, hubness {quality.hubness:.1f}"
    return f"{f'{side} lists':<11} {lists}, {hub}, distance {quality.ild:.3f} within a list"


def _update_summary(root: Path, updated: Any, seconds: float) -> str:
    manifest, counts, delta = updated.manifest, updated.counts, updated.delta
    return f"""\
published   {root / manifest.build_id}
changes     {_counts(counts)} by {manifest.source.file}
delta       {_counts(delta)} since {delta.base}
products    {manifest.products:,}
size        {manifest.size_bytes / 1e3:,.1f} kB, published in {seconds:.2f} s"""


def _counts(counts: Any) -> str:
    return (
        f"{counts.added:,} added, {counts.replaced:,} replaced, {counts.changed:,} changed, {counts.deleted:,} deleted"
    )


def _merge_line(root: Path, findings: list[Any]) -> str:
    reasons = [finding.text for finding in findings if finding.is_due]
    if not reasons:
        return f"merge       not due: {'; '.join(finding.text for finding in findings)}"
    return f"merge       due, as {'; '.join(reasons)}: python -m index_builder --merge --out {root}"


def _filtered_line(recall: Recall) -> str:
    best, worst = (min(getattr(cell, side).lower_bound for cell in recall.filtered) for side in ("best", "worst"))
    return f"filtered    recall@10 of at least {best:.4f} best and {worst:.4f} worst at every share of the products"


def _recall_line(side: str, recall: list[RecallAtK], settings: SearchSettings, rows: int) -> str:
    at_k = ", ".join(f"recall@{each.k} {each.mean:.4f} (at least {each.lower_bound:.4f})" for each in recall)
    effort = f"; {settings.candidates:,} candidates re-ranked" if settings.candidates else ""
    lists = f" from {settings.nprobe:,} lists" if settings.nprobe > 1 else ""
    if settings.candidates >= fewest_for_scan(rows):
        effort, lists = "; so few rows that all are scanned, without the index", ""
    return f"{side:<11} {at_k}{effort}{lists}"


if __name__ == "__main__":
    sys.exit(main())
