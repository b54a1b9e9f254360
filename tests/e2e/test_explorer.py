"""The explorer page in a real browser. Screenshots are kept in `test-output/explorer`."""

import io
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from index_builder.pipelines.build import BuildRequest, build
from service.http.app import create_app
from service.recommender import Recommender, Serving
from service.settings import Settings
from tests.support.browser import OpenPage, playwright
from tests.support.catalogues import write_lines
from tests.support.explorer import MINUS, answer_to, check_shown, choose_likes, names, picture, samples, scores
from tests.support.fake_engine import compass
from tests.support.sample import read_products
from tests.support.server import Server, serving

HOSTILE = '<img src=x onerror="window.hacked = 1">'
SCRIPT = "</script><script>window.hacked = 1</script>"
QUOTES = "it's a \"quoted\" 'name' & $(rm) `x`"


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Products and users whose names are markup, code, very long or right to left; half of the scores are negative."""
    directory = tmp_path_factory.mktemp("hostile")
    names = [HOSTILE, SCRIPT, QUOTES, "{{7*7}}", "שלום עולם", "x" * 500, "", "  "]
    rows = [
        {"id": f"{name[:30]} {i}", "name": name, "vector": [1.0 - i / 3, 0.5, i % 3]} for i, name in enumerate(names)
    ]
    users = [{"name": HOSTILE, "likes": [SCRIPT], "vector": [1, 0.2, 0]}, {"name": QUOTES, "vector": [0, 1, 0]}]
    products = write_lines(directory / "products.jsonl", rows)
    queries = write_lines(directory / "users.jsonl", users)
    build(BuildRequest(products=products, out=directory / "artifacts", queries=queries))
    with serving(directory / "artifacts", RECO_WORKERS="1") as server:
        yield server


def test_the_page_opens_with_the_matches_of_a_sample_user(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    users = samples(server)
    check_shown(page, answer_to(server, "/infer", **users[0]))
    assert page.locator("#sample option").all_text_contents() == [user["name"] for user in users]
    assert page.locator("#sample-likes").text_content() == f"Likes {', '.join(users[0]['likes'])}."
    assert page.locator("#index-facts").text_content() == "2,460 products, 300 dimensions"
    picture(page, "sample user")


def test_the_report_of_the_index_is_a_link_away_and_looks_as_it_should(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("link", name="Report of the index").click()
    playwright.expect(page.get_by_role("heading", name="Recall under filters")).to_be_visible()
    assert page.title() == "Flat over 2,460 products"
    assert page.evaluate("getComputedStyle(document.body).maxWidth") == "1100px"
    assert page.locator("figure svg").count() == 6
    picture(page, "report")


def test_another_sample_user_gets_their_own_matches(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[5]
    page.locator("#sample").select_option(label=user["name"])
    check_shown(page, answer_to(server, "/infer", **user))


def test_bars_are_as_long_as_their_scores(open_page: OpenPage) -> None:
    page = open_page()
    for side in ("best", "worst"):
        tracks = page.locator(f"#{side} .track").evaluate_all("tracks => tracks.map((t) => t.clientWidth)")
        bars = page.locator(f"#{side} .bar").evaluate_all("bars => bars.map((b) => b.getBoundingClientRect().width)")
        shown = [bar / track for bar, track in zip(bars, tracks, strict=True)]
        assert shown == pytest.approx(list(map(float, scores(page, side))), abs=0.01)


def test_marks_lie_where_the_service_places_them(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[0]
    answer = answer_to(server, "/infer", **user)
    ids = [match["id"] for side in ("best", "worst") for match in answer[side]]
    placed = answer_to(server, "/map", ids=ids, vector=user["vector"])
    points = [placed["vector"], *placed["products"]]
    boxes = [mark.bounding_box() for mark in page.locator("#marks button").all()]
    centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    left, top = ([centre[axis] for centre in centres] for axis in (0, 1))
    size = 1.1 * max(extent([p["x"] for p in sampled_points(server)]), extent([p["y"] for p in sampled_points(server)]))
    scale = page.locator("#map").bounding_box()["width"] / size
    for axis, pixels, sign in ((0, left, 1), (1, top, -1)):
        expected = [sign * scale * (point[axis] - points[0][axis]) for point in points]
        assert [pixel - pixels[0] for pixel in pixels] == pytest.approx(expected, abs=1.5)


def sampled_points(server: Server) -> list[dict[str, Any]]:
    return server.send("GET", "/map", None, {}).json["products"]


def extent(values: list[float]) -> float:
    return max(values) - min(values)


def test_the_map_shows_the_catalogue(open_page: OpenPage) -> None:
    page = open_page()
    inked = page.evaluate(
        """() => {
            const canvas = document.querySelector("#map canvas");
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return pixels.filter((_, i) => i % 4 === 3 && pixels[i] > 0).length;
        }"""
    )
    assert inked > 2460


def with_word(text: str) -> list[str]:
    """The first ten names that begin with a text, and then those with a word that does."""
    found = sorted(
        (row["name"] for row in read_products().rows if f" {text}" in f" {row['name'].lower()}"), key=str.lower
    )
    return sorted(found, key=lambda name: not name.lower().startswith(text))[:10]


def test_names_are_typed_completed_and_chosen_with_the_keyboard_alone(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("radio", name="Sample").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("pIz")
    options = page.locator("#completions [role=option]")
    expected = with_word("piz")
    playwright.expect(options).to_have_text(expected)
    assert page.locator("#like").get_attribute("aria-expanded") == "true"

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    active = page.locator("#like").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").text_content() == expected[1]
    picture(page, "completion", whole=False)
    with page.expect_response("**/similar") as similar:
        page.keyboard.press("Enter")
    [identifier] = similar.value.request.post_data_json["ids"]
    check_shown(page, answer_to(server, "/similar", ids=[identifier]))
    assert page.locator("#likes span").all_text_contents() == [expected[1]]
    assert page.locator("#like").input_value() == ""

    page.keyboard.type("pi")
    options.first.wait_for()
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#completions")).to_be_hidden()
    assert page.locator("#like").input_value() == "pi"
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    assert page.locator("#likes li").count() == 1
    page.keyboard.press("Backspace")
    playwright.expect(page.locator("#likes li")).to_have_count(0)
    playwright.expect(page.locator("#best")).to_have_text("Add a product that this user likes.")


def test_several_likes_are_one_user_and_each_can_be_removed(server: Server, open_page: OpenPage) -> None:
    page = open_page()
    choose_likes(page, "margherita pizza", "kimchi", "tom col")
    liked = page.locator("#likes span").all_text_contents()
    rows = {row["name"]: row["id"] for row in read_products().rows}
    check_shown(page, answer_to(server, "/similar", ids=[rows[name] for name in liked]))
    picture(page, "likes")
    page.get_by_role("button", name=f"Remove {liked[1]}").click()
    check_shown(page, answer_to(server, "/similar", ids=[rows[liked[0]], rows[liked[2]]]))


def test_a_name_that_no_product_has_completes_to_nothing(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("radio", name="Likes").check()
    page.locator("#like").press_sequentially("qqqq")
    playwright.expect(page.locator("#completions")).to_have_text("No product's name contains this.")
    page.keyboard.press("Enter")
    assert page.locator("#likes li").count() == 0


def test_k_changes_how_many_matches_are_shown(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[0]
    for k in (3, 25):
        page.locator("#k").fill(str(k))
        page.keyboard.press("Enter")
        check_shown(page, answer_to(server, "/infer", **user, k=k))


def test_an_excluded_match_makes_room_and_can_be_taken_back(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[0]
    first = answer_to(server, "/infer", **user)
    out = [first["best"][2], first["worst"][0]]
    for match in out:
        page.get_by_role("button", name=f"Exclude {match['name']}", exact=True).click()
        playwright.expect(page.locator("#excluded")).to_contain_text(match["name"])
    check_shown(page, answer_to(server, "/infer", **user, exclude=[match["id"] for match in out]))
    assert json.loads(page.locator("#request").text_content().partition("\n\n")[2])["exclude"] == [m["id"] for m in out]
    picture(page, "excluded")
    page.get_by_role("button", name=f"Take back {out[0]['name']}").click()
    check_shown(page, answer_to(server, "/infer", **user, exclude=[out[1]["id"]]))


def test_the_focus_stays_in_the_list_when_matches_are_excluded_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    before = names(page, "best")
    page.get_by_role("button", name=f"Exclude {before[0]}", exact=True).focus()
    for gone in (1, 2):
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#excluded li")).to_have_count(gone)
        label = page.locator("#best button").first.get_attribute("aria-label")
        assert label == f"Exclude {before[gone]}"
        page.wait_for_function("label => document.activeElement.getAttribute('aria-label') === label", arg=label)


def test_the_copied_command_gives_the_answer_shown(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Copy").click()
    playwright.expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == page.locator("#curl").text_content()
    ran = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30, check=True)
    assert json.loads(ran.stdout) == json.loads(page.locator("#answer").text_content())


def test_a_pasted_vector_or_user_is_answered_and_a_bad_one_explained(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[2]
    page.get_by_role("radio", name="Vector").check()
    field, problem = page.locator("#vector"), page.get_by_role("alert")
    for pasted in (user["vector"], user):
        field.fill(json.dumps(pasted))
        page.get_by_role("button", name="Run").click()
        check_shown(page, answer_to(server, "/infer", name="x", vector=user["vector"]))
    field.fill("[1, 2")
    page.get_by_role("button", name="Run").click()
    playwright.expect(problem).to_contain_text("The vector is not JSON")
    field.fill("[1, 2]")
    page.get_by_role("button", name="Run").click()
    playwright.expect(problem).to_have_text("Unprocessable Entity: vector has 2 numbers, 300 are expected")
    assert page.locator(".bars .name").count() == page.locator("#marks button").count() == 0
    assert [complaint for complaint in page.complaints if "422" not in complaint] == []
    page.complaints.clear()  # a browser reports every refusal itself


def test_matches_on_the_map_are_named_when_focused_and_pointed_at(server: Server, open_page: OpenPage) -> None:
    page, user = open_page(), samples(server)[0]
    answer = answer_to(server, "/infer", **user)
    tip = page.locator("#tip")
    page.locator("#marks button").first.focus()
    playwright.expect(tip).to_have_text(user["name"])
    page.keyboard.press("ArrowRight")
    best = answer["best"][0]
    playwright.expect(tip).to_have_text(f"{best['name']} · best {best['score']:.3f}")
    playwright.expect(page.locator("#best .shown .name")).to_have_text(best["name"])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    playwright.expect(tip).to_contain_text(f"{answer['worst'][-1]['name']} · worst")
    page.locator("#marks .worst").first.hover(force=True)
    playwright.expect(tip).to_contain_text("· worst")
    picture(page, "map", whole=False)


@pytest.mark.parametrize(("width", "sides_beside"), [(380, False), (320, False), (700, True), (1000, True)])
def test_a_narrow_screen_needs_no_scrolling_sideways(open_page: OpenPage, width: int, sides_beside: bool) -> None:
    page = open_page(width=width, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    best, worst = (page.locator(f"section.{side}").bounding_box() for side in ("best", "worst"))
    assert (best["y"] == worst["y"]) == sides_beside
    picture(page, f"{width} pixels wide")


def test_dark_screens_get_light_text_on_a_dark_page(open_page: OpenPage) -> None:
    page = open_page(dark=True)
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert text > 600
    assert ground < 120
    picture(page, "dark")


def test_names_that_are_markup_show_as_text(hostile_server: Server, open_page: OpenPage) -> None:
    page = open_page(hostile_server)
    answer = answer_to(hostile_server, "/infer", **samples(hostile_server)[0])
    shown = names(page, "best")
    assert shown == [match["name"] if match["name"].strip() else match["id"] for match in answer["best"]]
    assert {HOSTILE, SCRIPT, QUOTES} < set(shown)
    assert page.locator("#sample option").all_text_contents() == [HOSTILE, QUOTES]
    assert page.locator("#sample-likes").text_content() == f"Likes {SCRIPT}."
    for mark in page.locator("#marks button").all():
        mark.focus()
    page.locator("#marks button").first.focus()
    playwright.expect(page.locator("#tip")).to_have_text(HOSTILE)
    choose_likes(page, "<im", "</scr", "it's")
    assert page.locator("#likes span").all_text_contents() == [HOSTILE, SCRIPT, QUOTES]
    page.locator("#best button").first.click()
    playwright.expect(page.locator("#excluded li")).to_have_count(1)
    assert page.evaluate("[window.hacked, document.images.length, document.scripts.length]") == [None, 0, 1]
    assert page.evaluate("document.documentElement.scrollWidth") == 1440
    overflowing = "panels => panels.filter((panel) => panel.scrollWidth > panel.clientWidth).map((panel) => panel.id)"
    assert page.locator("#ask, #results, #map-panel, #raw").evaluate_all(overflowing) == []
    picture(page, "hostile names")


def test_a_command_with_quotes_survives_the_shell(hostile_server: Server, open_page: OpenPage) -> None:
    page = open_page(hostile_server)
    page.locator("#sample").select_option(label=QUOTES)
    playwright.expect(page.locator("#answer")).to_contain_text("rm")
    command = page.locator("#curl").text_content()
    ran = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30, check=True)
    assert json.loads(ran.stdout) == json.loads(page.locator("#answer").text_content())
    assert json.loads(ran.stdout)["name"] == QUOTES


def test_negative_scores_reach_left_of_zero(hostile_server: Server, open_page: OpenPage) -> None:
    page = open_page(hostile_server)
    lowest = page.locator("#worst li").first
    assert lowest.locator(".score").text_content().startswith(MINUS)
    bar, zero, track = (lowest.locator(part).bounding_box() for part in (".bar", ".zero", ".track"))
    assert bar["x"] == pytest.approx(track["x"], abs=1)
    assert bar["x"] + bar["width"] == pytest.approx(zero["x"], abs=1)


def test_a_service_with_keys_is_explored_with_one(sample_artifacts: Path, open_page: OpenPage) -> None:
    with serving(sample_artifacts, RECO_API_KEYS="secret", RECO_WORKERS="1") as server:
        page = open_page(server, shown_first="#key")
        page.locator("#key").fill("secret")
        page.keyboard.press("Enter")
        page.locator("#marks button").first.wait_for()
        assert names(page, "best")
        assert "secret" not in page.content()
        assert "$RECO_API_KEY" in page.locator("#curl").text_content()
        playwright.expect(page.locator("#report")).to_be_hidden()
        assert all("401" in complaint for complaint in page.complaints)
        page.complaints.clear()


def test_an_engine_that_looks_nothing_up_is_explored_with_vectors(open_page: OpenPage) -> None:
    app = create_app(Serving(Recommender(compass())), Settings())

    def with_whole_bodies(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        return app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    with make_server("127.0.0.1", 0, with_whole_bodies, threaded=True) as served:
        threading.Thread(target=served.serve_forever).start()
        try:
            page = open_page(served, shown_first="#vector")
            playwright.expect(page.locator("#vector")).to_be_visible()
            assert page.locator("#modes input:disabled").count() == 2
            page.locator("#vector").fill("[3, 4]")
            page.get_by_role("button", name="Run").click()
            playwright.expect(page.locator("#best .name")).to_have_text(
                ["the north_east", "the north", "the east", "the west"]
            )
            assert scores(page, "best") == ["1.000", "0.800", "0.600", f"{MINUS}0.600"]
            playwright.expect(page.locator("#map-panel")).to_be_hidden()
            playwright.expect(page.get_by_role("alert")).to_be_hidden()
        finally:
            served.shutdown()
    assert [complaint for complaint in page.complaints if "501" not in complaint] == []
    page.complaints.clear()
