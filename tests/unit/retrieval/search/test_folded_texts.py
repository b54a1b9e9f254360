"""Texts found inside others, against a plain search through all of them."""

import random
import unicodedata
from typing import Any

import pytest

from retrieval.search import folded_texts
from retrieval.search.folded_texts import FoldedTexts, fold

WIDE = "\uff33\uff35\uff33\uff28\uff29"  # "SUSHI" as East Asian keyboards write it
NAMES = [
    "Crème brûlée",
    "Steak",
    "Iced tea",
    "Tea cakes",
    "STRASSE",
    "Straße",
    "sushi",
    WIDE,
    "x\ny",
    "",
    "  ",
    "김치",
    "tea",
]


def slow_fold(text: str) -> str:
    """Compare without case and accents, character by character."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(each for each in folded if not unicodedata.combining(each)).split())


def slow_containing(texts: list[str], text: str) -> list[int]:
    wanted, folded = slow_fold(text), [*map(slow_fold, texts)]
    begins = [i for i, each in enumerate(folded) if each.startswith(wanted)]
    has_word = [i for i, each in enumerate(folded) if f" {wanted}" in each]
    contains = [i for i, each in enumerate(folded) if wanted in each]
    return [*dict.fromkeys(begins + has_word + contains)]


def found(texts: FoldedTexts, text: str) -> list[int]:
    return [number for _, part in texts.containing(text) for number in part.tolist()]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("tea", ["Tea cakes", "tea", "Iced tea", "Steak"]),
        ("TEÁ", ["Tea cakes", "tea", "Iced tea", "Steak"]),
        ("creme bru", ["Crème brûlée"]),
        (unicodedata.normalize("NFD", "crème"), ["Crème brûlée"]),
        ("Strass", ["STRASSE", "Straße"]),
        ("sushi", ["sushi", WIDE]),
        ("X   Y", ["x\ny"]),
        ("김", ["김치"]),
        ("eak tea", []),  # No text reaches into the next one.
        ("\n", NAMES),
        ("\ud800", []),
    ],
)
def test_names_are_found_whatever_their_case_accents_and_unicode_form(text: str, names: list[str]) -> None:
    assert [NAMES[number] for number in found(FoldedTexts(NAMES), text)] == names


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 64, 2**18])
def test_where_pieces_end_makes_no_difference(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(folded_texts, "_PIECE_BYTES", piece_bytes)
    draw = random.Random(piece_bytes)
    names = [" ".join(draw.choices(["ab", "ba", "Äb", "aab", "b"], k=draw.randint(0, 4))) for _ in range(60)]
    texts = FoldedTexts(names)
    for text in ["a", "b", "ab", "ba", "aab", "b a", "ab ba", "ä", "", "zz"]:
        assert found(texts, text) == slow_containing(names, text), text


def test_there_may_be_no_texts_at_all() -> None:
    assert found(FoldedTexts([]), "a") == found(FoldedTexts([]), "") == []


def test_folding_is_the_same_for_what_is_ascii() -> None:
    for text in ["Plain", " two  words ", "tab\tand\nline", "\x1f", "A\x0bB"]:
        assert fold(text) == slow_fold(text).encode()


class Counting(bytes):
    """Counts how often it is searched."""

    searches = 0

    def find(self, *arguments: Any) -> int:
        type(self).searches += 1
        return super().find(*arguments)


@pytest.mark.parametrize(("text", "most"), [("a", 50), ("a a", 50), ("", 0), ("\u0301", 0)])
def test_a_text_is_left_once_it_is_found(text: str, most: int) -> None:
    names = ["a " * 300, "b", "c" * 300]
    texts = FoldedTexts(names)
    texts._content, Counting.searches = Counting(texts._content), 0
    assert found(texts, text) == slow_containing(names, text)
    assert Counting.searches <= most
