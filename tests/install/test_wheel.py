"""The wheel in an environment of its own, run where folders have the names of its packages."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import VERSION
from tests.install.conftest import SECONDS, outside
from tests.support.catalogues import products_of, write_lines
from tests.support.oracle import Oracle
from tests.support.server import Server, started

STATIC = Path("service", "http", "static")
PRODUCTS = np.random.default_rng(3).normal(size=(40, 6))
VECTORS = np.random.default_rng(4).normal(size=(5, 6))
USERS = [{"name": f"user {i}", "vector": vector} for i, vector in enumerate(VECTORS.tolist())]

ASK = """
import json, sys
from dataclasses import asdict
from client.jetmlett_client import Client, User
users = [User(**user) for user in json.load(open("users.json"))]
with Client(sys.argv[1]) as client:
    print(json.dumps([asdict(result) for result in client.batch(users)]))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a directory elsewhere."""

    environment: Path
    directory: Path

    def run(self, program: str, *arguments: object) -> str:
        command = [str(self.environment / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.directory, env=outside(), capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@pytest.fixture(scope="module")
def installed(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment, directory = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", directory, clone], check=True, timeout=SECONDS)
    [wheel] = directory.glob("*.whl")
    assert wheel.name == f"jetmlett-{VERSION}-py3-none-any.whl"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=SECONDS)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, timeout=SECONDS)
    # What it requires comes from here: a path in such a file is behind what is installed.
    [packages] = environment.glob("lib/python3.*/site-packages")
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("retrieval", "index_builder", "service", "client"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(f"raise ImportError('{name} is that of the working directory')")
    write_lines(directory / "products.jsonl", products_of(PRODUCTS))
    (directory / "users.json").write_text(json.dumps(USERS))
    write_lines(directory / "users.jsonl", USERS)
    return Installed(environment, directory)


@pytest.fixture(scope="module")
def artifacts(installed: Installed) -> Path:
    installed.run("jetmlett", "build", "--products", "products.jsonl", "--out", "artifacts")
    return installed.directory / "artifacts"


@pytest.fixture(scope="module")
def server(installed: Installed, artifacts: Path) -> Iterator[Server]:
    command = [str(installed.environment / "bin" / "jetmlett"), "serve"]
    with started(command, installed.directory, artifacts) as server:
        yield server


def check_answers(answers: list[dict[str, Any]]) -> None:
    """Assert that these are exact NumPy's to all users, in their order."""
    assert [answer["name"] for answer in answers] == [user["name"] for user in USERS]
    for answer, vector in zip(answers, VECTORS, strict=True):
        for side in ("best", "worst"):
            positions = [int(match["id"].removeprefix("p")) for match in answer[side]]
            Oracle(PRODUCTS).check(vector, side, positions, [match["score"] for match in answer[side]], 10)


def test_the_command_says_its_version(installed: Installed) -> None:
    assert installed.run("jetmlett", "--version") == f"jetmlett {VERSION}\n"


def test_the_builder_has_a_command_too(installed: Installed, artifacts: Path) -> None:
    assert "overlap" in installed.run("jetmlett-index", "compare", artifacts, artifacts)


def test_it_brings_every_file_of_the_pages(clone: Path, server: Server) -> None:
    pages = {"/": STATIC / "explorer/explorer.html", "/docs": STATIC / "docs/docs.html"}
    files = [path.relative_to(clone) for folder in ("explorer", "docs") for path in (clone / STATIC / folder).iterdir()]
    pages |= {f"/static/{path.relative_to(STATIC)}": path for path in files if path.suffix != ".html"}
    assert len(pages) > 10
    for url, file in pages.items():
        answer = server.send("GET", url, None, {})
        assert (answer.status, answer.body) == (200, (clone / file).read_bytes()), url
    document = json.loads((clone / STATIC / "openapi.json").read_text())
    assert server.send("GET", "/openapi.json", None, {}).json["info"] == document["info"]


def test_its_client_asks_its_service(installed: Installed, server: Server) -> None:
    check_answers(json.loads(installed.run("python", "-P", "-c", ASK, f"http://127.0.0.1:{server.port}")))


def test_a_batch_is_answered_by_processes_of_their_own(installed: Installed, artifacts: Path) -> None:
    installed.run("jetmlett", "batch", "--artifact", artifacts, "--input", "users.jsonl", "--output", "matches.jsonl")
    check_answers([json.loads(line) for line in (installed.directory / "matches.jsonl").read_text().splitlines()])
