"""Tells which ignored members of a request look like misspelt options."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from service.http.requests.schemas import OPTIONS

MAX_NAMES, _MAX_NAMES_LOOKED_AT = 16, 64  # in the answer to one request, and of one user
_WORD, _MAX_CHARACTERS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*"), 20  # A longer name, or another one, resembles none.
_MIN_LETTERS = 4  # Shorter names resemble too many others.
_OTHER_NAMES = {"topk", "limit"}  # of k
_MAX_CACHED_NAMES = 4096


def find_misspelt(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the first names of a user's members that are no option but look like one.

    They differ from one in a letter or two, in capitals or in underscores.
    """
    return tuple(filter(_looks_misspelt, islice(names, _MAX_NAMES_LOOKED_AT)))


def _looks_misspelt(name: str) -> bool:
    return name not in _MEMBERS and len(name) <= _MAX_CHARACTERS and _resembles_option(name)


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


_MEMBERS = OPTIONS | {"name", "vector"}
_SPELLINGS = frozenset(spelling for member in _MEMBERS for spelling in _spellings(_letters_of(member)))
