"""Bodies of a legal size whose values would fill the memory, or hold up all threads, are read in bounded work.

Measured on two busy cores, 60 MB each, the peak beside the body and the longest wait of another thread. Before, at a
quarter of the size: 801 MB and 0.96 s (empty objects), 486 MB and 2.6 s (empty lists), 487 MB and 1.1 s (objects in a
user), 486 MB and 1.4 s (one long line).

| body | result | peak MB | longest wait ms |
|---|---|---|---|
| empty objects, empty lists, numbers as users | 413 | 2 | 10 |
| empty objects in a user | 413 | 2 | 11 |
| the same in a batch of one | 413 | 28 | 61 |
| an array in a string | 413 | 120 | 127 |
| digits | 422 | 122 | 160 |
| lists in lists | 413 | 2 | 6 |
| lines of one character, blank lines | 413 | 0 | 65 |
| 128 long lines | 128 faults | 85 | 145 |
| a tensor of integers | 413 | 2 | 6 |
| a string of escapes | 422 | 92 | 477 |
| 10,000 users, 36 MB | 200 | 38 | 12 |
| a tensor of 10,000 rows, 31 MB | 200 | 192 | 284 |
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadBody, BadRequest, TooLarge
from service.http.open_inference import read_request
from service.http.schemas import read_json
from service.http.user_reader import UserReader
from service.settings import Limits
from tests.faults.conftest import Publish
from tests.support.figures import record
from tests.support.raw_http import post
from tests.support.server import Server, answer_on, serving
from tests.support.watched import watched

DIMENSION, LIMITS = 300, Limits()
MB = 2**20
SHORT_MB, LONG_MB = 16, 60
MAX_PEAK_MB, MAX_LEGAL_PEAK_MB = 120, 250  # beside twice the body; the value of one text may take 64
MAX_GAP_SECONDS = 1.0  # four times what health may take, as machines that test are busy
ROOT = Path(__file__).parents[2]


def tensor(data: str) -> bytes:
    shape = [10_000, DIMENSION]
    return f'{{"inputs":[{{"name":"vectors","datatype":"FP32","shape":{shape},"data":[{data}]}}]}}'.encode()


def read_array(body: bytes) -> int:
    return sum(len(block.items) for block in UserReader(DIMENSION, LIMITS).read_array(body))


def read_lines(body: bytes) -> int:
    return sum(len(block.items) for block in UserReader(DIMENSION, LIMITS).read_lines(body))


def read_user(body: bytes) -> int:
    UserReader(DIMENSION, LIMITS).read_user(body)
    return 1


def read_tensors(body: bytes) -> int:
    return len(read_request(body, None, DIMENSION, LIMITS).users.items)


def read_other(body: bytes) -> int:
    read_json(body)
    return 1


def user(n: int, name: str = "ann", extra: str = "") -> str:
    return json.dumps({"name": name, "vector": [(n * 7 + i) % 1000 / 1000 + 0.000123 for i in range(DIMENSION)]})[
        :-1
    ] + (f",{extra}}}" if extra else "}")


def batch(users: int, name: str = "ann", extra: str = "") -> bytes:
    return f"[{','.join(user(n, name, extra) for n in range(users))}]".encode()


# What reads a body, and the body of about so many bytes.
BODIES: dict[str, tuple[Callable[[bytes], int], Callable[[int], bytes]]] = {
    "empty objects": (read_array, lambda size: b"[" + b"{}," * (size // 3) + b"{}]"),
    "empty lists": (read_array, lambda size: b"[" + b"[]," * (size // 3) + b"[]]"),
    "numbers as users": (read_array, lambda size: b"[" + b"1," * (size // 2) + b"1]"),
    "empty objects in a user": (read_user, lambda size: b'{"x":[' + b"{}," * (size // 3) + b"{}]}"),
    "empty objects in a user of a batch": (read_array, lambda size: b'[{"x":[' + b"{}," * (size // 3) + b"{}]}]"),
    "flat objects of a batch": (read_array, lambda size: b'[{"x":[' + b"1," * (size // 2) + b'1]},{"y":1}]'),
    "an array in a string": (read_array, lambda size: b'"[' + b"{}," * (size // 3) + b'{}]"'),
    "an object in a string": (read_other, lambda size: b'"[' + b"{}," * (size // 3) + b'{}]"'),
    "keys": (read_other, lambda size: b"{%b}" % b",".join(b'"%x":0' % n for n in range(size // 9))),
    "digits": (read_user, lambda size: b'{"k":' + b"1" * size + b"}"),
    "digits as a user": (read_array, lambda size: b"[{}," + b"1" * size + b"]"),
    "lists in lists": (read_array, lambda size: b"[" * size),
    "lines of one character": (read_lines, lambda size: b"1\n" * (size // 2)),
    "blank lines": (read_lines, lambda size: b"\n" * size),
    "one long line": (read_lines, lambda size: b"[" + b"{}," * (size // 3) + b"{}]"),
    "long lines": (read_lines, lambda size: (b"[" + b"{}," * (size // 384) + b"{}]\n") * 128),
    "a tensor of integers": (read_tensors, lambda size: tensor("1," * (size // 2) + "1")),
    "blanks": (read_user, lambda size: b" " * size + b"{}"),
    "one string": (read_user, lambda size: b'{"name":"' + b"a" * size + b'"}'),
    "a tensor of digits": (read_tensors, lambda size: tensor("1" * size)),
    "a string of escapes": (read_user, lambda size: b'{"name":"' + b"\\n" * (size // 2) + b'"}'),
    "a string of escapes in a string": (read_array, lambda size: b'"' + b"\\\\n" * (size // 3) + b'"'),
}
# What must be read whole, however large: the largest batch, also of odd users, and the largest tensor.
LEGAL: dict[str, tuple[Callable[[bytes], int], Callable[[int], bytes]]] = {
    "batch": (read_array, batch),
    "batch with braces in names": (read_array, lambda users: batch(users, "a } and a { ")),
    "batch with unknown fields": (read_array, lambda users: batch(users, extra='"likes":[{"id":1},{"id":[{}]}]')),
    "batch in a string": (read_array, lambda users: json.dumps(batch(users).decode()).encode()),
    "batch of lines": (read_lines, lambda users: batch(users)[1:-1].replace(b"},{", b"}\n{")),
    "tensor": (read_tensors, lambda users: tensor(",".join(["0.12345678"] * (10_000 * DIMENSION)))),
}


def measure(name: str, size: int) -> dict[str, Any]:
    """Read a body in this process; return what came of it, the memory it took, and the longest wait of a thread."""
    read, make = {**BODIES, **LEGAL}[name]
    body = make(size)
    gaps, is_done = [0.0], threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not is_done.is_set():
            time.sleep(0.001)
            gaps[0], last = max(gaps[0], time.monotonic() - last), time.monotonic()

    watcher = threading.Thread(target=watch)
    watcher.start()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, began = memory_mb("VmRSS"), time.monotonic()
    try:
        result = f"{read(body)} users"
    except (BadBody, BadRequest, TooLarge) as error:
        result = type(error).__name__
    seconds = time.monotonic() - began
    is_done.set()
    watcher.join()
    return {
        "megabytes": round(len(body) / MB, 1),
        "result": result,
        "peak_mb": round(memory_mb("VmHWM") - before),
        "longest_wait_ms": round(gaps[0] * 1e3),
        "seconds": round(seconds, 2),
    }


def memory_mb(kind: str) -> float:
    """Return the memory of this process, or the peak of it."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure_apart(name: str, size: int) -> dict[str, Any]:
    """Do the same in a process of its own, whose memory is its own too."""
    code = f"import json, tests.faults.test_hostile_bodies as t; print(json.dumps(t.measure({name!r}, {size})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    record(name, **found)
    return found


def check_bounds(found: dict[str, Any], max_peak_mb: int = MAX_PEAK_MB) -> None:
    assert found["peak_mb"] <= max_peak_mb + 2 * found["megabytes"]
    assert found["longest_wait_ms"] <= MAX_GAP_SECONDS * 1e3


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.slow
def test_a_hostile_body_is_read_in_bounded_memory(name: str) -> None:
    check_bounds(measure_apart(name, SHORT_MB * MB))


@pytest.mark.soak
@pytest.mark.parametrize("name", BODIES)
def test_the_largest_hostile_body_is_read_in_bounded_memory(name: str) -> None:
    check_bounds(measure_apart(name, LONG_MB * MB))


@pytest.mark.soak
@pytest.mark.parametrize("name", LEGAL)
def test_the_largest_batches_are_read_whole(name: str) -> None:
    found = measure_apart(name, LIMITS.max_batch)
    assert found["result"] == f"{LIMITS.max_batch} users"
    check_bounds(found, MAX_LEGAL_PEAK_MB)


SERVED = {
    "empty objects": "/batch",
    "an array in a string": "/batch",
    "digits": "/infer",
    "a string of escapes": "/infer",
    "one string": "/infer",
    "long lines": "/batch",
    "blanks": "/infer",
    "a tensor of integers": "/v2/models/reco/infer",
    "a tensor of digits": "/v2/models/reco/infer",
}


@pytest.mark.soak
@pytest.mark.parametrize("name", SERVED)
def test_hostile_bodies_are_answered_beside_honest_ones(root: Path, publish: Publish, name: str) -> None:
    publish(0)
    kind = "Content-Type: application/x-ndjson" if "lines" in name else "Content-Type: application/json"
    request, statuses = post(SERVED[name], BODIES[name][1](LONG_MB * MB), kind), Counter[int]()

    def ask(server: Server, until: float) -> None:
        while time.monotonic() < until:
            with suppress(OSError), server.raw() as connection:
                with suppress(OSError):  # The refusal may come before the body is sent.
                    connection.sendall(request)
                statuses[answer_on(connection).status] += 1

    with serving(root, RECO_WORKERS="2") as server, watched(server) as seen:
        clients = [threading.Thread(target=ask, args=(server, time.monotonic() + 15)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert set(statuses) <= {200, 400, 413, 422, 429}, statuses
    seen.report(f"bodies of {LONG_MB} MB, {name}", clients=4, answers=statuses.total())
