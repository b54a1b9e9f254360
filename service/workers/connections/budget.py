"""The memory that a worker may hold for its clients: what they send, and what they have not taken yet."""

import logging
import threading
from collections.abc import Iterable
from typing import Any

from service.http import metrics

MIN_COUNTED_BYTES = 16 * 1024  # What holds less is not counted.

log = logging.getLogger(__name__)


class Budget:
    """Counts bytes of requests and of untaken answers, and makes room by closing the slowest clients.

    Channels tell it when they come to hold much; what they hold is read when it matters, so nothing has to be kept in
    step.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes, self._used_bytes = max_bytes, 0
        self._holders: set[Any] = set()
        self._counting = threading.Lock()

    def watch(self, channel: Any) -> None:
        """Count what a channel holds from now on; any thread may call this."""
        self._holders.add(channel)

    def has_room(self, more_bytes: int, channel: Any = None) -> bool:
        """Tell whether so many bytes more may be held, and count them until the next turn of the event loop.

        They are for a `channel` that is counted, or for another. A request that nothing stands beside always may. The
        holders are not asked, as hundreds may come in one turn.
        """
        own_bytes = channel.held_bytes if channel else 0
        with self._counting:
            has_room = self._used_bytes <= own_bytes or self._used_bytes + more_bytes <= self._max_bytes
            self._used_bytes += more_bytes if has_room else 0
        return has_room

    def enforce(self) -> None:
        """Close the slowest clients while too much is held, or while untaken answers are more than half of it.

        The event loop calls this once a turn, before it takes up what has come.
        """
        held = {channel: channel.held_bytes for channel in list(self._holders)}
        self._used_bytes = sum(held.values())
        self._holders -= {channel for channel, count in held.items() if count < MIN_COUNTED_BYTES}
        while len(held) > 1 and self._is_exceeded(held.keys(), sum(held.values())):
            waiting = [channel for channel in held if channel.awaits_client]
            if not waiting:
                return
            slowest = min(waiting, key=lambda channel: channel.last_progress)
            log.info("connection closed: the slowest client held %d bytes", held.pop(slowest))
            metrics.SLOW_CLIENTS.inc()
            self._holders.discard(slowest)
            slowest.handle_close()

    def _is_exceeded(self, channels: Iterable[Any], used_bytes: int) -> bool:
        untaken_bytes = sum(channel.total_outbufs_len for channel in channels)
        return used_bytes > self._max_bytes or untaken_bytes > self._max_bytes // 2
