"""How many cores this process may use, where a container may have a quota of them."""

import os
from contextlib import suppress
from pathlib import Path

_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def available_cores() -> int:
    """Return how many cores this process may use: those it is bound to, or fewer where its container has a quota."""
    count = len(os.sched_getaffinity(0))
    for path in _QUOTAS:
        with suppress(OSError, ValueError):
            return max(1, min(count, int(_quota(path))))
    return count


def _quota(path: Path) -> float:
    """Return how many cores a cgroup may use. Raises ValueError where it has no limit."""
    words = path.read_text().split()
    period = words[1] if len(words) > 1 else path.with_name("cpu.cfs_period_us").read_text()
    quota = float(words[0]) / float(period)  # "max" is no number
    if quota <= 0:
        raise ValueError("no limit")
    return quota
