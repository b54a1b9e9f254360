"""Answers to bytes of JSON, made from the JSON prefixes that products are stored with."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.artifact.products import Prefixes, parse_prefixes
from service.engines.shown_fields import ShownFields
from service.recommender import Answer, Matches, Outcome, Recommendation

JSON, NDJSON = "application/json", "application/x-ndjson"
# What clients call JSON lines, as no name of them is registered.
LINES = frozenset(
    (NDJSON, "application/ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines")
)
_MAX_MATCHES_AT_ONCE = 20_000

Reserve = Callable[
    [int], object
]  # Called with a number of bytes that are kept; raises where there is no room for more.


def _reserve_nothing(_more_bytes: int) -> None:
    pass


def write_json(value: Any) -> bytes:
    """Return compact JSON of plain values and dataclasses; a lone surrogate, which UTF-8 lacks, becomes its escape."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, default=asdict, separators=(",", ":")).encode()


class EncodedAnswer(NamedTuple):
    """An answer's JSON, and what is measured of it."""

    json: bytes
    outcome: Outcome


def encode_answers(
    prefixes: Prefixes, answers: Sequence[Recommendation], reserve: Reserve = _reserve_nothing
) -> list[EncodedAnswer]:
    """Encode answers, each as it would be alone. `reserve` is told of the bytes of fields as they are written."""
    sides = write_sides(prefixes, [side for answer in answers for side in (answer.best, answer.worst)], reserve)
    return [
        EncodedAnswer(
            b'{"name":%b,"best":%b,"worst":%b%b}'
            % (write_json(answer.name), next(sides), next(sides), _write_further(answer)),
            answer.outcome,
        )
        for answer in answers
    ]


def _write_further(answer: Recommendation) -> bytes:
    """Return the members of an answer that only an option asks for."""
    matched = b"" if answer.matched is None else b',"matched":%d' % answer.matched
    return matched if answer.explain is None else b'%b,"explain":%b' % (matched, write_json(answer.explain))


def write_answers(prefixes: Prefixes, answers: Sequence[Answer]) -> list[bytes]:
    """Return the JSON of each answer, each as it would be alone."""
    found = iter(encode_answers(prefixes, [answer for answer in answers if isinstance(answer, Recommendation)]))
    return [next(found).json if isinstance(answer, Recommendation) else write_json(answer) for answer in answers]


def write_sides(prefixes: Prefixes, sides: Iterable[Matches], reserve: Reserve = _reserve_nothing) -> Iterator[bytes]:
    """Yield the JSON array of each side's matches: the compact JSON of `id`, `name` and `score`, in this order.

    Some are made at a time, so that what they are made of takes little memory beside a large answer.
    """
    group: list[Matches] = []
    matches = 0
    for side in sides:
        size = len(side.positions)
        if matches + size > _MAX_MATCHES_AT_ONCE:
            yield from _write_group(prefixes, group, reserve)
            group, matches = [], 0
        if size > _MAX_MATCHES_AT_ONCE:
            yield write_array(piece[1:-1] for piece in write_sides(prefixes, _cut(side), reserve))
        else:
            group.append(side)
            matches += size
    yield from _write_group(prefixes, group, reserve)


def _cut(side: Matches) -> Iterator[Matches]:
    """Yield a side as some of as many matches as are written at a time."""
    for start in range(0, len(side.positions), _MAX_MATCHES_AT_ONCE):
        part = slice(start, start + _MAX_MATCHES_AT_ONCE)
        yield Matches(side.positions[part], side.scores[part], side.fields and side.fields.part(part))


def _write_group(prefixes: Prefixes, sides: Sequence[Matches], reserve: Reserve) -> Iterator[bytes]:
    if not sides:
        return
    positions, scores = (np.concatenate([getattr(side, name) for side in sides]) for name in ("positions", "scores"))
    numbers = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    # Prefixes and what follows them are joined once a side: half the time of making a string a match.
    parts = [b""] * (2 * len(positions))
    parts[::2] = prefixes(positions)
    parts[1::2] = (b',"score":' + numbers.replace(b",", b'},\n,"score":') + b"},").split(b"\n")[: len(positions)]
    start = 0
    for side in sides:
        end = start + 2 * len(side.positions)
        if side.fields is not None:
            written = [b',"fields":%b},' % each for each in write_fields(side.fields, reserve)]
            parts[start + 1 : end : 2] = map(bytes.__add__, (part[:-2] for part in parts[start + 1 : end : 2]), written)
        yield b"[" + b"".join(parts[start:end])[:-1] + b"]"
        start = end


def write_fields(fields: ShownFields, reserve: Reserve = _reserve_nothing) -> Iterator[bytes]:
    """Yield the JSON of each match's fields."""
    for each in fields:
        written = write_json(each)
        reserve(len(written))
        yield written


def gather_matches(
    prefixes: Prefixes, sides: Sequence[Matches]
) -> tuple[list[dict[str, str]], NDArray[np.int64], NDArray[np.float64]]:
    """Return the distinct products of all sides, `id` and `name`, and of each match its product's row and score (m,).

    A product matches many users, and is read once.
    """
    positions = np.concatenate([np.empty(0, np.int64), *(side.positions for side in sides)])
    distinct, rows = np.unique(positions, return_inverse=True)
    scores = np.concatenate([np.empty(0), *(side.scores for side in sides)])
    return parse_prefixes(prefixes(distinct)), rows, scores


def write_similar(
    prefixes: Prefixes, ids: Iterable[str], answer: Recommendation, reserve: Reserve = _reserve_nothing
) -> bytes:
    best, worst = write_sides(prefixes, [answer.best, answer.worst], reserve)
    return b'{"ids":%b,"best":%b,"worst":%b%b}' % (write_json(list(ids)), best, worst, _write_further(answer))


def write_products(prefixes: Prefixes, positions: NDArray[np.int64]) -> bytes:
    """Return an object whose `products` have an `id` and a `name`."""
    return b'{"products":%b}' % write_array(prefix + b"}" for prefix in prefixes(positions))


def write_points(
    prefixes: Prefixes,
    positions: NDArray[np.int64],
    points: NDArray[np.float32],
    fields: ShownFields | None = None,
    reserve: Reserve = _reserve_nothing,
) -> bytes:
    """Return an object whose `products` have an `id`, a `name` and a map point (m, 2) as `x` and `y`, and `fields`."""
    products = zip(prefixes(positions), points.tolist(), strict=True)
    further = (
        (b"" for _ in positions)
        if fields is None
        else (b',"fields":%b' % each for each in write_fields(fields, reserve))
    )
    written = (
        b'%b,"x":%.4f,"y":%.4f%b}' % (prefix, x, y, more)
        for (prefix, (x, y)), more in zip(products, further, strict=True)
    )
    return b'{"products":%b}' % write_array(written)


def write_array(answers: Iterable[bytes]) -> bytes:
    members = [*answers] or [b""]
    members[0] = b"[" + members[0]  # A bracket before or behind the whole would copy it.
    members[-1] += b"]"
    return b",".join(members)


def write_lines(answers: Iterable[bytes]) -> bytes:
    return b"\n".join([*answers, b""])
