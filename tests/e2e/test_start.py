"""A server that cannot start says why and ends with exit code 1."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.__main__ import main
from tests.support.server import COMMAND, ROOT, SECONDS, environment

NUMBERS = {
    "RECO_PORT": "from 0 to 65535",
    "RECO_WORKERS": "from 1 to 1024",
    "RECO_THREADS": "from 1 to 1024",
    "RECO_MAX_IN_FLIGHT": "from 1 to 1000000",
    "RECO_DRAIN_SECONDS": "from 0 to 3600",
    "RECO_MAX_BODY_MB": "from 1 to 1024",
    "RECO_MAX_K": "from 1 to 1000000",
    "RECO_DEFAULT_K": "from 1 to 1000",
    "RECO_MAX_BATCH": "from 1 to 1000000",
}
Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path) -> Start:
    """A function that starts the service in this process with these settings, for its exit code and its stderr."""

    def start(**settings: str) -> tuple[int, str]:
        for name, value in environment(sample_artifacts, **settings).items():
            monkeypatch.setenv(name, value)
        return main(["serve"]), capsys.readouterr().err

    return start


def test_the_process_ends_with_one_line_that_names_variable_and_value(sample_artifacts: Path) -> None:
    ended = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment(sample_artifacts, RECO_THREADS="many"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    expected = "error: RECO_THREADS='many': must be a whole number from 1 to 1024\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)


@pytest.mark.parametrize(("name", "limits"), NUMBERS.items(), ids=NUMBERS)
@pytest.mark.parametrize("value", ["ten", "1.5", "-1", "9" * 30])
def test_a_bad_number_stops_the_start(start: Start, name: str, limits: str, value: str) -> None:
    assert start(**{name: value}) == (1, f"error: {name}='{value}': must be a whole number {limits}\n")


def test_an_unknown_log_level_stops_the_start(start: Start) -> None:
    expected = "error: RECO_LOG_LEVEL='loud': must be debug, info, warning, error or critical\n"
    assert start(RECO_LOG_LEVEL="loud") == (1, expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RECO_LOG_FORMAT", "xml", "RECO_LOG_FORMAT='xml': must be console or json"),
        ("RECO_OPEN_METRICS", "yes", "RECO_OPEN_METRICS='yes': must be 0 or 1"),
        ("RECO_REQUIRE_EMBEDDING_MODEL", "yes", "RECO_REQUIRE_EMBEDDING_MODEL='yes': must be 0 or 1"),
        ("RECO_RECALL_SHARE", "nan", "RECO_RECALL_SHARE='nan': must be a share from 0 to 1"),
        ("RECO_RECALL_SHARE", "1.01", "RECO_RECALL_SHARE='1.01': must be a share from 0 to 1"),
        ("RECO_API_KEYS", " , ", "RECO_API_KEYS: holds no key"),
        ("RECO_API_KEYS", "one,,two", "RECO_API_KEYS: holds an empty key"),
        ("RECO_API_KEY", "secret", "RECO_API_KEY: there is no such setting; the nearest is RECO_API_KEYS"),
        ("RECO_RELOAD_SECONDS", "-1", "RECO_RELOAD_SECONDS='-1': must be a number of seconds from 0 to 86400"),
        ("RECO_FILTER", "[]", """RECO_FILTER='[]': must be a filter as JSON, such as {"stock": true}"""),
        ("RECO_FILTERS", "{}", "RECO_FILTERS: there is no such setting; the nearest is RECO_FILTER"),
        ("RECO_API_KEYS", "good,schlüssel", "RECO_API_KEYS: a key must be of printable ASCII characters"),
    ],
)
def test_a_bad_choice_or_name_stops_the_start(start: Start, name: str, value: str, message: str) -> None:
    assert start(**{name: value}) == (1, f"error: {message}\n")


def test_a_filter_that_is_no_json_stops_the_start(start: Start) -> None:
    exit_code, message = start(RECO_FILTER='{"stock": ')
    assert (exit_code, message.count("\n")) == (1, 1)
    assert message.startswith("""error: RECO_FILTER='{"stock": ': must be a filter as JSON: """)


def test_a_filter_that_the_current_build_has_no_field_for_stops_the_start(start: Start) -> None:
    exit_code, message = start(RECO_FILTER='{"prise": {"$lte": 12}}')
    assert exit_code == 1
    start_of_it = (
        """error: worker 0: RECO_FILTER='{"prise": {"$lte": 12}}' does not fit the build: filter/prise is no field"""
    )
    assert message.splitlines()[-1].startswith(start_of_it)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "192.0.2.1"], ids=["empty label", "long label", "not ours"])
def test_a_host_that_cannot_be_listened_on_stops_the_start(start: Start, host: str) -> None:
    exit_code, message = start(RECO_HOST=host)
    assert exit_code == 1
    assert message.startswith(f"error: RECO_HOST={host!r}: ")
    assert message.count("\n") == 1


def test_a_port_in_use_stops_the_start(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        exit_code, message = start(RECO_PORT=str(port))
    assert exit_code == 1
    assert "Address already in use" in message
    assert str(port) in message


def test_a_missing_artifacts_root_stops_the_start(start: Start, tmp_path: Path) -> None:
    exit_code, message = start(RECO_ARTIFACTS=str(tmp_path / "nowhere"))
    assert exit_code == 1
    assert message.startswith(f"error: {tmp_path}/nowhere/CURRENT: cannot be read (")
    assert message.endswith("; `python -m index_builder` publishes a build\n")


def test_a_missing_build_stops_the_start(start: Start, tmp_path: Path) -> None:
    build_id = "20240101T000000.000000Z-00000000"
    (tmp_path / "CURRENT").write_text(f"{build_id}\n")
    exit_code, message = start(RECO_ARTIFACTS=str(tmp_path))
    assert exit_code == 1
    assert message == f"error: {tmp_path}/CURRENT: names {build_id}, and there is no such build\n"


def test_the_artifact_option_goes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("RECO_ARTIFACTS", str(sample_artifacts))
    assert main(["serve", "--artifact", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/CURRENT: cannot be read (")
