"""Content codings: bodies that come as gzip, and answers that go out so."""

import zlib
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO

from flask import Response
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from service.errors import BadBody, TooLarge, UnsupportedEncoding
from service.http.encoding import Reserve

GZIP = "gzip"
_OLD_NAME = "x-gzip"
_GZIP_WINDOW_BITS = 31
_LEVEL = 1  # Level 6 takes three times as long for a tenth less.
_MIN_COMPRESSED_BYTES = 16_000
_PIECE_BYTES = 2**18
_MAX_CACHED_HEADERS = 256


def decode(body: bytes, content_encoding: str, max_bytes: int, reserve: Reserve) -> bytes:
    """Return the body that was sent with this Content-Encoding.

    Gzip is taken with one member and nothing behind it. Raises UnsupportedEncoding, BadBody, TooLarge once more than
    `max_bytes` have been decoded, and what `reserve` raises.
    """
    codings = [name for each in content_encoding.split(",") if (name := each.strip().lower()) not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in (GZIP, _OLD_NAME):
        raise UnsupportedEncoding(f"the body may come as {GZIP} or as it is, not as {content_encoding[:40]!r}")
    decoded = BytesIO()
    for piece in _decoded_pieces(body):
        reserve(len(piece))
        if decoded.tell() + len(piece) > max_bytes:
            raise TooLarge(f"the body is larger than the {max_bytes} bytes allowed")
        decoded.write(piece)
    return decoded.getvalue()


def _decoded_pieces(body: bytes) -> Iterator[bytes]:
    """Yield what a body of gzip holds. Raises BadBody, perhaps only after some pieces."""
    decoder, end = zlib.decompressobj(_GZIP_WINDOW_BITS), 0
    try:
        while end < len(body) and not decoder.eof:  # Slices, as the decoder copies what it leaves of its input.
            pending, end = body[end : end + _PIECE_BYTES], end + _PIECE_BYTES
            while pending and not decoder.eof:
                yield decoder.decompress(pending, _PIECE_BYTES)
                pending = decoder.unconsumed_tail
        while piece := decoder.decompress(b"", _PIECE_BYTES):
            yield piece
    except zlib.error as error:
        raise BadBody(f"the body is not {GZIP}: {error}") from error
    if not decoder.eof:
        raise BadBody(f"the body is {GZIP} that breaks off")
    if decoder.unused_data or end < len(body):
        raise BadBody(f"something follows the {GZIP} of the body")


def should_compress(body_bytes: int, accept_encoding: str) -> bool:
    """Tell whether an answer of this size is to go out as gzip, to a client that accepts these codings."""
    return body_bytes > _MIN_COMPRESSED_BYTES and _accepts_gzip(accept_encoding)


def compress(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a body as gzip, and the headers that say so."""
    compressed = zlib.compress(body, _LEVEL, _GZIP_WINDOW_BITS)
    return compressed, {"Content-Encoding": GZIP, "Vary": "Accept-Encoding"}


def compress_response(response: Response, accept_encoding: str) -> None:
    """Compress a response in place where its client accepts it. One with an ETag, which names its bytes, is left."""
    if "ETag" not in response.headers and should_compress(response.content_length or 0, accept_encoding):
        body, headers = compress(b"".join(response.iter_encoded()))
        response.response, response.content_length = [body], len(body)
        response.headers.update(headers)


@lru_cache(_MAX_CACHED_HEADERS)
def _accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether a client takes gzip, and does not like the body as it is better."""
    qualities = parse_accept_header(accept_encoding.lower().replace(_OLD_NAME, GZIP), Accept)
    return qualities[GZIP] > 0 and qualities[GZIP] >= qualities["identity"]
