"""Ten minutes of mixed load leave memory and descriptors as they were."""

import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import Publish, point, requests_to
from tests.support.figures import record
from tests.support.load import load
from tests.support.server import serving
from tests.support.watched import workers

MINUTES, WARM_UP_SECONDS, SAMPLE_SECONDS = 10, 60, 5
MOST_GROWTH_KB_PER_MINUTE = 512


def resident_kb(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def descriptors(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


@pytest.mark.soak
def test_memory_and_descriptors_stay_as_they_are(root: Path, publish: Publish) -> None:
    builds = [publish(seed) for seed in range(2)]
    singles, batches = requests_to(root, *builds), requests_to(root, *builds, users_at_once=100, k=50)
    with serving(root, RECO_WORKERS="2") as server:
        processes = workers(server)
        memory: list[list[int]] = []
        with load(server.port, singles, 8) as quick, load(server.port, batches, 2) as bulky:
            time.sleep(WARM_UP_SECONDS)
            open_before = [descriptors(process) for process in processes]
            for sample in range(MINUTES * 60 // SAMPLE_SECONDS):
                memory.append([resident_kb(process) for process in processes])
                if sample % 12 == 0:
                    point(root, builds[sample // 12 % 2])
                time.sleep(SAMPLE_SECONDS)
            open_after = [descriptors(process) for process in processes]
        assert workers(server) == processes
    minutes = np.arange(len(memory)) * SAMPLE_SECONDS / 60
    slopes = [float(np.polyfit(minutes, np.array(memory)[:, i], 1)[0]) for i in range(len(processes))]
    record(
        "soak",
        minutes=MINUTES,
        answered=sum((quick.answered + bulky.answered).values()),
        failed=sum((quick.failed + bulky.failed).values()),
        steepest_growth_kb_per_minute=round(max(slopes)),
        descriptors_more=max(after - before for before, after in zip(open_before, open_after, strict=True)),
    )
    assert (quick.failed, bulky.failed) == ({}, {})
    assert max(slopes) < MOST_GROWTH_KB_PER_MINUTE
    assert all(after <= before + 2 for before, after in zip(open_before, open_after, strict=True))
