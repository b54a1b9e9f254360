"""What the explorer page can be asked beyond a user: filters, exclusions, colours, addresses, in a real browser."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from index_builder.pipelines.build import BuildRequest, build
from tests.support.browser import OpenPage, playwright
from tests.support.catalogues import write_lines
from tests.support.explorer import answer_to, check_shown, choose_likes, names, picture, samples
from tests.support.sample import read_products
from tests.support.server import Server, serving

expect = playwright.expect
WORDS = ["premium", "stainless", "insulated", "bottle", "bamboo", "lid", "leakproof", "hiking", "réfrigérateur"]


def shop_rows() -> list[dict[str, Any]]:
    """Products with long names and fields of every type; one of fifty lies far from the rest."""
    draw = np.random.default_rng(4)
    rows = []
    for i in range(1200):
        far = 8 * draw.normal(size=2) if i % 50 == 0 else draw.normal(size=2) / 5
        name = " ".join(draw.choice(WORDS, draw.integers(8, 16)))
        fields = {
            "price": round(float(draw.lognormal(3, 1)), 2),
            "stock": bool(draw.random() < 0.7),
            "shop": {"no": i % 40},
        }
        rows.append({"id": f"sku-{i}", "name": name, **fields, "vector": [*far.tolist(), 3.0]})
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("shop")
    products = write_lines(directory / "products.jsonl", shop_rows())
    build(BuildRequest(products=products, out=directory / "artifacts", allow_low_recall=True))
    with serving(directory / "artifacts", RECO_WORKERS="1") as server:
        yield server


def add_condition(page: Any, field: str) -> Any:
    page.locator("#add-condition").select_option(field)
    return page.locator(f"[data-field='{field}']")


def sent(page: Any) -> dict[str, Any]:
    """The request that the page shows."""
    request: dict[str, Any] = json.loads(page.locator("#request").text_content().partition("\n\n")[2])
    return request


def centre(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_filter_is_chosen_from_the_values_that_the_catalogue_has(server: Server, open_page: OpenPage) -> None:
    page, user, rows = open_page(), samples(server)[0], read_products().rows
    sections = add_condition(page, "section").locator("label")
    counts = Counter(row["section"] for row in rows)
    expected = sorted(counts, key=lambda value: (-counts[value], value))
    expect(sections).to_have_text([f"{value}{counts[value]:,}" for value in expected])
    sections.filter(has_text="kitchen").locator("input").check()
    sections.filter(has_text="drinks").locator("input").check()
    foods = add_condition(page, "foods")
    foods.get_by_role("combobox").press_sequentially("TOF")
    tofu = sum("tofu" in row["foods"] for row in rows)
    expect(foods.locator("[role=option]")).to_have_text([f"tofu · {tofu}"])
    page.keyboard.press("Enter")
    page.locator("summary").click()
    page.locator("#fields").get_by_label("tags", exact=True).check()
    query = {"section": {"$in": ["kitchen", "drinks"]}, "foods": "tofu"}
    answer = answer_to(server, "/infer", **user, filter=query, fields=["tags"])
    check_shown(page, answer)
    assert (sent(page)["filter"], sent(page)["fields"]) == (query, ["tags"])
    expect(page.locator("#matched")).to_have_text(f"{answer['matched']} products match the filter.")
    tags = [", ".join(match["fields"]["tags"]) for match in answer["best"]]
    assert page.locator("#best .fields").all_text_contents() == [f"tags {each}" if each else "" for each in tags]
    picture(page, "filter")
    foods.get_by_role("button", name="Remove tofu").click()
    page.get_by_role("button", name="Remove the filter by section").click()
    check_shown(page, answer_to(server, "/infer", **user))


def test_numbers_are_filtered_by_two_ends_and_truth_by_its_values(shop: Server, open_page: OpenPage) -> None:
    page, prices = open_page(shop, path="#mode=likes&like=sku-1"), [row["price"] for row in shop_rows()]
    price = add_condition(page, "price")
    low, high = price.get_by_label("price from"), price.get_by_label("price to")
    expect(low).to_have_attribute("placeholder", f"{min(prices):g}")
    expect(high).to_have_attribute("placeholder", f"{max(prices):g}")
    low.fill("12.5")
    high.fill("30")
    add_condition(page, "stock").get_by_label("true").check()
    query = {"price": {"$gte": 12.5, "$lte": 30}, "stock": True}
    check_shown(page, answer_to(shop, "/similar", ids=["sku-1"], filter=query))
    high.fill("")
    high.press("Tab")
    check_shown(page, answer_to(shop, "/similar", ids=["sku-1"], filter={"price": {"$gte": 12.5}, "stock": True}))


def test_an_address_shows_the_same_page_to_somebody_else(server: Server, open_page: OpenPage) -> None:
    query = {"cuisine": {"$in": ["thai", "wine"]}, "$not": {"tags": "fried"}}
    first = open_page()
    first.get_by_role("radio", name="Vector").check()
    user = {**samples(server)[3], "k": 4, "exclude": ["thai-01", "wine-05", 7], "filter": query, "fields": ["cuisine"]}
    first.locator("#vector").fill(json.dumps(user))
    first.get_by_role("button", name="Run").click()
    expected = answer_to(server, "/infer", **user)
    check_shown(first, expected)
    assert first.locator("#k").input_value() == "4"
    left_out = [row["name"] for row in read_products().rows if row["id"] in user["exclude"]] + ["7"]
    expect(first.locator("#excluded span")).to_have_text(left_out)
    first.locator("#colour").select_option("section")
    expect(first.locator("#colours li")).to_have_count(5)
    second = open_page(path=first.url.partition("/#")[2].join(["#", ""]))
    check_shown(second, expected)
    expect(second.locator("#excluded span")).to_have_text(left_out)
    expect(second.locator("#colours li")).to_have_count(5)
    assert sent(second) == sent(first)
    second.get_by_role("button", name=f"Take back {left_out[0]}").click()
    check_shown(second, answer_to(server, "/infer", **{**user, "exclude": ["wine-05", 7]}))
    assert {"404" in complaint for complaint in first.complaints} == {True}  # about the name of a product 7
    first.complaints.clear()


def test_exclusions_survive_a_change_of_user(server: Server, open_page: OpenPage) -> None:
    page, users = open_page(), samples(server)
    out = answer_to(server, "/infer", **users[1])["best"][0]
    page.locator("#sample").select_option(label=users[1]["name"])
    page.get_by_role("button", name=f"Exclude {out['name']}", exact=True).click()
    page.get_by_role("radio", name="Likes").check()
    page.get_by_role("radio", name="Sample").check()
    check_shown(page, answer_to(server, "/infer", **users[1], exclude=[out["id"]]))
    page.locator("#sample").select_option(label=users[2]["name"])
    check_shown(page, answer_to(server, "/infer", **users[2], exclude=[out["id"]]))


def test_a_row_shows_its_place_and_a_place_its_row(open_page: OpenPage) -> None:
    page = open_page()
    for side, nth in (("best", 2), ("worst", 4)):
        page.locator(f"#{side} li").nth(nth).hover()
        mark = page.locator(f"#marks .{side}").nth(nth).bounding_box()
        spot = centre(page, "#spot")
        assert spot == pytest.approx((mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2), abs=1)
        expect(page.locator("#tip")).to_have_text(names(page, side)[nth])
    page.mouse.move(0, 0)
    expect(page.locator("#spot")).to_be_hidden()
    page.locator("#marks .best").nth(3).focus()
    expect(page.locator(".bars .shown .name")).to_have_text(names(page, "best")[3])


def test_liked_products_are_marked(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    choose_likes(page, "margherita pizza", "napa cabbage kimchi")
    expect(page.locator("#marks .liked")).to_have_count(2)
    ids = sent(page)["ids"]
    placed = answer_to(server, "/map", ids=ids, likes=ids)
    scale = page.locator("#map").bounding_box()["width"]
    [first, second] = [mark.bounding_box() for mark in page.locator("#marks .liked").all()]
    user = page.locator("#marks .user").bounding_box()
    along = (placed["likes"][0] - placed["products"][0][0]) / (placed["products"][1][0] - placed["products"][0][0])
    assert (user["x"] - first["x"]) / (second["x"] - first["x"]) == pytest.approx(along, abs=3 / scale + 0.03)


def test_long_names_are_whole_at_every_width(shop: Server, open_page: OpenPage) -> None:
    page = open_page(shop, path="#mode=likes&like=sku-1&field=*&colour=price")
    cut = "names => names.filter((name) => name.scrollHeight > name.clientHeight + 1).length"
    for width in (380, 800, 1181, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".bars .name").evaluate_all(cut) == 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        picture(page, f"long names, {width} pixels wide")


def test_a_thousand_matches_stay_in_their_lists(shop: Server, open_page: OpenPage) -> None:
    page = open_page(shop, path="#mode=likes&like=sku-1&k=1000")
    expect(page.locator("#best li")).to_have_count(1000)
    assert page.evaluate("document.documentElement.scrollHeight") < 2000
    page.locator("#worst li").last.hover()
    expect(page.locator("#spot")).to_be_visible()


def test_outliers_leave_room_for_the_rest_of_the_map(shop: Server, open_page: OpenPage) -> None:
    points = {p["id"]: p["x"] for p in shop.send("GET", "/map", None, {}).json["products"]}
    order = sorted(points, key=lambda name: points[name])
    left, right = order[len(order) // 10], order[-len(order) // 10]
    assert points[right] - points[left] < 0.2  # of 2: on a map that holds all, they would be as near to each other
    page = open_page(shop, path=f"#mode=likes&like={left}&like={right}&like={order[0]}")
    boxes = [mark.bounding_box() for mark in page.locator("#marks .liked").all()]
    size = page.locator("#map").bounding_box()["width"]
    assert boxes[1]["x"] - boxes[0]["x"] > 0.2 * size
    expect(page.locator("#marks .liked.outside")).to_have_count(1)
    outside = page.locator("#marks .liked.outside").bounding_box()
    edge = page.locator("#map").bounding_box()
    assert edge["x"] - 11 <= outside["x"] <= edge["x"] + 11


def test_a_bad_vector_is_one_sentence_and_a_count(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("radio", name="Vector").check()
    page.locator("#vector").fill(json.dumps(["x"] * 300))
    page.get_by_role("button", name="Run").click()
    text = "Unprocessable Entity: vector element 0 is a string, not a number (and 299 more faults)"
    expect(page.get_by_role("alert")).to_have_text(text)
    page.complaints.clear()  # A browser reports every refusal itself.


def test_pages_work_behind_a_prefix(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    origin = f"http://127.0.0.1:{server.port}"
    asked: list[str] = []

    def without_prefix(route: Any) -> None:
        asked.append(route.request.url)
        inner = route.request.url.replace(f"{origin}/reco/", f"{origin}/")
        route.fulfill(response=route.fetch(url=inner))

    page.route("**/*", without_prefix)
    page.goto(f"{origin}/reco/")
    check_shown(page, answer_to(server, "/infer", **samples(server)[0]))
    assert f"{origin}/reco/infer" in page.locator("#curl").text_content()
    page.get_by_role("link", name="API documents").click()
    page.locator("#operations section").first.wait_for()
    page.locator("#infer button.main").click()
    expect(page.locator("#infer [role=status]")).to_contain_text("200 in")
    page.get_by_role("link", name="Explorer").click()
    page.locator("#marks button").first.wait_for()
    assert [url for url in asked if not url.startswith(f"{origin}/reco/")] == []
