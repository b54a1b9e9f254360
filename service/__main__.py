"""Command line: `python -m service serve | check | rollback`, with settings from the environment."""

import argparse
import os
import sys

from index_builder.artifact import current_build_id, open_current, roll_back
from index_builder.errors import BadArtifact
from service.errors import BadSetting, CannotServe
from service.logs import set_up_logs
from service.settings import Settings, read_settings
from service.supervisor import serve


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.artifact:
        os.environ["RECO_ARTIFACTS"] = options.artifact  # the workers read it too
    try:
        settings = read_settings(os.environ)
        set_up_logs(settings)
        options.run(settings)
    except (BadSetting, BadArtifact, CannotServe, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check(settings: Settings) -> None:
    build = open_current(settings.artifacts)
    manifest = build.manifest
    index, recall = manifest["index"], manifest["recall"]
    found = ", ".join(f"{side} {recall[side][0]['mean']:.4f}" for side in ("best", "worst"))
    print(f"build      {settings.artifacts / build.id}")
    print(f"products   {manifest['products']:,} x {manifest['dimension']} dimensions from {manifest['source']['file']}")
    print(f"index      {index['factory']}, {index['storage']}, worst side {index['worst']}; recall@10 {found}")
    print(f"listens    {settings.host}:{settings.port}, {settings.workers} workers")
    limits = settings.limits
    print(f"limits     k {limits.max_k:,}, batch {limits.max_batch:,}, body {settings.max_body_bytes >> 20} MB")
    print(f"access     {f'{len(settings.api_keys)} API keys' if settings.api_keys else 'open to all'}")


def _roll_back(settings: Settings) -> None:
    before = current_build_id(settings.artifacts)
    print(f"rolled back from build {before} to {roll_back(settings.artifacts)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=sys.modules["service"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("serve", serve, "serve the current build over HTTP, and new ones as they are published"),
        ("check", _check, "verify the settings and the current build, and say what would be served"),
        ("rollback", _roll_back, "make the build before the current one the current one"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text}; settings are RECO_* variables")
        command.add_argument("--artifact", metavar="ROOT", help="artifacts root, instead of RECO_ARTIFACTS")
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
