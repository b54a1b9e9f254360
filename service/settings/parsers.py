"""What the text of a setting may say by itself: each parser returns the value, or raises ValueError."""

import re
from collections.abc import Callable
from typing import Any

from service.settings.setting import Environment, Parse


def number(minimum: float, maximum: float | Callable[[Environment], float], unit: int = 1, hint: str = "") -> Parse:
    """Read how many units: a whole number if the minimum is one, otherwise seconds with fractions."""
    kind = type(minimum)

    def parse(text: str, environment: Environment) -> float:
        limit = maximum(environment) if callable(maximum) else maximum
        try:
            count = kind(text)
        except ValueError:
            count = kind(-1)
        if not minimum <= count <= limit:
            noun = "a whole number" if kind is int else "a number of seconds"
            raise ValueError(f"must be {noun} from {minimum:g} to {limit}{hint if '://' in text else ''}")
        return count * unit

    return parse


def parse_share(text: str, _environment: Environment) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError("must be a share from 0 to 1")
    return share


def matching(pattern: str, requirement: str = "", convert: Callable[[str], Any] = str) -> Parse:
    def parse(text: str, _environment: Environment) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {requirement or pattern.replace('|', ' or ')}")
        return convert(text)

    return parse


def list_of(word: str, requirement: str) -> Parse:
    words = rf"(?i)({word})(\s*,\s*({word}))*|"
    return matching(
        words, f"{requirement}, with commas between them", lambda text: tuple(re.findall(word, text.lower()))
    )


def parse_api_keys(text: str, _environment: Environment) -> tuple[str, ...]:
    """Read a list with commas; one may follow the last key."""
    keys = tuple(key.strip() for key in text.strip().removesuffix(",").split(",")) if text else ()
    if text and not any(keys):
        raise ValueError("holds no key")
    if not all(keys):
        raise ValueError("holds an empty key")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise ValueError("a key must be of printable ASCII characters")
    return keys
