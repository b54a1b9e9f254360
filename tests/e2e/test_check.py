"""`python -m service check` says what would be served, or why nothing would."""

from pathlib import Path

import pytest

from retrieval.artifact.store import current_build_id
from service.__main__ import main
from service.settings import SCHEMA
from tests.support.server import environment


def check(monkeypatch: pytest.MonkeyPatch, artifacts: Path, **settings: str) -> int:
    for name, value in environment(artifacts, **settings).items():
        monkeypatch.setenv(name, value)
    return main(["check"])


def test_a_sound_build_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path
) -> None:
    assert check(monkeypatch, sample_artifacts) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"build      {sample_artifacts / current_build_id(sample_artifacts)}",
        "products   2,460 x 300 dimensions from products.jsonl.gz",
        "index      Flat, fp32, worst side negated; recall@10 best 1.0000, worst 1.0000",
    ]


def test_every_setting_is_printed_with_its_value_unless_that_is_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path
) -> None:
    given = {"RECO_WORKERS": "3", "RECO_MAX_K": "5", "RECO_LOG_LEVEL": "debug", "RECO_MEMORY_MB": "256"}
    secrets = {"RECO_API_KEYS": "a-secret, another", "RECO_MILVUS_TOKEN": "root:a-secret"}
    uri = {"RECO_MILVUS_URI": "http://root:a-secret@milvus:19530"}
    assert check(monkeypatch, sample_artifacts, **given, **secrets, **uri) == 0
    printed = capsys.readouterr().out
    assert "secret" not in printed
    assert [line.split(maxsplit=1) for line in printed.splitlines()[4:]] == [
        [setting.name, shown] if shown else [setting.name]
        for setting in SCHEMA
        for shown in [
            {
                **environment(sample_artifacts, **given),
                **dict.fromkeys(secrets, "set, not shown"),
                "RECO_MILVUS_URI": "milvus:19530",
                "RECO_DEFAULT_K": "5",
            }.get(setting.name, str(setting.default))
        ]
    ]


def test_a_bad_setting_or_build_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample_artifacts: Path, tmp_path: Path
) -> None:
    assert check(monkeypatch, sample_artifacts, RECO_PORT="x") == 1
    assert capsys.readouterr().err == "error: RECO_PORT='x': must be a whole number from 0 to 65535\n"
    assert check(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/CURRENT: cannot be read (")
