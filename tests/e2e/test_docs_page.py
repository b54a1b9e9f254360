"""The page of API documents in a real browser. Screenshots are kept in `test-output/docs`."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import OpenPage, playwright
from tests.support.server import ROOT, Server, serving

PICTURES = ROOT / "test-output" / "docs"
FIRST = "#operations section"


@pytest.fixture
def document(server: Server) -> dict[str, Any]:
    body = server.send("GET", "/openapi.json", None, {}).body
    read: dict[str, Any] = json.loads(body)
    return read


def operation(page: Any, method: str, path: str) -> Any:
    """The part of the page about an operation."""
    heading = page.locator("h3", has_text=re.compile(f"^{method}{re.escape(path)}(needs an API key)?$"))
    return page.locator(FIRST).filter(has=heading)


def test_every_operation_is_listed_and_described(document: dict[str, Any], open_page: OpenPage) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert set(page.locator("#contents a").all_text_contents()) == described
    assert "POST /infer" in described
    for line in described:
        playwright.expect(operation(page, *line.split(" ", 1))).to_have_count(1)
    for link in page.locator("#contents a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "docs.png", full_page=True)


@pytest.mark.parametrize(("method", "path"), [("POST", "/infer"), ("POST", "/batch"), ("GET", "/index")])
def test_an_example_is_sent_and_its_answer_shown(server: Server, open_page: OpenPage, method: str, path: str) -> None:
    part = operation(open_page(path="docs", shown_first=FIRST), method, path)
    body = part.locator("textarea").input_value() if method == "POST" else None
    part.get_by_role("button", name="Send").click()
    playwright.expect(part.locator(".bar [role=status]")).to_contain_text("200 in")
    shown = json.loads(part.locator(".bar + pre").text_content())
    assert shown == server.send(method, path, body and body.encode(), {"Content-Type": "application/json"}).json


def test_a_changed_example_that_is_refused_says_why(open_page: OpenPage) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    part = operation(page, "POST", "/infer")
    part.locator("textarea").fill('{"name": "mike", "vector": [1, 2]}')
    part.get_by_role("button", name="Send").click()
    playwright.expect(part.locator(".bar .bad")).to_contain_text("422 in")
    playwright.expect(part.locator(".bar + pre")).to_contain_text("vector has 2 numbers, 300 are expected")
    assert all("422" in complaint for complaint in page.complaints)
    page.complaints.clear()


def test_lines_are_sent_as_lines(open_page: OpenPage) -> None:
    part = operation(open_page(path="docs", shown_first=FIRST), "POST", "/batch")
    part.get_by_label("Content type").select_option("application/x-ndjson")
    lines = part.locator("textarea").input_value().strip().split("\n")
    part.get_by_role("button", name="Send").click()
    playwright.expect(part.locator(".bar [role=status]")).to_contain_text("200 in")
    answers = part.locator(".bar + pre").text_content().strip().split("\n")
    assert [json.loads(line)["name"] for line in answers] == [json.loads(line)["name"] for line in lines]


def test_the_copied_command_works_in_a_shell(server: Server, open_page: OpenPage) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    part = operation(page, "POST", "/infer")
    part.get_by_role("button", name="Copy as curl").click()
    playwright.expect(part.locator(".bar [role=status]")).to_have_text("Copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    printed = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    body = part.locator("textarea").input_value().encode()
    assert printed == server.send("POST", "/infer", body, {"Content-Type": "application/json"}).body


def test_parameters_of_path_and_query_are_fields_that_are_sent(server: Server, open_page: OpenPage) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    found = operation(page, "GET", "/products")
    found.get_by_label("contains").fill("tea & sushi/")
    found.get_by_label("limit").fill("3")
    with page.expect_response("**/products?**") as response:
        found.get_by_role("button", name="Send").click()
    assert response.value.url.endswith("/products?prefix=pi&contains=tea+%26+sushi%2F&limit=3")
    field = operation(page, "GET", "/fields/{name}")
    assert field.get_by_label("name").input_value() == "cuisine"
    field.get_by_label("name").fill("foods")
    field.get_by_role("button", name="Send").click()
    playwright.expect(field.locator(".bar [role=status]")).to_contain_text("200 in")
    shown = json.loads(field.locator(".bar + pre").text_content())
    assert shown == server.send("GET", "/fields/foods", None, {}).json


def test_a_body_without_an_example_gets_one_that_its_schema_allows(
    document: dict[str, Any], open_page: OpenPage
) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    path = "/v2/models/reco/infer"
    assert "example" not in document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    form = operation(page, "POST", path)
    assert json.loads(form.locator("textarea").input_value()) == {
        "inputs": document["components"]["schemas"]["InputTensor"]["examples"]
    }
    form.get_by_role("button", name="Send").click()
    playwright.expect(form.locator(".bar [role=status]")).to_contain_text("200 in")
    for each in page.locator("textarea").all():
        assert "undefined" not in each.input_value()


def test_each_status_is_described_once(document: dict[str, Any], open_page: OpenPage) -> None:
    page = open_page(path="docs", shown_first=FIRST)
    responses = [each["responses"] for methods in document["paths"].values() for each in methods.values()]
    statuses = sorted({status for each in responses for status in each if status != "200"})
    assert page.locator("[id^=status-]").all_text_contents() == statuses
    links = operation(page, "POST", "/infer").locator("a[href^='#status-']").all_text_contents()
    assert links == [status for status in document["paths"]["/infer"]["post"]["responses"] if status != "200"]


@pytest.mark.parametrize("width", [360, 800], ids=str)
def test_a_narrow_screen_needs_no_scrolling_sideways(open_page: OpenPage, width: int) -> None:
    page = open_page(path="docs", shown_first=FIRST, width=width, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"docs-{width}.png")


def test_a_service_with_keys_shows_its_documents_to_who_has_one(sample_artifacts: Path, open_page: OpenPage) -> None:
    with serving(sample_artifacts, RECO_API_KEYS="secret", RECO_WORKERS="1") as server:
        page = open_page(server, path="docs", shown_first="#key")
        playwright.expect(page.locator("#notice")).to_contain_text("an API key is needed")
        page.locator("#key").fill("secret")
        page.get_by_role("button", name="Open").click()
        part = operation(page, "POST", "/infer")
        playwright.expect(part.locator("h3")).to_contain_text("needs an API key")
        part.get_by_role("button", name="Send").click()
        playwright.expect(part.locator(".bar [role=status]")).to_contain_text("200 in")
        assert all("401" in complaint for complaint in page.complaints)
        page.complaints.clear()
