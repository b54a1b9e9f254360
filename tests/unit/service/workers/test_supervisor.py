"""What must not end a service: a new build that fails in an unforeseen way, and a long request while stopping."""

import socket
import time
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import pytest

from retrieval.artifact import store, watch
from service.settings import Settings
from service.workers import supervisor, worker
from service.workers.server import Server
from tests.support.published import publish


class FakePool:
    """Stands for the worker pool, or for a pipe to the supervisor, and remembers what it was sent."""

    def __init__(self, signals: Any = None):
        self.signals, self.messages = signals, list[tuple[Any, ...]]()
        self.until = time.monotonic() + 60

    def poll(self, seconds: float = 0.01) -> None:
        time.sleep(min(seconds, 0.01))
        if len(self.messages) == 2 or time.monotonic() > self.until:
            self.signals.stops.append(15)

    any_serve = True

    def record(self, event: str, amount: float = 1) -> None:
        self.messages.append((event, amount))

    def send(self, message: tuple[Any, ...]) -> None:
        self.messages.append(message)


def broken(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("index page 4711 is gone")


def test_a_build_that_fails_in_an_unforeseen_way_is_a_failed_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "a")
    monkeypatch.setattr(watch, "check_build", broken)
    signals = supervisor._Signals()
    workers = FakePool(signals)
    served = watch.PinnedBuild("another", lambda: None)
    settings, pool, dropped_lines = Settings(artifacts=tmp_path / "a"), cast(Any, workers), SimpleQueue[int]()
    dropped_lines.put(3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        supervisor._follow_builds(settings, listener, pool, signals, served, dropped_lines)
    assert sorted(workers.messages) == [("dropped log line", 3), ("failed reload", 1)]


def test_a_worker_refuses_what_it_fails_to_open_in_an_unforeseen_way() -> None:
    pipe: Any = FakePool()
    make_server: Any = None
    runner = worker._CommandRunner(pipe, broken, make_server)  # type: ignore[arg-type]
    runner._prepare("b")
    assert pipe.messages == [("refused", "b", "index page 4711 is gone")]
    with pytest.raises(worker._CannotOpen):
        runner._serve("b")


class ReadyPool(FakePool):
    """All its workers do at once what they are told."""

    refusal = ""

    def prepare(self, build_id: str) -> None:
        pass

    def serve(self, build_id: str) -> None:
        pass

    def all_prepared(self, build_id: str) -> bool:
        return True

    def has_changed_over(self, build_id: str) -> bool:
        return True


def test_the_time_from_the_publishing_to_the_serving_of_a_build_is_recorded_but_not_of_one_rolled_back_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base, delta = "20260301T115950.000000Z-00000000", "20260301T115957.500000Z-00000001"
    monkeypatch.setattr(supervisor, "datetime", SimpleNamespace(now=lambda zone: datetime(2026, 3, 1, 12, tzinfo=zone)))
    builds = [watch.PinnedBuild(delta, lambda: None, base), watch.PinnedBuild(base, lambda: None, base)]
    pool, watching = ReadyPool(), SimpleNamespace(poll_new_build=lambda _in_use: builds.pop(0))
    reloader = supervisor.Reloader(cast(Any, pool), cast(Any, watching), builds[1])
    with caplog.at_level("INFO"):
        reloader.poll()
        reloader.poll()
    assert pool.messages == [("reload", 1), ("reload seconds", 2.5), ("reload", 1)]
    said = [f"{verb} build {delta} (a delta on {base})" for verb in ("changing over to", "serving")]
    assert caplog.messages == [*said, f"changing over to build {base}", f"serving build {base}"]


def channel(requests: int, unsent: int, idle_seconds: float) -> SimpleNamespace:
    channel = SimpleNamespace(
        requests=[None] * requests,
        total_outbufs_len=unsent,
        is_busy=bool(requests or unsent),
        last_activity=time.time() - idle_seconds,
        is_closed=False,
    )
    channel.handle_close = lambda: setattr(channel, "is_closed", True)
    return channel


def test_at_the_end_only_connections_that_wait_for_their_client_are_closed() -> None:
    computing, stuck = channel(1, 0, 3600), channel(1, 10, 60)
    taking, idle, fresh = channel(0, 10, 1), channel(0, 0, 5), channel(0, 0, 0)
    server: Any = SimpleNamespace(active_channels=dict(enumerate([computing, stuck, taking, idle, fresh])))
    Server._close_idle(server)
    assert [each.is_closed for each in (computing, stuck, taking, idle, fresh)] == [False, True, False, True, False]


def test_a_build_that_cannot_be_removed_does_not_undo_a_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a"
    builds = [publish(root, seed=seed).build_id for seed in (0, 1)]
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == builds[0]:
            raise PermissionError(13, "not yours")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    newest = publish(root, seed=2, keep=1).build_id
    assert store.current_build_id(root) == newest
    assert store.build_ids(root) == [builds[0], newest]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Settings(), "everybody may ask, as RECO_API_KEYS has no keys"),
        (
            Settings(api_keys=("a",)),
            "holders of 1 API key may ask; health and pages are open to everybody",
        ),
        (
            Settings(api_keys=("a", "b"), open_metrics=True),
            "holders of 2 API keys may ask; health, pages and metrics are open to everybody",
        ),
    ],
    ids=["everybody", "one", "two"],
)
def test_who_may_ask_is_said_without_the_keys(settings: Settings, sentence: str) -> None:
    assert supervisor._askers(settings) == sentence
