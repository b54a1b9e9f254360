"""Command line: `python -m service serve | check | builds | rollback | batch | publish`; `RECO_*` are its settings."""

import argparse
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from retrieval.artifact.build import Build
from retrieval.artifact.manifest import read_manifest
from retrieval.artifact.store import build_ids, current_build_id, named_build_id, open_current, roll_back
from retrieval.errors import BadArtifact
from retrieval.records.console import parse_count, parse_share, print_message, print_result, standard_streams
from service.engines.base import check_label
from service.engines.shown_products import read_shown
from service.errors import INSTALL_MILVUS, ServiceError, TooManyErrors
from service.offline.job import MAX_ERROR_SHARE, PART_ROWS, run_batch
from service.settings import MILVUS_INDEXES, SCHEMA, environment_with, read_milvus, read_settings
from service.workers.logs import set_up_logs
from service.workers.supervisor import serve

_EXIT_TOO_MANY_ERRORS = 3  # 2 is argparse's own, for words that it cannot read.
_PROGRAM = "python -m service"


@standard_streams()
def main(arguments: list[str] | None = None, program: str = _PROGRAM) -> int:
    options = _parser(program).parse_args(arguments)
    overrides = {name: value for name, value in vars(options).items() if name.startswith("RECO_")}
    options.environment = environment_with(overrides)
    try:
        options.run(options)
    except (ServiceError, BadArtifact, OSError) as error:
        for handler in logging.getLogger().handlers:
            handler.flush()
        print_message("\n".join([f"error: {error}", *options.after_an_error]))
        return _EXIT_TOO_MANY_ERRORS if isinstance(error, TooManyErrors) else 1
    return 0


def _serve(options: argparse.Namespace) -> None:
    settings, dropped_lines = read_settings(options.environment), SimpleQueue[int]()
    set_up_logs(settings, dropped_lines.put)
    serve(settings, dropped_lines)


def _check(options: argparse.Namespace) -> None:
    settings = read_settings(options.environment)
    build = open_current(settings.artifacts)
    read_shown(build.filters.vocabulary, settings.filter)
    manifest = build.manifest
    check_label(manifest.embedding_model, settings.require_embedding_model)
    index, recall = manifest.index, manifest.recall
    found = f"best {recall.best[0].mean:.4f}, worst {recall.worst[0].mean:.4f}"
    lines = [
        f"build      {settings.artifacts / build.id}",
        *_delta_lines(build),
        f"products   {manifest.products:,} x {manifest.dimension} dimensions from {build.base.manifest.source.file}",
        f"index      {index.factory}, {index.storage}, worst side {index.worst}; recall@10 {found}",
        f"vectors    of {manifest.embedding_model or 'an embedding model that the build does not name'}",
        *(f"{setting.name:19} {setting.show(options.environment)}".rstrip() for setting in SCHEMA),
    ]
    print_result("\n".join(lines))


def _delta_lines(build: Build) -> list[str]:
    """Say what a delta changes on its base, if it is one."""
    delta = build.manifest.delta
    if delta is None:
        return []
    counts = (
        f"{delta.added:,} products added, {delta.replaced:,} replaced, {delta.changed:,} changed, {delta.deleted:,}"
    )
    size, base_size = (each.manifest.size_bytes / 1e6 for each in (build, build.base))
    last = f"the last by {build.manifest.source.file}"
    return [f"delta      {counts} deleted, {last}; {size:.1f} MB on {base_size:.1f} MB of {delta.base}"]


def _roll_back(options: argparse.Namespace) -> None:
    artifacts = read_settings(options.environment).artifacts
    before = ""
    with suppress(BadArtifact):  # CURRENT may be lost, and a build that is named becomes the current one all the same.
        before = f" from build {named_build_id(artifacts)}"
    print_result(f"rolled back{before} to {roll_back(artifacts, options.to)}")


def _list_builds(options: argparse.Namespace) -> None:
    artifacts = read_settings(options.environment).artifacts
    present = build_ids(artifacts) if artifacts.is_dir() else []
    try:
        current = current_build_id(artifacts)
    except BadArtifact as error:
        if not present:
            raise
        current = ""
        print_message(f"warning: {error}")
    print_result("\n".join(_build_line(artifacts, build_id, build_id == current) for build_id in present))


def _build_line(artifacts: Path, build_id: str, is_current: bool) -> str:
    """Say of a build which products it has, what it finds, and how old it is, as far as its manifest can be read."""
    mark = "*" if is_current else " "
    try:
        manifest = read_manifest(artifacts / build_id)
    except BadArtifact as error:
        return f"{mark} {build_id}  cannot be opened: {error}"
    recall, delta = manifest.recall, manifest.delta
    kind = f"delta on {delta.base}" if delta else manifest.index.factory
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.created)
    found = f"recall@10 best {recall.best[0].mean:.4f}, worst {recall.worst[0].mean:.4f}"
    return f"{mark} {build_id}  {_age_text(age)} old  {manifest.products:,} products  {found}  {kind}"


def _age_text(age: timedelta) -> str:
    hours, minutes = age.seconds // 3600, age.seconds // 60
    return f"{age.days} d" if age.days else f"{hours} h" if hours else f"{minutes} min"


def _batch(options: argparse.Namespace) -> None:
    settings = read_settings(options.environment)
    set_up_logs(settings)
    outcome = run_batch(options.input, options.output, settings, options.k, options.part_rows, options.embedding_model)
    print_result(str(outcome))
    outcome.check(options.max_error_share)


def _publish(options: argparse.Namespace) -> None:
    try:
        from service.engines.milvus_publish import Layout, publish
    except ModuleNotFoundError as error:
        raise ServiceError(f"{error}; {INSTALL_MILVUS}") from error
    artifacts = read_settings({**options.environment, "RECO_ENGINE": ""}).artifacts
    layout = Layout(options.index, options.shards, options.replicas)
    print_result(publish(artifacts, read_milvus(options.environment), layout))


def _parser(program: str = _PROGRAM) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=sys.modules["service"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("serve", _serve, "serve the current build over HTTP, and new ones as they are published"),
        ("check", _check, "verify the settings and the current build, and say what would be served"),
        ("builds", _list_builds, "list the builds there are, the current one marked, with their recall and age"),
        ("rollback", _roll_back, "make the build before the current one the current one, or the one named by --to"),
        ("batch", _batch, "answer the users of a file"),
        ("publish", _publish, "load the current build into Milvus and serve it there"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text}; settings are RECO_* variables")
        _add_override(command, "--artifact", "RECO_ARTIFACTS", "artifacts root")
        command.set_defaults(run=run, after_an_error=())
    commands.choices["rollback"].add_argument("--to", metavar="BUILD", help="id of the build to go back to")
    _add_batch_options(commands.choices["batch"])
    _add_milvus_options(commands.choices["publish"])
    return parser


def _add_override(command: argparse.ArgumentParser, option: str, name: str, meaning: str) -> None:
    command.add_argument(option, dest=name, metavar=option.strip("-").upper(), help=f"{meaning}, instead of {name}")


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    add_file = partial(command.add_argument, type=Path, required=True, metavar="FILE")
    add_count = partial(command.add_argument, type=int, metavar="COUNT")
    add_file("--input", help="Parquet, or JSON lines, which may be .gz; or a directory of them")
    add_file("--output", help="name.parquet, or name.jsonl, .ndjson; and .gz of these")
    _add_override(command, "--filter", "RECO_FILTER", "only products that match, for all users, as JSON")
    text = "embedding model of the users' vectors, which must be the build's"
    command.add_argument("--embedding-model", metavar="NAME", help=text)
    add_count("--k", help="matches a side for users that do not say (default: RECO_DEFAULT_K)")
    text = f"users that a process answers at a time; fewer take less memory (default: {PART_ROWS})"
    add_count("--part-rows", default=PART_ROWS, help=text)
    text = f"exit with {_EXIT_TOO_MANY_ERRORS} where more of the users have an error (default: {MAX_ERROR_SHARE})"
    command.add_argument("--max-error-share", type=parse_share, default=MAX_ERROR_SHARE, metavar="SHARE", help=text)


def _add_milvus_options(command: argparse.ArgumentParser) -> None:
    command.set_defaults(after_an_error=("nothing was published",), RECO_MILVUS_TIMEOUT="600")
    _add_override(command, "--uri", "RECO_MILVUS_URI", "Milvus, such as http://milvus:19530")
    _add_override(command, "--alias", "RECO_MILVUS_ALIAS", "what services search by")
    _add_override(command, "--timeout", "RECO_MILVUS_TIMEOUT", "seconds for one step in Milvus, 600 by default")
    kind, *_ = MILVUS_INDEXES
    text = f"kind of index; FLAT is exact (default: {kind})"
    command.add_argument("--index", choices=MILVUS_INDEXES, default=kind, help=text)
    for name, subject in (("shards", "insertion is"), ("replicas", "searches are")):
        text = f"{subject} spread over N (default: 1)"
        command.add_argument(f"--{name}", type=parse_count, default=1, metavar="N", help=text)


if __name__ == "__main__":
    sys.exit(main())
