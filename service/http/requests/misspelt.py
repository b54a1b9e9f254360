"""Tells which ignored members of a request look like misspelt options."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from service.http.requests.schemas import option_fields
from service.settings import Limits

MAX_NAMES = 16  # in the answer to one request
_WORD, _MAX_CHARACTERS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*"), 20  # A longer name, or another one, resembles none.
_MIN_LETTERS = 4  # Shorter names resemble too many others.
_OTHER_NAMES = {"topk", "limit"}  # of k
_MAX_CACHED_NAMES = 4096


def find_misspelt(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names that are no option but look like one, sixteen at most."""
    return tuple(islice(filter(looks_misspelt, names), MAX_NAMES))


def looks_misspelt(name: str) -> bool:
    """Tell whether a name is no option, but differs from one in a letter or two, in capitals or in underscores."""
    return name not in _OPTIONS and len(name) <= _MAX_CHARACTERS and _resembles_option(name)


@lru_cache(_MAX_CACHED_NAMES)
def _resembles_option(name: str) -> bool:
    letters = _letters_of(name)
    is_near = letters in _OTHER_NAMES or not _SPELLINGS.isdisjoint(_spellings(letters))
    return is_near and _WORD.fullmatch(name) is not None


def _letters_of(name: str) -> str:
    return re.sub("[_-]", "", name.casefold())


def _spellings(letters: str) -> set[str]:
    """Return the letters, and what is left without one of them.

    Names that have one of these in common differ by a letter that is missing, added or another, or by two exchanged.
    """
    without = (letters[:i] + letters[i + 1 :] for i in range(len(letters)))
    return {letters, *(without if len(letters) >= _MIN_LETTERS else ())}


_OPTIONS = frozenset({"name", "vector", *option_fields(Limits(), None)})
_SPELLINGS = frozenset(spelling for option in _OPTIONS for spelling in _spellings(_letters_of(option)))
