"""The builder chooses an index that keeps its promise, or says that it does not."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from index_builder.__main__ import main
from index_builder.kinds.tiers import Tier, TieredKind
from index_builder.pipelines.build import BuildRequest, build
from index_builder.tuning import clock
from index_builder.tuning.clock import TimedSearch
from index_builder.tuning.plan import Screening
from retrieval.artifact.build import Build
from retrieval.artifact.store import open_current
from retrieval.errors import BadIndexKind, LowRecall
from retrieval.vectors import unit_vectors
from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import Settings
from tests.support.catalogues import products_of, write_lines
from tests.support.engines import engine_of
from tests.support.indexes import check_exact

BuildOf = Callable[..., Build]
NOISE = np.random.default_rng(7).normal(size=(1000, 16))


def clustered(count: int) -> np.ndarray:
    """Means of a few of many words, all of which lie near a subspace of half the directions."""
    draw = np.random.default_rng(0)
    words = draw.normal(size=(400, 24)) @ np.linalg.qr(draw.normal(size=(48, 24)))[0].T
    mixtures = words[draw.integers(0, 400, size=(count, 3))].mean(axis=1)
    return mixtures + draw.normal(scale=0.02, size=(count, 48))


def fresh_users(vectors: np.ndarray, count: int) -> np.ndarray:
    draw = np.random.default_rng(99)
    return unit_vectors(vectors[draw.integers(0, len(vectors), size=(count, 3))].mean(axis=1))


def recalls(built: Build, vectors: np.ndarray, users: np.ndarray) -> list[float]:
    """Recall at 10 of each side, by NumPy alone."""
    cosines = users.astype(np.float64) @ unit_vectors(vectors).T.astype(np.float64)
    shares = []
    for sign, found in zip((1, -1), built.index.search(users, 10), strict=True):
        kth = np.partition(sign * cosines, -10, axis=1)[:, -10]
        reached = np.take_along_axis(sign * cosines, found.positions, axis=1) >= kth[:, None] - 1e-5
        shares.append(float(reached.mean()))
    return shares


def by_candidates(searches: Sequence[TimedSearch], *_: object) -> list[float]:
    """Stand in for the clock of a machine that may be busy: an exact scan takes a second, others less."""
    return [
        1.0 if search.factory == "Flat" else 1e-6 * (search.settings.best.candidates + search.settings.worst.candidates)
        for search in searches
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clustered")
    np.savez(directory / "p.npz", names=np.arange(5200).astype(str), vectors=clustered(5200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "median_seconds", by_candidates)
        build(BuildRequest(products=directory / "p.npz", out=directory / "artifacts"))
    return directory / "artifacts"


@pytest.fixture(scope="module")
def built(root: Path) -> Build:
    return open_current(root)


def test_a_catalogue_with_fewer_directions_than_dimensions_gets_a_kind_that_uses_it(built: Build) -> None:
    assert built.manifest.index.factory != "Flat"
    assert built.manifest.recall.kept is True
    for side in (built.manifest.recall.best, built.manifest.recall.worst):
        assert side[0].lower_bound >= 0.99


@pytest.mark.parametrize("fastest", ["Tiers32x1", "Tiers40x1"])
def test_the_kind_that_answers_both_sides_soonest_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fastest: str
) -> None:
    """When timed in turns: a busy moment while a kind was tuned by itself does not decide."""
    kinds = [TieredKind((Tier(32, 1),)), TieredKind((Tier(40, 1),))]
    monkeypatch.setattr(Screening, "contenders", lambda *arguments: kinds)

    def seconds(searches: Sequence[TimedSearch], *_: object) -> list[float]:
        is_busy = {search.factory for search in searches} == {fastest}
        return [9.0 if search.factory == "Flat" else 2.0 - (search.factory == fastest) + is_busy for search in searches]

    monkeypatch.setattr(clock, "median_seconds", seconds)
    np.savez(tmp_path / "p.npz", names=np.arange(6000).astype(str), vectors=clustered(6000))
    assert build(BuildRequest(products=tmp_path / "p.npz", out=tmp_path / "a")).index.factory == fastest


@pytest.mark.parametrize("share", [0.96, 1.0, 50.0])
def test_an_index_that_is_no_faster_than_an_exact_scan_gives_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    np.savez(tmp_path / "p.npz", names=np.arange(6000).astype(str), vectors=clustered(6000))
    timed: set[str] = set()

    def seconds(searches: Sequence[TimedSearch], *_: object) -> list[float]:
        timed.update(search.factory for search in searches)
        return [1.0 if search.factory == "Flat" else share for search in searches]

    monkeypatch.setattr(clock, "median_seconds", seconds)
    manifest = build(BuildRequest(products=tmp_path / "p.npz", out=tmp_path / "a"))
    assert (manifest.index.factory, manifest.recall.kept) == ("Flat", True)
    assert timed > {"Flat"}


def test_users_that_were_not_tuned_with_get_the_target_recall(built: Build) -> None:
    vectors = clustered(5200)
    best, worst = recalls(built, vectors, fresh_users(vectors, 500))
    assert best >= 0.98
    assert worst >= 0.98


def test_the_report_holds_what_was_measured_and_chosen(built: Build, root: Path) -> None:
    report = json.loads((root / built.id / "recall.json").read_text())
    manifest = built.manifest
    assert (report["recall"], report["index"]) == (asdict(manifest.recall), manifest.index.factory)
    assert {side: report["chosen"][side]["settings"] for side in ("best", "worst")} == asdict(manifest.index.search)
    assert {point["factory"] for point in report["measured"]} >= {"Flat", report["index"]}
    assert report["chosen"]["factory"] == report["index"]
    for point in report["measured"]:
        assert set(point) == {"factory", "best", "worst", "seconds"}
    for side, sign in (("best", -1), ("worst", 1)):
        quantiles = list(report["scores"][side].values())
        assert list(report["scores"][side]) == ["0%", "1%", "25%", "50%", "75%", "99%", "100%"]
        assert quantiles == sorted(quantiles)
        assert sign * quantiles[3] < 0
    norms = np.linalg.norm(clustered(5200), axis=1)
    assert report["catalogue"].pop("norms") == pytest.approx(
        dict(zip(report["scores"]["best"], np.quantile(norms, [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]), strict=True))
    )
    assert report["catalogue"] == {
        "products": 5200,
        "dimension": 48,
        "dropped_rows": 0,
        "row_faults": [],
        "groups_of_identical_vectors": 0,
        "products_in_such_groups": 0,
        "largest_group": 1,
    }


def test_vectors_that_vary_in_all_directions_get_what_keeps_the_promise(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(5200, 64))
    np.savez(tmp_path / "p.npz", names=np.arange(5200).astype(str), vectors=vectors)
    manifest = build(BuildRequest(products=tmp_path / "p.npz", out=tmp_path / "artifacts"))
    assert manifest.recall.kept is True
    assert min(recalls(open_current(tmp_path / "artifacts"), vectors, fresh_users(vectors, 300))) >= 0.98


@pytest.mark.parametrize(("recall", "kinds"), [(1.0, {"Flat"}), (0.0, None)], ids=["all", "none"])
def test_the_ends_of_the_scale_can_be_asked_for(tmp_path: Path, recall: float, kinds: set[str] | None) -> None:
    np.savez(tmp_path / "p.npz", names=np.arange(5200).astype(str), vectors=clustered(5200))
    manifest = build(BuildRequest(products=tmp_path / "p.npz", out=tmp_path / "artifacts", recall=recall))
    assert kinds is None or manifest.index.factory in kinds
    assert (manifest.recall.target, manifest.recall.kept) == (recall, True)


@pytest.mark.parametrize("recall", ["1.5", "-0.1", "nan", "inf", "x", ""])
def test_what_is_no_share_is_wrong_usage(recall: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--products", "x", "--out", str(tmp_path / "a"), f"--recall={recall}"])
    assert caught.value.code == 2
    assert "argument --recall: " in capsys.readouterr().err


def miss(tmp_path: Path, *more: str) -> int:
    """Ask of coarse codes what it cannot do."""
    products = write_lines(tmp_path / "p.jsonl", products_of(NOISE))
    arguments = ["--index", "IVF16,PQ2x4fs", "--recall", "0.99999", *more]
    return main(["--products", str(products), "--out", str(tmp_path / "artifacts"), *arguments])


def test_a_kind_that_misses_its_target_publishes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = build(BuildRequest(products=write_lines(tmp_path / "old", products_of(NOISE)), out=tmp_path / "artifacts"))
    before = sorted((tmp_path / "artifacts").iterdir())
    capsys.readouterr()
    assert miss(tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --index IVF16,PQ2x4fs misses the recall of 0.99999 asked for: best ")
    assert ", worst " in err
    assert "--allow-low-recall" in err
    assert err.endswith("\nnothing was published\n")
    assert sorted((tmp_path / "artifacts").iterdir()) == before
    assert open_current(tmp_path / "artifacts").manifest == older


def test_a_kind_that_misses_its_target_raises_low_recall(tmp_path: Path) -> None:
    products = write_lines(tmp_path / "p.jsonl", products_of(NOISE))
    share = r"\d\.\d{4} \(at least \d\.\d{4}\) of"
    found = f"best {share} 10, best {share} 100, worst {share} 10, worst {share} 100 with 95 % confidence"
    found += (
        ", measured on means of random products, of which 1000 users cannot show more than 0[.]9997; choose another"
    )
    with pytest.raises(LowRecall, match=found):
        build(BuildRequest(products=products, out=tmp_path / "a", index="IVF16,PQ2x4fs", recall=0.99999))


def test_an_exact_scan_misses_by_its_precision_alone(tmp_path: Path) -> None:
    near = np.random.default_rng(0).normal(size=12) + np.random.default_rng(1).normal(scale=0.05, size=(600, 12))
    products = write_lines(tmp_path / "p.jsonl", products_of(near))
    with pytest.raises(LowRecall, match="; leave out --storage fp16, lower --recall, or publish it anyway"):
        build(BuildRequest(products=products, out=tmp_path / "a", storage="fp16"))


def test_a_missed_target_may_be_published_and_is_told_to_everyone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert miss(tmp_path, "--allow-low-recall") == 0
    assert "promise     NOT KEPT: recall@10 and @100 of at least 0.99999 on each side" in capsys.readouterr().out
    built = open_current(tmp_path / "artifacts")
    assert (built.manifest.recall.target, built.manifest.recall.kept) == (0.99999, False)
    client = create_app(Serving(Recommender(engine_of(built))), Settings()).test_client()
    assert json.loads(client.get("/index").data)["recall"] == asdict(built.manifest.recall)


@pytest.mark.soak
def test_a_graph_is_tuned_by_what_it_finds(build_of: BuildOf) -> None:
    vectors = np.random.default_rng(2).normal(size=(2000, 16))
    built = build_of(products_of(vectors), index="HNSW4", recall=0.9)
    assert built.manifest.recall.kept is True
    assert min(recalls(built, vectors, fresh_users(vectors, 300))) >= 0.89


@pytest.mark.parametrize(
    ("count", "dimension"), [(1, 2), (2, 2), (5, 3), (15, 7), (17, 7), (60, 2), (60, 301), (60, 1024)], ids=str
)
def test_auto_answers_small_catalogues_of_any_dimension_exactly(build_of: BuildOf, count: int, dimension: int) -> None:
    vectors = np.random.default_rng(3).normal(size=(count, dimension))
    built = build_of(products_of(vectors))
    assert built.manifest.index.factory == "Flat"
    check_exact(built.base.index, vectors, np.random.default_rng(4).normal(size=(5, dimension)), 10)


@pytest.mark.parametrize(("count", "dimension"), [(17, 7), (60, 2), (60, 301), (60, 1024), (300, 3)], ids=str)
def test_a_compressed_kind_can_be_had_for_small_catalogues(build_of: BuildOf, count: int, dimension: int) -> None:
    vectors = np.random.default_rng(3).normal(size=(count, dimension))
    built = build_of(products_of(vectors), index="Tiers2x1")
    assert built.manifest.index.factory == "Tiers2x1"
    check_exact(built.base.index, vectors, np.random.default_rng(4).normal(size=(5, dimension)), 10)


def test_a_compressed_kind_whose_codes_find_too_few_is_not_had_by_scanning_all_rows(build_of: BuildOf) -> None:
    vectors = np.random.default_rng(3).normal(size=(400, 3))
    with pytest.raises(LowRecall, match=r"^--index Tiers2x1 misses the recall of 0\.99 asked for: "):
        build_of(products_of(vectors), index="Tiers2x1")


@pytest.mark.parametrize("count", [1, 2, 5, 15])
def test_fewer_vectors_than_training_needs_are_refused(build_of: BuildOf, count: int) -> None:
    vectors = np.random.default_rng(3).normal(size=(count, 7))
    with pytest.raises(BadIndexKind, match=r"^--index Tiers2x1: FAISS cannot build it: "):
        build_of(products_of(vectors), index="Tiers2x1")


@pytest.mark.parametrize(
    ("identical", "index"), [(300, "auto"), (300, "HNSW32"), (150, "auto"), (150, "PQ4x4fs")], ids=str
)
def test_catalogues_of_identical_products(build_of: BuildOf, index: str, identical: int) -> None:
    vectors = np.random.default_rng(5).normal(size=(300, 8))
    vectors[:identical] = vectors[0]
    check_exact(build_of(products_of(vectors), index=index).base.index, vectors, vectors[[0, 299]] + 0.1, 200)


def test_a_large_catalogue_of_few_distinct_vectors(build_of: BuildOf) -> None:
    distinct = np.random.default_rng(6).normal(size=(700, 8))
    vectors = distinct[np.random.default_rng(6).integers(0, 700, 6000)]
    built = build_of(products_of(vectors))
    manifest = built.manifest
    assert (manifest.products, manifest.distinct_vectors, manifest.index.factory) == (6000, 700, "Flat")
    check_exact(built.base.index, vectors, distinct[:5] + 0.1, 30)


def far_users(vectors: np.ndarray, count: int) -> np.ndarray:
    """Users in directions in which no product lies."""
    draw = np.random.default_rng(98)
    return unit_vectors(draw.normal(size=(count, vectors.shape[1])))


def one_direction(draw: np.random.Generator) -> np.ndarray:
    return np.outer(draw.normal(size=5200), np.arange(1, 7))


def two_dimensions(draw: np.random.Generator) -> np.ndarray:
    return draw.normal(size=(5200, 2))


def near_identical(draw: np.random.Generator) -> np.ndarray:
    return draw.normal(size=12) + draw.normal(scale=1e-6, size=(5200, 12))


def all_negative(draw: np.random.Generator) -> np.ndarray:
    return -draw.uniform(0.1, 1, size=(5200, 12))


def sparse(draw: np.random.Generator) -> np.ndarray:
    vectors = draw.normal(size=(5200, 40)) * (draw.uniform(size=(5200, 40)) < 0.05)
    vectors[:, 0] += 0.01
    return vectors


@pytest.mark.parametrize("catalogue", [one_direction, two_dimensions, near_identical, all_negative, sparse])
def test_odd_catalogues_keep_the_promise_for_users_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: Callable[[np.random.Generator], np.ndarray]
) -> None:
    monkeypatch.setattr(clock, "median_seconds", by_candidates)
    vectors = catalogue(np.random.default_rng(8))
    np.savez(tmp_path / "p.npz", names=np.arange(len(vectors)).astype(str), vectors=vectors)
    np.savez(tmp_path / "u.npz", names=np.arange(1200).astype(str), vectors=far_users(vectors, 1200))
    manifest = build(BuildRequest(products=tmp_path / "p.npz", out=tmp_path / "a", queries=tmp_path / "u.npz"))
    assert manifest.recall.kept is True
    assert min(recalls(open_current(tmp_path / "a"), vectors, far_users(vectors, 1300)[1200:])) >= 0.98


def test_twenty_users_are_too_few_and_the_build_says_so(tmp_path: Path) -> None:
    vectors = np.random.default_rng(9).normal(size=(60, 8))
    queries = write_lines(tmp_path / "few.jsonl", [{"vector": user} for user in far_users(vectors, 20).tolist()])
    products = write_lines(tmp_path / "p.jsonl", products_of(vectors))
    manifest = build(BuildRequest(products=products, out=tmp_path / "a", queries=queries))
    reason = "as few.jsonl has only 20 users of the 300 needed"
    assert manifest.recall.users_from == f"means of random products, {reason}"
