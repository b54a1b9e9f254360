"""Matches as tests compare them."""

import json
from dataclasses import dataclass


@dataclass
class Match:
    id: str
    name: str
    score: float


def matches_in(encoded: list[bytes] | bytes) -> list[Match]:
    """The matches of a list of JSON objects, or of a JSON array."""
    text = encoded if isinstance(encoded, bytes) else b"[" + b",".join(encoded) + b"]"
    return [Match(**fields) for fields in json.loads(text)]
