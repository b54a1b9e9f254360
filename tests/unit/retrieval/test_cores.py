"""How many cores a process may use."""

import os
from pathlib import Path

import pytest

from retrieval import cores
from retrieval.cores import available_cores


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("cpu.max", "150000 100000\n", 1),
        ("cpu.max", "250000 100000\n", 2),
        ("cpu.max", "50000 100000\n", 1),
        ("cpu.max", "9900000 100000\n", 4),
        ("cpu.max", "max 100000\n", 4),
        ("cpu.cfs_quota_us", "200000\n", 2),
        ("cpu.cfs_quota_us", "-1\n", 4),
        ("nothing", "", 4),
    ],
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "_QUOTAS", (tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"))
    (tmp_path / name).write_text(content)
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores() == expected
