"""Command line: `python -m service serve`, with settings from the environment."""

import argparse
import logging
import os
import sys

from index_builder.artifact import open_current
from index_builder.errors import BadArtifact
from service.app import create_app
from service.engines.faiss_engine import FaissEngine
from service.errors import BadSetting
from service.recommender import Recommender
from service.server import serve
from service.settings import Settings, read_settings


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    environment = dict(os.environ)
    if options.artifact:
        environment["RECO_ARTIFACTS"] = options.artifact
    try:
        settings = read_settings(environment)
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
        run(settings)
    except (BadSetting, BadArtifact, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(settings: Settings) -> None:
    """Wire everything together and serve."""
    recommender = Recommender(FaissEngine(open_current(settings.artifacts)))
    app = create_app(recommender, settings.limits, settings.max_body_bytes)
    serve(app, settings, lambda: recommender.info.build_id)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=sys.modules["service"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve the current build over HTTP; settings are RECO_* variables")
    serving.add_argument("--artifact", metavar="ROOT", help="artifacts root, instead of RECO_ARTIFACTS")
    return parser


if __name__ == "__main__":
    sys.exit(main())
