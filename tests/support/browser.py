"""A real browser. Tests that import this are skipped where there is none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.server import Server

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install -r requirements-dev.txt)"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium is installed (apt-get install chromium)", allow_module_level=True)

OpenPage = Callable[..., Any]


@contextmanager
def started() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def _elsewhere(url: str, origin: str) -> list[str]:
    return [] if url.startswith(origin) else [f"elsewhere: {url}"]


@contextmanager
def opening(browser: Any, default: Server) -> Iterator[OpenPage]:
    """A function that opens a page; whatever the page complains about or loads from elsewhere is an AssertionError."""
    complaints: list[str] = []
    contexts = []

    def open_page(
        served: Server = default,
        path: str = "",
        shown_first: str = "#marks button",
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        origin = f"http://127.0.0.1:{served.port}/"
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: complaints.extend(_elsewhere(request.url, origin)))
        page.complaints = complaints
        page.goto(origin + path)
        page.locator(shown_first).first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
