"""The live page in a browser, on a desk and on a phone."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from browsers import WIDTHS, check_page, open_browser, open_page
from commands import PATIENCE_S, line
from servers import Server, upload

HOSTILE = "<img src=x onerror=alert(1)>.jsonl"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


def begin(client: OpenAI, name: str, count: int) -> str:
    """A batch that is answered while somebody looks."""
    lines = [line(str(n), prompt=f"Item {n}", max_tokens=100) for n in range(count)]
    window: Any = {"endpoint": "/v1/completions", "completion_window": "1h"}
    note = {"note": "<b>bold</b>"}
    file = upload(client, lines, name)
    return client.batches.create(input_file_id=file, metadata=note, **window).id


@pytest.mark.parametrize("width", WIDTHS)
def test_a_jobs_progress_moves(server: Server, client: OpenAI, browser: Any, width: int) -> None:
    scheme = "light" if width == max(WIDTHS) else "dark"
    with open_page(browser, server.url.removesuffix("/v1"), width, scheme) as page:
        page.set_default_timeout(1000 * PATIENCE_S)
        batch = begin(client, HOSTILE, 150)
        job = page.locator(f'#jobs tr[data-key="{batch}"]')
        job.wait_for()
        bar = "row => parseFloat(row.querySelector('.bar i').style.width) || 0"
        seen = [job.evaluate(bar)]
        while seen[-1] < 100:
            page.wait_for_timeout(100)
            seen.append(job.evaluate(bar))
        assert seen == sorted(seen)
        assert len(set(seen)) > 1
        # Names and notes of clients are text.
        assert job.locator("th span").inner_text() == HOSTILE
        assert "note: <b>bold</b>" in job.inner_text()
        assert page.locator("img, b:not(.plot b)").count() == 0
        assert page.locator("#connection").inner_text() == "live"
        assert page.locator("#plots canvas").count() == 4
        words = page.locator("#plots [role=img]").first.get_attribute("aria-label")
        assert words.startswith("Tokens a second: generated now ")
        check_page(page)


def test_a_key_is_asked_for_and_stays_out_of_the_address(server: Server, browser: Any) -> None:
    keys: list[str | None] = []

    def guard(route: Any) -> None:
        keys.append(route.request.headers.get("authorization"))
        if keys[-1] == "Bearer one":
            route.continue_()
        else:
            route.fulfill(status=401, body="{}")

    url = server.url.removesuffix("/v1") + "/"
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_default_timeout(1000 * PATIENCE_S)
    page.route("**/page/events", guard)
    page.goto(url)
    field = page.get_by_label("This server answers to who has a key")
    for key in ("two", "one"):
        field.wait_for()
        check_page(page)
        field.fill(key)
        field.press("Enter")
        page.wait_for_function(
            "() => document.querySelector('#key').hidden || "
            "document.querySelector('#connection').textContent === 'no such key'"
        )
    page.locator("#figures dd").first.wait_for()
    assert page.url == url
    assert keys[:3] == [None, "Bearer two", "Bearer one"]
    page.close()
