"""`python -m service check` says what would be served, or why nothing would."""

from pathlib import Path

import pytest

from retrieval.artifact.store import current_build_id
from service.__main__ import main
from tests.support.server import environment


def check(monkeypatch: pytest.MonkeyPatch, artifacts: Path, **settings: str) -> int:
    for name, value in environment(artifacts, **settings).items():
        monkeypatch.setenv(name, value)
    return main(["check"])


def test_a_sound_build_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path
) -> None:
    settings = {"RECO_WORKERS": "3", "RECO_API_KEYS": "a-secret, another", "RECO_MAX_K": "50"}
    assert check(monkeypatch, sample_artifacts, **settings) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"build      {sample_artifacts / current_build_id(sample_artifacts)}",
        "products   2,460 x 300 dimensions from products.jsonl.gz",
        "index      Flat, fp32, worst side negated; recall@10 best 1.0000, worst 1.0000",
        "listens    127.0.0.1:0, 3 workers",
        "limits     k 50, batch 10,000, body 64 MB",
        "access     2 API keys",
    ]


def test_a_bad_setting_or_build_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path, tmp_path: Path
) -> None:
    assert check(monkeypatch, sample_artifacts, RECO_PORT="x") == 1
    assert capsys.readouterr().err == "error: RECO_PORT='x': must be a whole number from 0 to 65535\n"
    assert check(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/CURRENT: cannot be read (")
