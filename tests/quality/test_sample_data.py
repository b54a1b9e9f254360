"""The sample data keeps its promises."""

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.conftest import PRODUCTS
from tests.support.sample import SampleProducts, read_personas, read_products

FOODS = PRODUCTS.parent / "foods.tsv"
LISTS = ("foods", "tags")


@pytest.fixture(scope="module")
def products() -> SampleProducts:
    return read_products()


@pytest.fixture(scope="module")
def personas() -> list[dict[str, Any]]:
    return read_personas()


def test_there_are_thirty_cuisines_of_eighty_two_products(products: SampleProducts) -> None:
    cuisines = [row["cuisine"] for row in products.rows]
    assert len(set(cuisines)) == 30
    assert {cuisines.count(cuisine) for cuisine in cuisines} == {82}


def test_ids_and_names_are_distinct(products: SampleProducts) -> None:
    assert len(products.positions) == len(products.rows) == 2460
    assert len({row["name"].lower() for row in products.rows}) == 2460


def test_a_product_has_id_name_description_and_fields_to_filter_by(products: SampleProducts) -> None:
    names = ("id", "name", "cuisine", "section", "foods", "tags", "description")
    assert {tuple(row) for row in products.rows} == {names}
    assert [row["id"] for row in products.rows if not all(row[name] for name in names if name not in LISTS)] == []


def test_a_menu_belongs_to_one_section(products: SampleProducts) -> None:
    sections = {(row["cuisine"], row["section"]) for row in products.rows}
    assert len(sections) == 30
    others = {cuisine: section for cuisine, section in sections if section != "kitchen"}
    assert others == {
        "cocktails": "drinks",
        "coffee": "drinks",
        "juices": "drinks",
        "wine": "drinks",
        "confectionery": "sweets",
        "desserts": "sweets",
        "cheese": "groceries",
        "produce": "groceries",
        "bakery": "bakery",
    }


def test_foods_are_those_that_the_description_names(products: SampleProducts) -> None:
    spellings: dict[str, set[str]] = {}
    for line in FOODS.read_text(encoding="utf-8").splitlines():
        food, *others = line.split("\t")
        spellings[food] = {food, *others}
    for row in products.rows:
        words = " ".join(["", *re.findall(r"[^\W_]+", row["description"].lower()), ""])
        unnamed = [food for food in row["foods"] if not any(f" {one} " in words for one in spellings[food])]
        assert unnamed == [], row


@pytest.mark.parametrize(
    ("identifier", "foods", "tags"),
    [
        ("pizza-02", ["tomato", "garlic", "oregano", "olive oil"], []),  # "no cheese"
        ("thai-06", ["pork"], ["spicy"]),  # "without coconut"
        ("british-05", ["sausage", "bacon", "egg"], ["fried"]),
        ("confectionery-13", ["chocolate", "orange"], []),  # "milk chocolate" is no milk
        ("wine-01", [], []),  # notes of a taste
        ("pasta-76", ["pasta", "lentil", "carrot", "garlic"], ["vegetarian", "vegan"]),
    ],
)
def test_fields_say_what_the_menu_says(
    products: SampleProducts, identifier: str, foods: list[str], tags: list[str]
) -> None:
    row = products.rows[products.positions[identifier]]
    assert (row["foods"], row["tags"]) == (foods, tags)


def test_vegetarian_is_what_says_so(products: SampleProducts) -> None:
    said = {row["id"] for row in products.rows if re.search(r"(?i)\b(vegetarian|veggie|vegan)\b", json.dumps(row))}
    assert {row["id"] for row in products.rows if "vegetarian" in row["tags"]} == said
    assert len(said) == 11


def test_at_most_two_percent_of_products_share_their_vector(products: SampleProducts) -> None:
    _, counts = np.unique(products.vectors, axis=0, return_counts=True)
    assert counts[counts > 1].sum() <= 0.02 * len(products.rows)


def test_vectors_have_300_dimensions_and_a_direction(
    products: SampleProducts, personas: list[dict[str, Any]], sample_users: list[dict[str, Any]]
) -> None:
    users = np.array([user["vector"] for user in [*personas, *sample_users]])
    for vectors in (products.vectors, users):
        assert vectors.shape[1] == 300
        assert np.isfinite(vectors).all()
        assert vectors.any(axis=1).all()


def test_vectors_are_not_normalised(products: SampleProducts) -> None:
    lengths = np.linalg.norm(products.vectors, axis=1)
    assert lengths.min() > 10
    assert lengths.max() > 1.5 * lengths.min()


def test_personas_have_a_name_likes_and_a_vector(personas: list[dict[str, Any]]) -> None:
    assert {tuple(persona) for persona in personas} == {("name", "likes", "vector")}
    assert [persona["name"] for persona in personas] == (
        ["mike", "nok", "hana", "priya", "sam", "lucia", "oliver", "emma", "jack", "zoe", "pierre", "ines"]
    )


def test_the_batch_has_a_thousand_users_who_love_one_or_two_known_cuisines(
    products: SampleProducts, sample_users: list[dict[str, Any]]
) -> None:
    known = {row["cuisine"] for row in products.rows}
    assert len({user["name"] for user in sample_users}) == len(sample_users) == 1000
    assert {tuple(user) for user in sample_users} == {("name", "likes", "cuisines", "vector")}
    assert {len(user["cuisines"]) for user in sample_users} == {1, 2}
    assert {cuisine for user in sample_users for cuisine in user["cuisines"]} == known


def test_likes_are_not_product_names(
    products: SampleProducts, personas: list[dict[str, Any]], sample_users: list[dict[str, Any]]
) -> None:
    names = {row["name"].lower() for row in products.rows}
    likes = {like.lower() for user in [*personas, *sample_users] for like in user["likes"]}
    assert likes & names == set()
