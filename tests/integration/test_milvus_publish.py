"""`python -m service publish`: whole or not at all, and as often as wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.artifact.store import open_current
from service.__main__ import main
from service.errors import CannotPublish, EngineUnavailable
from service.settings import MilvusSettings
from tests.support.catalogues import products_of, write_lines
from tests.support.milvus import MilvusServer, on_milvus
from tests.support.published import DIMENSION, PRODUCTS, publish
from tests.support.updated import ChangingCatalogue, random_changes, random_rows

pytestmark = on_milvus

Publish = Callable[..., tuple[int, str, str]]


@pytest.fixture
def alias(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:90]


@pytest.fixture
def cluster(milvus: MilvusServer, alias: str) -> Any:
    from service.engines.milvus_cluster import Cluster

    return Cluster(MilvusSettings(milvus.uri, alias=alias, timeout=20.0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An artifacts root with a build of thirty products."""
    publish(tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def run(root: Path, milvus: MilvusServer, alias: str, capsys: pytest.CaptureFixture[str]) -> Publish:
    """The command, with further options: exit code, standard output and error."""

    def run(*options: str) -> tuple[int, str, str]:
        given = ["--artifact", str(root), "--uri", milvus.uri, "--alias", alias, "--index", "FLAT", *options]
        code = main(["publish", *given])
        return code, *capsys.readouterr()

    return run


def collection_of(alias: str, root: Path) -> str:
    build_id = (root / "CURRENT").read_text().strip()
    return f"{alias}_{build_id.replace('.', '_').replace('-', '_')}"


def collections(cluster: Any) -> set[str]:
    """Those made for this test's alias."""
    return {name for name in cluster.call("list_collections") if name.startswith(f"{cluster.alias}_2")}


def test_the_alias_names_a_collection_of_the_whole_build(run: Publish, cluster: Any, root: Path, alias: str) -> None:
    name = collection_of(alias, root)
    assert run() == (0, f"published   {name}: {PRODUCTS} products, FLAT, named by {alias}\n", "")
    assert cluster.target() == name
    build = open_current(root)
    rows = cluster.call("query", name, filter="position >= 0", output_fields=["head", "vector"])
    rows = sorted(rows, key=lambda row: row["position"])
    assert [row["position"] for row in rows] == list(range(PRODUCTS))
    assert [row["head"].encode() for row in rows] == build.products.prefixes(np.arange(PRODUCTS))
    expected = build.vectors(np.arange(PRODUCTS))
    assert np.array([row["vector"] for row in rows], np.float32).tolist() == expected.tolist()


def test_a_base_and_its_delta_become_a_collection_of_the_products_that_there_are(
    run: Publish, cluster: Any, root: Path, alias: str, tmp_path: Path
) -> None:
    draw = np.random.default_rng(2)
    catalogue = ChangingCatalogue(root, random_rows(draw, 0, PRODUCTS, DIMENSION))
    catalogue.update(random_changes(draw, catalogue, 4, DIMENSION))
    catalogue.full_build(tmp_path / "full")
    full, name = open_current(tmp_path / "full"), collection_of(alias, root)
    assert run() == (0, f"published   {name}: {PRODUCTS} products, FLAT, named by {alias}\n", "")
    rows = cluster.call("query", name, filter="position >= 0", output_fields=["head", "vector"])
    rows = sorted(rows, key=lambda row: row["position"])
    assert [row["position"] for row in rows] == list(range(PRODUCTS))
    assert [row["head"].encode() for row in rows] == full.products.prefixes(np.arange(PRODUCTS))
    assert np.array([row["vector"] for row in rows], np.float32).tolist() == full.vectors(np.arange(PRODUCTS)).tolist()


def test_publishing_twice_changes_nothing(run: Publish, cluster: Any, root: Path, alias: str) -> None:
    assert run()[0] == 0
    name = collection_of(alias, root)
    assert run() == (0, f"nothing to do: {alias} names {name} already, and it is complete\n", "")
    assert (cluster.target(), collections(cluster)) == (name, {name})


def test_the_replaced_collection_stays_and_older_ones_go(run: Publish, cluster: Any, root: Path, alias: str) -> None:
    names = []
    for seed in (0, 1, 2):
        publish(root, seed)
        assert run()[0] == 0
        names.append(collection_of(alias, root))
        assert cluster.target() == names[-1]
    assert collections(cluster) == set(names[1:])


def test_what_a_killed_publish_has_left_is_replaced(run: Publish, cluster: Any, root: Path, alias: str) -> None:
    name = collection_of(alias, root)
    cluster.create(name, 5, 1)
    texts = {"id": "x", "head": '{"id":"x","name":"x"', "further": "}", "about": ""}
    cluster.insert(name, [{"position": 0, **texts, "vector": np.ones(5, np.float32)}])
    assert run()[0] == 0
    assert cluster.target() == name
    assert cluster.count(name) == PRODUCTS


@pytest.mark.parametrize("step", ["create", "insert", "make_searchable", "count", "call alias"])
def test_a_publish_that_fails_anywhere_leaves_what_was_there(
    run: Publish, cluster: Any, root: Path, alias: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from service.engines.milvus_cluster import Cluster

    assert run()[0] == 0
    before = collection_of(alias, root)
    publish(root, 1)
    name = step.split()[0]
    done = getattr(Cluster, name)

    def fail(self: Any, *arguments: Any, **options: Any) -> Any:
        if name != "call" or arguments[0] == "alter_alias":
            raise EngineUnavailable("Milvus at nowhere: broken")
        return done(self, *arguments, **options)

    monkeypatch.setattr(Cluster, name, fail)
    assert run() == (1, "", "error: Milvus at nowhere: broken\nnothing was published\n")
    monkeypatch.undo()
    assert (cluster.target(), collections(cluster)) == (before, {before})
    assert run()[0] == 0
    assert cluster.target() == collection_of(alias, root) != before


def test_products_that_got_lost_fail_the_publish(
    run: Publish, cluster: Any, root: Path, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines.milvus_cluster import Cluster

    insert = Cluster.insert
    monkeypatch.setattr(Cluster, "insert", lambda self, name, rows: insert(self, name, [rows[0], *rows[2:]]))
    name = collection_of(alias, root)
    expected = f"error: {name}: holds 29 products, the build 30\nnothing was published\n"
    assert run() == (1, "", expected)
    assert (cluster.target(), collections(cluster)) == ("", set())


def test_wrong_answers_fail_the_publish(
    run: Publish, cluster: Any, root: Path, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines.milvus_cluster import Cluster

    insert = Cluster.insert

    def insert_mixed_up(self: Any, name: str, rows: list[dict[str, Any]]) -> None:
        vectors = [row["vector"] for row in rows]
        insert(self, name, [{**row, "vector": vector} for row, vector in zip(rows, vectors[::-1], strict=True)])

    monkeypatch.setattr(Cluster, "insert", insert_mixed_up)
    code, _, message = run()
    assert code == 1
    name = collection_of(alias, root)
    assert message.startswith(f"error: {name}, best side: gives ")
    assert message.endswith(" of the 80 golden answers in manifest.json\nnothing was published\n")
    assert (cluster.target(), collections(cluster)) == ("", set())


def test_a_build_in_use_is_not_given_another_index(run: Publish, cluster: Any, root: Path, alias: str) -> None:
    assert run()[0] == 0
    name = collection_of(alias, root)
    code, _, message = run("--index", "HNSW")
    assert code == 1
    assert message.startswith(f"error: {name}: is in use with the index FLAT; ")
    assert cluster.target() == name


def test_a_product_whose_name_milvus_cannot_keep_fails_the_publish(milvus: MilvusServer, tmp_path: Path) -> None:
    from index_builder.pipelines.build import BuildRequest, build
    from service.engines.milvus_publish import Layout
    from service.engines.milvus_publish import publish as publish_to_milvus

    products = products_of(np.eye(3))
    products[1]["name"] = "x" * 70_000
    build(BuildRequest(products=write_lines(tmp_path / "p.jsonl", products), out=tmp_path / "a"))
    with pytest.raises(CannotPublish, match=r"^product 2: id and name take 70020 bytes, Milvus keeps 65535$"):
        publish_to_milvus(tmp_path / "a", MilvusSettings(milvus.uri, alias="long_names"), Layout())


def test_a_damaged_build_is_not_published(run: Publish, cluster: Any, root: Path) -> None:
    damaged = root / (root / "CURRENT").read_text().strip() / "products.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b"product 7", b"product 8"))
    code, _, message = run()
    assert code == 1
    assert message == f"error: {damaged}: its SHA-256 is not the one in the manifest\nnothing was published\n"
    assert (cluster.target(), collections(cluster)) == ("", set())


def test_a_published_build_is_said_to_be_even_where_older_ones_cannot_be_dropped(
    run: Publish, root: Path, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines import milvus_publish

    def fail(*arguments: Any) -> None:
        raise EngineUnavailable("Milvus at nowhere: broken")

    monkeypatch.setattr(milvus_publish, "_drop_others", fail)
    name = collection_of(alias, root)
    published = f"published   {name}: {PRODUCTS} products, FLAT, named by {alias}"
    assert run() == (
        0,
        f"{published}\nolder collections are dropped by the next publish: Milvus at nowhere: broken\n",
        "",
    )


def test_more_replicas_than_servers_fail_the_publish(
    run: Publish, cluster: Any, alias: str, milvus: MilvusServer
) -> None:
    if not milvus.is_standalone:
        pytest.skip("Lite takes any number")
    code, output, message = run("--replicas", "2")
    assert (code, output) == (1, "")
    assert message.startswith(f"error: Milvus at {milvus.uri}: ")
    assert "Traceback" not in message
    assert (cluster.target(), collections(cluster)) == ("", set())


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://127.0.0.1:port", "http://[::1"])
def test_an_address_that_cannot_be_is_said(run: Publish, address: str) -> None:
    code, _, message = run("--uri", address)
    assert code == 1
    assert message.startswith(f"error: Milvus at {address}: ")
    assert message.endswith("\nnothing was published\n")


def test_no_milvus_is_said(run: Publish) -> None:
    code, _, message = run("--uri", "http://127.0.0.1:9", "--timeout", "0.5")
    assert code == 1
    assert message.startswith("error: Milvus at http://127.0.0.1:9: ")


def test_a_bad_option_is_named(run: Publish) -> None:
    code, _, message = run("--uri", "milvus")
    expected = "error: RECO_MILVUS_URI='milvus': must be like http://milvus:19530, or a file ending in .db\n"
    assert (code, message) == (1, expected + "nothing was published\n")
