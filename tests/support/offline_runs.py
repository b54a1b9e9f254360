"""Offline batches as tests run them."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.offline.job import run_batch
from service.recommender import Recommender
from service.settings import Settings
from tests.support.matches import answers_to, user_row

TOP = Path(__file__).parents[2]


def command(artifacts: Path, source: Path, output: Path, *options: object) -> list[str]:
    words = ["--artifact", artifacts, "--input", source, "--output", output, *options]
    return [sys.executable, "-m", "service", "batch", *map(str, words)]


def start(words: list[str], **settings: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECO_")}
    environment = {**inherited, "RECO_WORKERS": "2", **settings}
    return subprocess.Popen(
        words,
        cwd=TOP,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for background jobs
    )


def run(artifacts: Path, source: Path, output: Path, k: int | None = None, part_rows: int = 4096) -> str:
    """Run a batch from this process, with one worker; return its summary."""
    return str(run_batch(source, output, Settings(artifacts=artifacts, workers=1), k, part_rows))


def run_command(artifacts: Path, source: Path, output: Path, *options: object, **settings: str) -> tuple[int, str, str]:
    """Run a batch as a command, with two workers; return its exit code, stdout and stderr."""
    with start(command(artifacts, source, output, *options), **settings) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def write_users(path: Path, users: Iterable[dict[str, Any] | bytes]) -> Path:
    """Write users as JSON lines, gzipped if the name says so; bytes stand as they are."""
    lines = [user if isinstance(user, bytes) else json.dumps(user).encode() for user in users]
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def answer_lines(recommender: Recommender, users: Iterable[dict[str, Any]], k: int = 10) -> list[bytes]:
    """What the service answers each user alone."""
    rows = [user_row(user["name"], user["vector"], user.get("k", k), user.get("exclude", ())) for user in users]
    return [answers_to(recommender, [user])[0] for user in rows]
