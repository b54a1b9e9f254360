"""Commands and their output in the console blocks of a document."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s{2,}#\s.*$")


@dataclass(frozen=True)
class Command:
    """A command as one types it, and the lines that the document shows below it."""

    text: str
    output: tuple[str, ...]


def read_commands(document: Path) -> list[Command]:
    return [command for block in _BLOCK.findall(document.read_text()) for command in _commands_of(block)]


def _commands_of(block: str) -> list[Command]:
    commands = []
    for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        text, *output = part.splitlines()
        commands.append(Command(re.sub(r"\s+", " ", _COMMENT.sub("", text)), tuple(output)))
    return commands


def shows(output: str, documented: tuple[str, ...], measured: bool) -> bool:
    """Tell whether the output is the documented one, but for blanks, and for what `...` and `…` stand for.

    Build ids, sizes, times and other measured figures differ from run to run, and are not compared.
    """
    comparable = _without_figures if measured else _without_blanks
    parts = re.split(r"\.\.\.|…", comparable("".join(documented)))
    return re.search(".*?".join(map(re.escape, parts)), comparable(output)) is not None


def _without_blanks(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _without_figures(text: str) -> str:
    builds = re.sub(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", "BUILD", text)
    return re.sub(r"\d[\d,.]*", "N", _without_blanks(builds))
