"""The explorer page as tests read it."""

import json
from typing import Any

import pytest

from tests.support.browser import playwright
from tests.support.server import ROOT, Server

PICTURES = ROOT / "test-output" / "explorer"
MINUS = "\N{MINUS SIGN}"
Answer = dict[str, Any]


def picture(page: Any, name: str, whole: bool = True) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)


def names(page: Any, side: str) -> list[str]:
    return page.locator(f"#{side} .name").all_text_contents()


def scores(page: Any, side: str) -> list[str]:
    return page.locator(f"#{side} .score").all_text_contents()


def answer_to(server: Server, path: str, **fields: Any) -> Answer:
    answer = server.send("POST", path, json.dumps(fields).encode(), {})
    assert answer.status == 200, answer.body
    return answer.json


def check_shown(page: Any, answer: Answer) -> None:
    """The page shows exactly these matches, their scores and, on the map, their places."""
    for side in ("best", "worst"):
        expected = [match["name"] for match in answer[side]]
        playwright.expect(page.locator(f"#{side} .name")).to_have_text(expected)
        shown = [float(text.replace(MINUS, "-")) for text in scores(page, side)]
        assert shown == pytest.approx([match["score"] for match in answer[side]], abs=0.0005001)
        playwright.expect(page.locator(f"#marks .{side}")).to_have_count(len(expected))
    playwright.expect(page.locator("#marks .user")).to_have_count(1)


def samples(server: Server) -> list[dict[str, Any]]:
    return server.send("GET", "/samples", None, {}).json["users"]


def choose_likes(page: Any, *prefixes: str) -> None:
    page.get_by_role("radio", name="Likes").check()
    for prefix in prefixes:
        page.locator("#like").press_sequentially(prefix)
        page.locator("#completions [role=option]").first.wait_for()
        with page.expect_response("**/similar"):
            page.keyboard.press("Enter")
