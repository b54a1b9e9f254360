"""Bodies as they arrive: each byte is looked at once, and nothing that frames them grows without bound."""

import re
from io import BytesIO

from waitress.utilities import BadRequest

MAX_CONTROL_LINE_BYTES, MAX_TRAILER_BYTES = 256, 8 * 1024
_MIN_CHUNKS, _BYTES_PER_CHUNK = 8 * 1024, 64  # A body may come in 8,192 chunks, and in one more for each 64 bytes.
_SMALL_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,3})\r\n")  # The fast path of chunks, which need not come here.
_CONTROL_LINE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class Body:
    """A body of a known length; `received` returns how many of some bytes belong to it."""

    error: BadRequest | None = None

    def __init__(self, length: int):
        self._file, self._left, self._size = BytesIO(), length, 0

    @property
    def completed(self) -> bool:
        return self._left == 0

    @property
    def expected_bytes(self) -> int:
        """How long the body is at least, with what has been announced of it."""
        return self._size + self._left

    def received(self, data: bytes) -> int:
        return self._take(data, 0)

    def __len__(self) -> int:
        return self._size

    def getfile(self) -> BytesIO:
        """Return the body; its bytes are shared with whoever reads all of it at once."""
        self._file.getvalue()  # This makes the buffer as large as its content, which `read` then need not copy.
        self._file.seek(0)
        return self._file

    def getbuf(self) -> BytesIO:
        return self._file

    def _take(self, data: bytes, start: int) -> int:
        """Add what belongs to the body, or to the current chunk, and return where it ends."""
        end = min(len(data), start + self._left)
        self._file.write(memoryview(data)[start:end])
        self._left -= end - start
        self._size += end - start
        return end


class ChunkedBody(Body):
    """A body that comes in chunks."""

    def __init__(self) -> None:
        super().__init__(0)
        self._line, self._chunks, self._trailer_bytes = b"", 0, 0
        self._state = self._read_size
        self._has_ended = False

    @property
    def completed(self) -> bool:
        return self._has_ended

    def received(self, data: bytes) -> int:
        position = 0
        while position < len(data) and not self._has_ended and not self.error:
            if self._left:
                position = self._take(data, position)
            elif self._state == self._read_size and not self._line:
                position = self._take_chunks(data, position)
            else:
                position = self._take_line(data, position)
        return position

    def _take_chunks(self, data: bytes, position: int) -> int:
        """Add the small chunks that are here as a whole, then read a line of anything else; return where that ends."""
        start, chunks = position, []
        while found := _SMALL_CHUNK.match(data, position):
            begin = found.end()
            end = begin + int(found[1], 16)
            if data[end : end + 2] != b"\r\n" or end == begin:
                break
            chunks.append(data[begin:end])
            position = end + 2
        content = b"".join(chunks)
        self._file.write(content)
        self._size += len(content)
        self._count_chunks(len(chunks))
        return self._take_line(data, position) if position == start else position

    def _take_line(self, data: bytes, start: int) -> int:
        """Read a control line, the end of a chunk or a line of the trailer, and return where it ends."""
        end = data.find(b"\n", start, start + MAX_TRAILER_BYTES) + 1
        line = self._line + data[start : end or start + MAX_TRAILER_BYTES]
        if end and line.endswith(b"\r\n"):
            self._line = b""
            self._state(line[:-2])
            return end
        self._line = line
        if end or len(line) > self._max_partial_bytes:
            self._state(line)  # which refuses it
            self.error = self.error or BadRequest("Invalid line between chunks")
        return end or min(len(data), start + MAX_TRAILER_BYTES)

    @property
    def _max_partial_bytes(self) -> int:
        """How long a line may be before its end has come."""
        if self._state == self._read_end:
            return 1
        return MAX_TRAILER_BYTES if self._state == self._read_trailer else MAX_CONTROL_LINE_BYTES

    def _read_size(self, line: bytes) -> None:
        self._count_chunks(1)
        matched = _CONTROL_LINE.fullmatch(line) if len(line) <= MAX_CONTROL_LINE_BYTES else None
        if matched is None:
            self.error = self.error or BadRequest("Invalid chunk size")
        else:
            self._left = int(matched[1], 16)
            self._state = self._read_end if self._left else self._read_trailer

    def _count_chunks(self, count: int) -> None:
        self._chunks += count
        if self._chunks > _MIN_CHUNKS + self._size // _BYTES_PER_CHUNK:
            self.error = BadRequest(f"{self._chunks} chunks for {self._size} bytes are too many")

    def _read_end(self, line: bytes) -> None:
        self._state = self._read_size
        if line:
            self.error = BadRequest("Chunk not properly terminated")

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        self._has_ended = not line
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            self.error = BadRequest(f"the trailer is larger than the {MAX_TRAILER_BYTES} bytes allowed")
