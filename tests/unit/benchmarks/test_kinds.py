"""Catalogues of the index benchmark: the same for the same seed, as they are named, and with users apart."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.index.catalogues.factors import draw_likes
from benchmarks.index.catalogues.kinds import Vectors, make, parse
from benchmarks.index.catalogues.packages import split_definitions
from benchmarks.index.catalogues.words import means_of_words
from benchmarks.index.recall import kth_scores, recall
from benchmarks.index.sources import PRODUCTS, QUERIES, read_products, read_users, write_sources
from retrieval.vectors import unit_vectors


def words(seed: int) -> tuple[Vectors, Vectors]:
    draw = np.random.default_rng(seed)
    vocabulary = unit_vectors(np.random.default_rng(0).standard_normal((500, 12)))
    return means_of_words(vocabulary, 90, 40, draw)


MAKERS = {
    "gaussian:8": lambda seed: make("gaussian:8", 90, 40, seed),
    "clustered:12": lambda seed: make("clustered:12", 90, 40, seed),
    "words": words,
}
DIMENSIONS = {"gaussian:8": 8, "clustered:12": 12, "words": 12}


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_makes_one_catalogue_and_no_other(name: str) -> None:
    first, again, other = (MAKERS[name](seed) for seed in (1, 1, 2))
    for vectors, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(vectors, same)
        assert not (vectors == different).all(axis=1).any()


@pytest.mark.parametrize("name", MAKERS)
def test_every_product_and_user_has_a_direction_of_its_own(name: str) -> None:
    products, users = MAKERS[name](1)
    assert (products.shape, users.shape) == ((90, DIMENSIONS[name]), (40, DIMENSIONS[name]))
    assert products.dtype == users.dtype == np.float32
    together = unit_vectors(np.concatenate([products, users]))
    cosines = together @ together.T - np.eye(len(together))
    assert cosines.max() < 1 - 1e-6


def test_a_kind_with_data_of_its_own_has_no_other_dimension() -> None:
    with pytest.raises(ValueError, match="the sample has 300 dimensions, not 8"):
        make("sample:8", 90, 40, 1)


def test_a_name_may_say_the_dimension() -> None:
    assert parse("gaussian") == ("gaussian", 128)
    assert parse("gaussian:1536") == ("gaussian", 1536)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("music", "'music' is no kind of catalogue; there are sample, words"),
        ("words:1", "a whole number of at least 2"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_definitions_are_split_and_taken_once() -> None:
    text = "ash\tresidue of fire | a tree\nember\thot coal\nash tree\ta tree\nvoid\t\n"
    assert split_definitions(text) == ["residue of fire", "a tree", "hot coal"]


def test_each_product_is_liked_by_a_training_user_and_some_by_many() -> None:
    likes = draw_likes(products=400, training=300, others=50, draw=np.random.default_rng(1))
    training = likes.users < 300
    assert set(likes.products[training]) == set(range(400))
    assert set(likes.users) == set(range(350))
    counts = np.sort(np.bincount(likes.products))
    assert counts[-40:].sum() > 0.3 * counts.sum()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources")
    write_sources("gaussian:8", 300, directory)
    return directory


def test_recall_is_reported_with_users_that_nothing_is_tuned_with(written: Path) -> None:
    tuning, held_out = (read_users(written, group).vectors for group in ("tuning", "held_out"))
    with np.load(written / PRODUCTS) as products, np.load(written / QUERIES) as queries:
        np.testing.assert_array_equal(read_products(written), unit_vectors(products["vectors"]))
        for_builder = unit_vectors(queries["vectors"])
        assert [len(names) for names in (products["ids"], queries["names"])] == [300, len(for_builder)]
    np.testing.assert_array_equal(tuning, for_builder[: len(tuning)])
    assert not set(map(bytes, for_builder)) & set(map(bytes, held_out))


def test_recall_is_measured_against_exact_scores(written: Path) -> None:
    products, users = read_products(written), read_users(written, "held_out")
    scores = users.vectors.astype(np.float64) @ products.T
    order = np.argsort(-scores, axis=1)
    for side, ranked, sign in (("best", order, 1), ("worst", order[:, ::-1], -1)):
        kth = np.take_along_axis(sign * scores, ranked[:, [9, 99]], axis=1)
        np.testing.assert_allclose(users.kth_scores[side], kth, atol=2e-7)
        queries, at_ten = np.float32(sign) * users.vectors, users.kth_scores[side][:, 0]
        found = ranked[:, :10].copy()
        assert recall(products, queries, found, at_ten) == 1
        found[:, 0], found[::2, 1] = ranked[:, 150], -1
        assert recall(products, queries, found, at_ten) == pytest.approx(0.85)


def test_exact_scores_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    products, queries = (draw.standard_normal((count, 5)).astype(np.float32) for count in (60, 7))
    whole = kth_scores(products, queries, (3, 40, 100))
    monkeypatch.setattr("benchmarks.index.recall._BLOCK_ROWS", 11)
    monkeypatch.setattr("benchmarks.index.recall._BLOCK_USERS", 3)
    np.testing.assert_allclose(kth_scores(products, queries, (3, 40, 100)), whole, atol=1e-6)
    exact = -np.sort(-(queries.astype(np.float64) @ products.T), axis=1)
    np.testing.assert_allclose(whole, exact[:, [2, 39, 59]], atol=1e-6)
