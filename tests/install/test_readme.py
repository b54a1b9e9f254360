"""The commands of README.md and deploy/README.md, run in a fresh clone as one types them, in their order."""

import gzip
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.install.conftest import SECONDS, outside
from tests.install.console import Command, read_commands, shows
from tests.support.milvus_process import free_ports
from tests.support.server import ROOT

DOCUMENTS = ("README.md", "deploy/README.md")
NOT_RUN = {
    "make test": "it takes minutes, and CI runs it beside this",
    "docker": "needs a container engine and images from the internet",
    "ARTIFACTS=/srv/artifacts docker": "needs a container engine and images from the internet",
    "ARTIFACTS=/srv/artifacts CHANGES=/srv/changes docker": "needs a container engine and images from the internet",
    "kubectl": "needs a cluster",
    ".venv/bin/jetmlett publish": "needs a Milvus of this address; make test-milvus publishes to one",
    "RECO_ENGINE=milvus": "needs a Milvus of this address; make test-milvus serves from one",
}
COMMANDS = [
    pytest.param(document, command, id=f"{document}: {command.text}")
    for document in DOCUMENTS
    for command in read_commands(ROOT / document)
]


@dataclass
class Newcomer:
    """Somebody in a fresh clone, with a shell and files of products and users of their own."""

    clone: Path
    port: int
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: str) -> None:
        """Run a command that does not end, and wait until a service is ready."""
        self.services.append(subprocess.Popen(["sh", "-c", command], **self._options, start_new_session=True))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            assert self.services[-1].poll() is None, f"{command} has ended"
            with suppress(OSError), urllib.request.urlopen(f"http://localhost:{self.port}/health/ready"):
                return
            time.sleep(0.2)
        raise AssertionError(f"no service is ready after {SECONDS} s")

    def run(self, command: str) -> str:
        """Run a command and return what it printed. The service's port and /srv are others here."""
        here = command.replace("localhost:5000", f"localhost:{self.port}").replace("/srv/", f"{self.clone.parent}/srv/")
        here += f" --url http://localhost:{self.port}" if "query.py" in command else ""
        done = subprocess.run(["sh", "-c", here], **self._options, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "cwd": self.clone,
            "env": {**outside(), "PORT": str(self.port), "HOST": "127.0.0.1", "RECO_DRAIN_SECONDS": "0"},
        }


@pytest.fixture(scope="module")
def newcomer(clone: Path) -> Iterator[Newcomer]:
    with gzip.open(clone / "data" / "products.jsonl.gz") as products:
        rows = products.read()
    users = json.loads((clone / "data" / "users_batch.json").read_text())
    lines = "".join(json.dumps(user) + "\n" for user in users)
    for name, content in {"catalogue": rows, "products": rows, "users": lines.encode()}.items():
        (clone / f"{name}.jsonl").write_bytes(content)
    pq.write_table(
        pa.Table.from_pylist([{name: user[name] for name in ("name", "vector")} for user in users]),
        clone / "users.parquet",
    )
    [changes] = [command for command in read_commands(clone / "README.md") if command.text == "cat changes.jsonl"]
    vector = json.dumps(users[0]["vector"])
    (clone / "changes.jsonl").write_text("\n".join(changes.output).replace("[0.509, …]", vector) + "\n")
    (clone.parent / "srv").mkdir()
    (clone.parent / "srv" / "artifacts").symlink_to(clone / "artifacts")
    [port] = free_ports(1)
    newcomer = Newcomer(clone, port)
    yield newcomer
    for service in newcomer.services:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(SECONDS)


def check_batch(newcomer: Newcomer, output: str) -> None:
    names = pq.read_table(newcomer.clone / "users.parquet").column("name").to_pylist()
    matches = pq.read_table(newcomer.clone / "matches.parquet").to_pylist()
    assert [row["name"] for row in matches] == names
    asked = newcomer.run("head -1 users.jsonl | curl -s -d @- localhost:5000/infer")
    assert {side: matches[0][side] for side in ("best", "worst")} == {
        side: json.loads(asked)[side] for side in ("best", "worst")
    }


def check_images(newcomer: Newcomer, output: str) -> None:
    manifests = [path.read_text() for path in (newcomer.clone / "deploy" / "kubernetes").rglob("*.yaml")]
    assert (
        sum(text.count(" REGISTRY/jetmlett:") for text in manifests)
        == sum(text.count("jetmlett:0.1.0") for text in manifests)
        == 4
    )


def check_comparison(newcomer: Newcomer, output: str) -> None:
    assert "overlap" in (output or (newcomer.clone / "comparison.html").read_text())


# What is looked at beside the output that a document shows.
CHECKS: dict[str, Callable[[Newcomer, str], None]] = {
    ".venv/bin/jetmlett batch": check_batch,
    "sed": check_images,
    ".venv/bin/jetmlett compare": check_comparison,
}


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_a_command_does_what_the_document_says(newcomer: Newcomer, document: str, command: Command) -> None:
    for beginning, reason in NOT_RUN.items():
        if command.text == beginning or command.text.startswith(f"{beginning} "):
            pytest.skip(reason)
    if command.text == "make serve":
        newcomer.start(command.text)
        return
    output = newcomer.run(command.text)
    if command.output and not command.text.startswith("cat "):
        assert shows(output, command.output, measured=command.text.startswith("make ")), output
    for beginning, check in CHECKS.items():
        if command.text.startswith(beginning):
            check(newcomer, output)


def test_what_is_not_run_is_in_the_documents() -> None:
    texts = [command.text for document in DOCUMENTS for command in read_commands(ROOT / document)]
    assert [name for name in NOT_RUN if not any(text.startswith(name) for text in texts)] == []
