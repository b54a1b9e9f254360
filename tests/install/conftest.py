"""A fresh copy of the repository, and an environment as those have it who are in no virtual one."""

import os
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.server import ROOT

SECONDS = 300  # after which a command is taken to hang


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is not ignored: where there is no git, a clone cannot be made."""
    directory = tmp_path_factory.mktemp("fresh") / "jetmlett"
    ignored = (ROOT / ".gitignore").read_text().split()

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = [".git/", *(pattern.lstrip("/") for pattern in ignored if Path(folder) == ROOT or pattern[0] != "/")]
        return {name for name in names if any(fnmatch(name, pattern.rstrip("/")) for pattern in here)}

    shutil.copytree(ROOT, directory, ignore=left_out)
    return directory


def outside() -> dict[str, str]:
    """Return the environment without the virtual one that the tests run in, and without what they set for it."""
    own = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RECO_", "PYTHON", "VIRTUAL_"))}
    return {**kept, "PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)}
