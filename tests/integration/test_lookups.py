"""Products by name, products like others, places on the map and sample users, against exact NumPy."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from retrieval.artifact.build import Build
from service.recommender import Recommender
from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import JSON, PROBLEM, Answer, Api, Fault, check_problem, user_json
from tests.support.engines import engine_of
from tests.support.fake_engine import compass
from tests.support.oracle import Oracle, unit
from tests.support.sample import SampleProducts

POINT_ERROR = 2e-4  # float32 arithmetic and rounding to four decimals
HOSTILE = '<img src=x onerror="alert(1)">'


def products(api: Api, **query: object) -> list[dict[str, str]]:
    answer = api.get(f"/products?{urlencode(query)}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON), answer.body
    return answer.json["products"]


def post(api: Api, path: str, **fields: Any) -> dict[str, Any]:
    answer = api.post(path, json.dumps(fields).encode())
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON), answer.body
    return answer.json


def refused(answer: Answer, *faults: Fault) -> None:
    check_problem(answer, 422, "; ".join(fault.detail for fault in faults), faults)


def by_name(rows: list[dict[str, Any]], prefix: str) -> list[dict[str, str]]:
    """The products whose names begin with the prefix, found the slow way."""
    found = [row for row in rows if row["name"].casefold().startswith(prefix.casefold())]
    return [{"id": row["id"], "name": row["name"]} for row in sorted(found, key=lambda row: row["name"].casefold())]


def unit_mean(sample: SampleProducts, ids: list[str]) -> np.ndarray:
    """The mean of the products' unit vectors."""
    return unit(sample.vectors[[sample.positions[identifier] for identifier in ids]]).mean(axis=0)


def check_similar(
    sample: SampleProducts,
    answer: dict[str, Any],
    ids: list[str],
    k: int,
    left_out: set[str],
    negative: list[str] | None = None,
) -> None:
    vector = 2 * unit_mean(sample, ids) - unit_mean(sample, negative) if negative else unit_mean(sample, ids)
    kept = [i for i, row in enumerate(sample.rows) if row["id"] not in left_out]
    place = {sample.rows[i]["id"]: nth for nth, i in enumerate(kept)}
    oracle = Oracle(sample.vectors[kept])
    for side in ("best", "worst"):
        positions, scores = ([match[key] for match in answer[side]] for key in ("id", "score"))
        oracle.check(vector, side, [place[identifier] for identifier in positions], scores, k)
        assert all(match["name"] == sample.rows[sample.positions[match["id"]]]["name"] for match in answer[side])


class TestPrefix:
    @pytest.mark.parametrize("prefix", ["pi", "PI", "Pizza b", "crê", "CRÊ", "z", "s", ""])
    def test_names_that_begin_so_are_found_in_any_case_and_in_order(
        self, api: Api, sample_products: SampleProducts, prefix: str
    ) -> None:
        expected = by_name(sample_products.rows, prefix)
        assert products(api, prefix=prefix, limit=100) == expected[:100]
        assert products(api, prefix=prefix) == expected[:10]

    def test_every_name_finds_its_product(self, api: Api, sample_products: SampleProducts) -> None:
        for row in sample_products.rows[::7]:
            assert {"id": row["id"], "name": row["name"]} in products(api, prefix=row["name"].upper(), limit=100)

    @pytest.mark.parametrize("prefix", ["pizzzz", "\uffff", " pi", "\x00", "pi%"])
    def test_no_product_begins_so(self, api: Api, prefix: str) -> None:
        assert products(api, prefix=prefix) == []

    def test_products_of_one_name_stand_in_catalogue_order(
        self, build_of: Callable[..., Build], api_over: ApiOver
    ) -> None:
        names = ["Straße", "strasse", HOSTILE, "STRASSE 2", "Strand"]
        rows = [{"id": f"{9 - i}", "name": name, "vector": [1.0, i]} for i, name in enumerate(names)]
        api = api_over(Recommender(engine_of(build_of(rows))))
        found = [product["id"] for product in products(api, prefix="STRASS")]
        assert found == ["9", "8", "6"]
        assert products(api, prefix="<IMG") == [{"id": "7", "name": HOSTILE}]

    @pytest.mark.parametrize(
        ("query", "faults"),
        [
            ("", [Fault("/prefix", "missing", "prefix is missing, and so is contains")]),
            ("prefix=p&limit=0", [Fault("/limit", "range", "limit must be from 1 to 100, not 0")]),
            ("prefix=p&limit=101", [Fault("/limit", "range", "limit must be from 1 to 100, not 101")]),
            ("prefix=p&limit=ten", [Fault("/limit", "type", "limit must be an integer, not a string")]),
            ("prefix=p&limit=", [Fault("/limit", "type", "limit must be an integer, not a string")]),
            ("prefix=p&limit=-1", [Fault("/limit", "type", "limit must be an integer, not a string")]),
            (f"prefix=p&limit={'9' * 5000}", [Fault("/limit", "type", "limit must be an integer, not a string")]),
        ],
    )
    def test_a_query_that_does_not_fit_is_refused(self, api: Api, query: str, faults: list[Fault]) -> None:
        refused(api.get(f"/products?{query}"), *faults)


class TestSimilar:
    @pytest.mark.parametrize("count", [1, 2, 5, 40])
    @pytest.mark.parametrize("k", [1, 10, 100])
    def test_the_mean_of_the_products_is_matched_without_them(
        self, api: Api, sample_products: SampleProducts, count: int, k: int
    ) -> None:
        ids = [sample_products.rows[i]["id"] for i in np.random.default_rng(count).choice(2460, count, replace=False)]
        answer = post(api, "/similar", ids=ids, k=k)
        assert list(answer) == ["ids", "best", "worst"]
        assert answer["ids"] == ids
        check_similar(sample_products, answer, ids, k, set(ids))

    def test_k_defaults_to_ten_and_excluded_products_are_replaced(
        self, api: Api, sample_products: SampleProducts
    ) -> None:
        first = post(api, "/similar", ids=["pizza-38"])
        excluded = [match["id"] for match in [*first["best"][:3], *first["worst"][:2]]]
        answer = post(api, "/similar", ids=["pizza-38"], exclude=[*excluded, "nope"])
        check_similar(sample_products, answer, ["pizza-38"], 10, {"pizza-38", *excluded})

    def test_a_product_named_twice_counts_once(self, api: Api) -> None:
        twice = post(api, "/similar", ids=["pizza-38", "wine-10", "pizza-38"])
        once = post(api, "/similar", ids=["pizza-38", "wine-10"])
        assert {**twice, "ids": once["ids"]} == once

    def test_products_that_share_a_vector_and_half_precision_are_matched_too(
        self, build_of: Callable[..., Build], api_over: ApiOver
    ) -> None:
        vectors = np.random.default_rng(0).normal(size=(60, 8))
        vectors[40] = vectors[10]
        rows = [{"id": f"it's {i}", "name": "same", "vector": row} for i, row in enumerate(vectors.tolist())]
        api = api_over(Recommender(engine_of(build_of(rows, storage="fp16"))))
        answer = post(api, "/similar", ids=["it's 40"], k=3)
        assert answer["best"][0] == {"id": "it's 10", "name": "same", "score": 1.0}
        expected = Oracle(vectors).cosines(vectors[40:41])[0]
        assert [match["score"] for match in answer["best"]] == pytest.approx(np.sort(expected)[::-1][1:4], abs=1e-3)
        assert answer["worst"][0]["id"] == f"it's {expected.argmin()}"

    def test_negative_products_lead_away_and_are_left_out(self, api: Api, sample_products: SampleProducts) -> None:
        for ids, negative in ((["pizza-38"], ["pizza-07"]), (["pizza-38", "wine-10"], ["thai-01", "pizza-07"])):
            answer = post(api, "/similar", ids=ids, negative=[*negative, negative[0]], k=12, exclude=["pizza-01"])
            left_out = {*ids, *negative, "pizza-01"}
            check_similar(sample_products, answer, ids, 12, left_out, negative)
        assert post(api, "/similar", ids=ids, negative=[]) == post(api, "/similar", ids=ids)

    def test_negative_products_are_left_out_of_lists_with_every_option(self, api: Api) -> None:
        options = {"filter": {"cuisine": "pizza"}, "max_per": {"cuisine": 4}, "diversity": 0.3, "fields": ["cuisine"]}
        plain = post(api, "/similar", ids=["pizza-38"], negative=["pizza-07"], filter=options["filter"], k=9)
        answer = post(api, "/similar", ids=["pizza-38"], negative=["pizza-07"], k=9, explain=True, **options)
        assert answer["matched"] == plain["matched"] == 82
        assert answer["best"][0] == {**plain["best"][0], "fields": {"cuisine": "pizza"}}
        for side in ("best", "worst"):
            assert len(answer[side]) == 4
            assert not {"pizza-38", "pizza-07"} & {match["id"] for match in answer[side] + plain[side]}

    def test_products_that_cancel_out_with_negative_ones_have_no_direction(
        self, build_of: Callable[..., Build], api_over: ApiOver
    ) -> None:
        vectors = {"a": [0.5, 0.75**0.5], "b": [0.5, -(0.75**0.5)], "c": [3, 0], "d": [-1, 0]}
        rows = [{"id": name, "name": name, "vector": vector} for name, vector in vectors.items()]
        api = api_over(Recommender(engine_of(build_of(rows))))
        answer = api.post("/similar", b'{"ids": ["a", "b"], "negative": ["c"]}')
        detail = "ids and negative cancel out, which has no direction"
        refused(answer, Fault("/negative", "vector_zero", detail))
        found = post(api, "/similar", ids=["c", "d"], negative=["a"])  # Their mean alone has no direction.
        assert [match["id"] for match in found["best"]] == ["b"]

    @pytest.mark.parametrize(
        ("body", "faults"),
        [
            ("{}", [Fault("/ids", "missing", "ids is missing")]),
            (
                '{"ids": ["pizza-38", "pizza-07"], "negative": ["pizza-01", "pizza-07", "pizza-38"]}',
                [
                    Fault("/negative/1", "value", "negative element 1 is in ids too: 'pizza-07'"),
                    Fault("/negative/2", "value", "negative element 2 is in ids too: 'pizza-38'"),
                ],
            ),
            (
                '{"ids": ["pizza-38", "x"], "negative": ["y", "pizza-01"]}',
                [
                    Fault("/ids/1", "unknown_id", "ids element 1 is the id of no product: 'x'"),
                    Fault("/negative/0", "unknown_id", "negative element 0 is the id of no product: 'y'"),
                ],
            ),
            (
                '{"ids": ["pizza-38"], "negative": "x"}',
                [Fault("/negative", "type", "negative must be a list of product ids, not a string")],
            ),
            (
                json.dumps({"ids": ["pizza-38"], "negative": ["pizza-01"] * 1001}),
                [Fault("/negative", "range", "negative must have from 0 to 1000 product ids, not 1001")],
            ),
            ('{"ids": null}', [Fault("/ids", "null", "ids must not be null")]),
            ('{"ids": "x"}', [Fault("/ids", "type", "ids must be a list of product ids, not a string")]),
            ('{"ids": []}', [Fault("/ids", "range", "ids must have from 1 to 1000 product ids, not 0")]),
            (
                json.dumps({"ids": ["pizza-38"] * 1001}),
                [Fault("/ids", "range", "ids must have from 1 to 1000 product ids, not 1001")],
            ),
            (
                '{"ids": ["pizza-38", true]}',
                [Fault("/ids/1", "type", "ids element 1 must be a string or an integer, not a boolean")],
            ),
            (
                '{"ids": ["a", "pizza-38", "pizza-07", "PIZZA-38"], "k": 3}',
                [
                    Fault("/ids/0", "unknown_id", "ids element 0 is the id of no product: 'a'"),
                    Fault("/ids/3", "unknown_id", "ids element 3 is the id of no product: 'PIZZA-38'"),
                ],
            ),
            (
                r'{"ids": ["", "\ud800", "~~~"]}',
                [
                    Fault("/ids/0", "unknown_id", "ids element 0 is the id of no product: ''"),
                    Fault("/ids/1", "unknown_id", r"ids element 1 is the id of no product: '\ud800'"),
                    Fault("/ids/2", "unknown_id", "ids element 2 is the id of no product: '~~~'"),
                ],
            ),
            (
                '{"ids": ["pizza-38"], "k": 0, "exclude": "x"}',
                [
                    Fault("/k", "range", "k must be from 1 to 1000, not 0"),
                    Fault("/exclude", "type", "exclude must be a list of product ids, not a string"),
                ],
            ),
            ("[]", [Fault("", "type", "the body must be an object, not a list")]),
        ],
    )
    def test_a_body_that_does_not_fit_is_refused(self, api: Api, body: str, faults: list[Fault]) -> None:
        refused(api.post("/similar", body.encode()), *faults)
        api.check_alive()

    def test_only_twenty_unknown_ids_are_named_and_long_ones_are_cut(self, api: Api) -> None:
        answer = api.post("/similar", json.dumps({"ids": ["x" * 1000] * 30}).encode())
        detail = f"ids element {{}} is the id of no product: '{'x' * 60}'"
        refused(answer, *(Fault(f"/ids/{i}", "unknown_id", detail.format(i)) for i in range(20)))

    def test_products_whose_vectors_cancel_out_have_no_mean(
        self, build_of: Callable[..., Build], api_over: ApiOver
    ) -> None:
        rows = [
            {"id": name, "name": name, "vector": v} for name, v in (("a", [0.3, 1]), ("b", [-3, -10]), ("c", [1, 0]))
        ]
        api = api_over(Recommender(engine_of(build_of(rows))))
        answer = api.post("/similar", b'{"ids": ["a", "b"]}')
        detail = "ids are of products whose vectors cancel out, which leaves no direction"
        refused(answer, Fault("/ids", "vector_zero", detail))
        assert post(api, "/similar", ids=["a", "b", "c"]) == {"ids": ["a", "b", "c"], "best": [], "worst": []}

    def test_the_body_may_be_as_large_as_any(self, api_over: ApiOver) -> None:
        answer = api_over(max_body_bytes=20).post("/similar", b'{"ids": ["pizza-38"]}')
        check_problem(answer, 413, "the body is larger than the 20 bytes allowed")

    def test_a_body_that_is_not_json_is_refused(self, api: Api) -> None:
        assert api.post("/similar", b"{").status == 400


class TestMap:
    def test_all_products_of_a_small_catalogue_lie_where_numpy_puts_them(
        self, api: Api, sample_products: SampleProducts
    ) -> None:
        found = api.get("/map").json["products"]
        assert [(row["id"], row["name"]) for row in found] == [(row["id"], row["name"]) for row in sample_products.rows]
        points = np.array([[row["x"], row["y"]] for row in found])
        units = unit(sample_products.vectors)
        centred = units - units.mean(axis=0)
        expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        expected *= np.sign((points * expected).sum(axis=0)) / np.abs(expected).max()
        np.testing.assert_allclose(points, expected, rtol=0, atol=POINT_ERROR)

    def test_products_vectors_and_likes_are_placed_together(self, api: Api, sample_products: SampleProducts) -> None:
        sampled = {row["id"]: [row["x"], row["y"]] for row in api.get("/map").json["products"]}
        ids = ["wine-10", "pizza-38", "wine-10"]
        vector = sample_products.vectors[sample_products.positions["pizza-38"]]
        placed = post(api, "/map", ids=ids, vector=[7 * number for number in vector], likes=["wine-10"])
        assert list(placed) == ["products", "vector", "likes"]
        np.testing.assert_allclose(placed["products"], [sampled[name] for name in ids], atol=1.01e-4)
        np.testing.assert_allclose(placed["vector"], sampled["pizza-38"], atol=1.01e-4)
        np.testing.assert_allclose(placed["likes"], sampled["wine-10"], atol=1.01e-4)

    def test_a_user_with_several_likes_lies_where_their_mean_lies(
        self, api: Api, sample_products: SampleProducts
    ) -> None:
        ids = ["wine-10", "pizza-38", "korean-07"]
        by_likes = post(api, "/map", likes=ids)["likes"]
        by_vector = post(api, "/map", vector=unit_mean(sample_products, ids).tolist())["vector"]
        np.testing.assert_allclose(by_likes, by_vector, atol=1.01e-4)

    def test_nothing_asked_is_nothing_placed(self, api: Api) -> None:
        assert post(api, "/map") == {"products": [], "vector": None, "likes": None}

    def test_a_body_that_does_not_fit_is_refused_with_every_fault(self, api: Api) -> None:
        answer = api.post("/map", b'{"ids": [1.5], "vector": [1, 2], "likes": "x"}')
        refused(
            answer,
            Fault("/ids/0", "type", "ids element 0 must be a string or an integer, not a number"),
            Fault("/vector", "vector_dimension", "vector has 2 numbers, 300 are expected"),
            Fault("/likes", "type", "likes must be a list of product ids, not a string"),
        )
        unknown = Fault("/likes/0", "unknown_id", "likes element 0 is the id of no product: 'nope'")
        refused(api.post("/map", b'{"likes": ["nope"]}'), unknown)


class TestSamples:
    def test_the_first_twelve_users_of_the_queries_file_are_offered(
        self, api: Api, sample_users: list[dict[str, Any]]
    ) -> None:
        expected = [{key: user[key] for key in ("name", "likes", "vector")} for user in sample_users[:12]]
        assert api.get("/samples").json == {"users": expected}

    def test_each_of_them_can_be_sent_as_it_is(self, api: Api) -> None:
        for user in api.get("/samples").json["users"]:
            assert api.infer(json.dumps(user).encode()).json["name"] == user["name"]

    def test_without_a_queries_file_there_are_none(self, build_of: Callable[..., Build]) -> None:
        assert build_of([{"id": "a", "vector": [1, 0], "name": "a"}]).sample_users == []

    def test_users_without_a_name_are_left_out_and_likes_that_are_no_texts_too(
        self, build_of: Callable[..., Build], tmp_path: Path
    ) -> None:
        users: list[dict[str, Any]] = [
            {"vector": [1, 2]},
            {"name": "", "vector": [1, 2]},
            {"name": 7, "vector": [1, 2]},
            {"name": "\ud800", "vector": [1, 2]},
            {"name": HOSTILE, "vector": [1, 2], "likes": "pizza"},
            {"name": "mike", "vector": [0.25, 1e-30], "likes": ["pizza", 7]},
            {"name": "zoe", "vector": [3, 4], "likes": ["gin", "lime"], "age": 30},
        ]
        queries = tmp_path / "users.jsonl"
        queries.write_text("".join(json.dumps(user) + "\n" for user in users))
        assert build_of([{"id": "a", "vector": [1, 0], "name": "a"}], queries=queries).sample_users == [
            {"name": HOSTILE, "likes": [], "vector": [1.0, 2.0]},
            {"name": "mike", "likes": [], "vector": [0.25, 1e-30]},
            {"name": "zoe", "likes": ["gin", "lime"], "vector": [3.0, 4.0]},
        ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/products?prefix=p", None),
        ("POST", "/similar", b'{"ids": ["east"]}'),
        ("GET", "/map", None),
        ("POST", "/map", b"{}"),
        ("GET", "/samples", None),
    ],
)
def test_an_engine_that_looks_nothing_up_says_so(api_over: ApiOver, method: str, path: str, body: bytes | None) -> None:
    answer = api_over(Recommender(compass())).request(method, path, body)
    check_problem(answer, 501, "the fake engine does not look products up; /infer and /batch work")


PAGES = {
    "/": "text/html; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/static/explorer/explorer.css": "text/css; charset=utf-8",
    "/static/explorer/explorer.js": "text/javascript; charset=utf-8",
    "/static/explorer/explorer.svg": "image/svg+xml",
    "/static/docs/docs.css": "text/css; charset=utf-8",
    "/static/docs/docs.js": "text/javascript; charset=utf-8",
}
STATIC = Path(__file__).parent.parent.parent / "service" / "http" / "static"
HTML = {"/": "explorer/explorer.html", "/docs": "docs/docs.html"}


class TestPages:
    @pytest.mark.parametrize("path", PAGES)
    def test_a_page_comes_from_its_file_and_may_load_nothing_from_elsewhere(self, api: Api, path: str) -> None:
        answer = api.get(path)
        name = HTML.get(path) or path.removeprefix("/static/")
        assert (answer.status, answer.body) == (200, (STATIC / name).read_bytes())
        headers = {name: answer.headers[name] for name in ("Content-Type", "Cache-Control", "X-Content-Type-Options")}
        assert headers == {
            "Content-Type": PAGES[path],
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    @pytest.mark.parametrize("path", PAGES)
    def test_a_browser_that_has_it_is_told_to_keep_it(self, api: Api, path: str) -> None:
        etag = api.get(path).headers["ETag"]
        again = api.request("GET", path, headers={"If-None-Match": etag})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
        changed = api.request("GET", path, headers={"If-None-Match": '"another"'})
        assert (changed.status, changed.body) == (200, api.get(path).body)

    def test_no_page_names_another_host(self) -> None:
        files = [path for page in HTML.values() for path in (STATIC / page).parent.iterdir()]
        addresses = {name for path in files for name in re.findall(r"https?://[^\s\"']+", path.read_text())}
        assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody loads

    def test_no_page_makes_html_from_texts(self) -> None:
        """What a catalogue or a user says would be read as HTML there."""
        makers = r"innerHTML|outerHTML|insertAdjacentHTML|setHTML\w*|document\.write|DOMParser|createContextualFragment"
        for page in HTML.values():
            for path in (STATIC / page).parent.iterdir():
                assert re.findall(rf"{makers}|\beval\(|new Function|srcdoc|\bon[a-z]+=", path.read_text()) == [], (
                    path.name
                )

    def test_pages_and_scripts_name_everything_relative_to_the_page(self) -> None:
        """A proxy may serve them under a prefix."""
        for page in HTML.values():
            for path in (STATIC / page).parent.iterdir():
                found = re.findall(r"(?:href|src|from|import|fetch)\W{1,3}[\"'`]/[^\"'`]*", path.read_text())
                assert found == [], path.name

    @pytest.mark.parametrize("path", ["/static/x.js", "/static/openapi.json", "/static/../openapi.py", "/explorer.js"])
    def test_no_other_file_is_served(self, api: Api, path: str) -> None:
        assert api.get(path).status == 404

    def test_with_api_keys_pages_are_open_and_answers_are_not(self, served_api_over: ApiOver) -> None:
        api = served_api_over(api_keys=("secret",))
        assert {path: api.get(path).status for path in PAGES} == dict.fromkeys(PAGES, 200)
        assert api.get("/products?prefix=p").status == 401
        assert api.get("/samples").headers["Content-Type"] == PROBLEM
        key = {"X-API-Key": "secret"}
        assert api.request("GET", "/products?prefix=p", headers=key).status == 200
        assert api.request("POST", "/infer", user_json(), key).status == 200


def test_the_most_ids_and_completions_are_limits(api_over: ApiOver) -> None:
    api = api_over(limits=Limits(max_ids=2, max_completions=5))
    refused(api.get("/products?prefix=p&limit=6"), Fault("/limit", "range", "limit must be from 1 to 5, not 6"))
    assert len(products(api, prefix="p")) == 5
    detail = "ids must have from 0 to 2 product ids, not 3"
    refused(api.post("/map", b'{"ids": ["a", "b", "c"]}'), Fault("/ids", "range", detail))
