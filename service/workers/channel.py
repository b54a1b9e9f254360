"""A client's connection, which is closed only when the client has taken all that was sent."""

import socket
import time
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from waitress.channel import HTTPChannel

from service.workers.tasks import AnswerTask, ProblemTask


class Channel(HTTPChannel):
    """Half-closes a connection, and closes it once the client's kernel has everything."""

    close_when_flushed: bool
    task_class = AnswerTask
    error_task_class = ProblemTask

    def __init__(self, server: Any, *arguments: Any, **options: Any):
        super().__init__(server, *arguments, **options)
        self.parser_class = server.parser_class
        self._half_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a request or an answer is under way."""
        return bool(self.requests or self.request or self.total_outbufs_len or self._half_closed)

    def readable(self) -> bool:
        return self._half_closed or super().readable()

    def received(self, data: bytes) -> bool:
        return not self._half_closed and super().received(data)

    def handle_write(self) -> None:
        closing, self.close_when_flushed = self.close_when_flushed, False
        super().handle_write()
        if closing and self.socket is not None:
            if self.total_outbufs_len:
                self.close_when_flushed = True
            else:
                self._half_close()

    def handle_close(self) -> None:
        self.server.lingering.discard(self)
        super().handle_close()

    def close_when_taken(self) -> None:
        """Close a half-closed connection once the kernel has nothing left to send, or the client takes nothing."""
        unsent = int.from_bytes(ioctl(self.socket, TIOCOUTQ, bytes(4)), "little")
        if not unsent or time.time() - self.last_activity > self.adj.channel_timeout:
            self.handle_close()

    def _half_close(self) -> None:
        """Stop sending but go on reading.

        Closing while the client still sends would make the kernel throw away what the client has not taken yet.
        """
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # The client has gone.
            self.handle_close()
            return
        self._half_closed = True
        self.server.lingering.add(self)
