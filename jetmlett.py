"""The console command: `jetmlett COMMAND` runs the command lines of the service and of the builder under one name."""

import argparse
import os
from importlib import import_module

from retrieval import VERSION

# Only the package of the command is imported: the builder sets up OpenMP before FAISS is loaded.
_COMMANDS = {
    "build": ("index_builder", "build an index of a catalogue, and publish it"),
    "update": ("index_builder", "publish changes of products on the current build"),
    "merge": ("index_builder", "publish the current build and its changes as one"),
    "compare": ("index_builder", "tell how two builds differ"),
    "serve": ("service", "serve the current build over HTTP, and new ones as they are published"),
    "check": ("service", "verify the settings and the current build, and say what would be served"),
    "builds": ("service", "list the builds there are, with their recall and age"),
    "rollback": ("service", "go back to the build before the current one"),
    "batch": ("service", "answer the users of a file"),
    "publish": ("service", "load the current build into Milvus"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit code. A bad argument raises SystemExit."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # Workers import what is installed, not what lies where they run.
    package, _ = _COMMANDS[options.command]
    return import_module(f"{package}.__main__").main([options.command, *options.arguments], "jetmlett")


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:10} {text}" for name, (_, text) in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="jetmlett",
        usage="%(prog)s [--version] COMMAND ...",
        description=f"Best and worst matching products of users.\n\ncommands:\n{commands}",
        epilog="`jetmlett COMMAND --help` tells more of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    arguments = parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help=argparse.SUPPRESS)
    arguments.required = False  # argparse would name them beside a COMMAND that is missing.
    return parser
