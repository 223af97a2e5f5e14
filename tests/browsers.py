"""Headless Chromium, where there is one, and what every page of ours has to hold in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["WIDTHS", "check_page", "open_browser", "open_page"]

#: A desk, and a phone.
WIDTHS = (1280, 390)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MEANT = ("serious", "critical")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: {', '.join(_NAMES)} (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        # As root, in a container, its own sandbox cannot be had.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, url: str, width: int, scheme: str) -> Iterator[Any]:
    """Anything that its console calls an error is one, at the end."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(url)
        yield page
        assert complaints == []
    finally:
        page.close()


def check_page(page: Any) -> None:
    """Nothing is wider than the page unless it can be scrolled by itself, and axe-core finds
    nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    wide, width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= width
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"]) for one in found if one["impact"] in _MEANT] == []
