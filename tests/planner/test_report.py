"""The report stands alone, is well-formed and says what was found."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from browsers import WIDTHS, check_page, open_browser, open_page
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.machine_layouts import Offer, offered_rigs
from glinthawk.planner.plan_text import number
from glinthawk.planner.plots import Axes, Point, dots
from glinthawk.planner.report import render_report
from glinthawk.planner.search import Found, Search
from glinthawk.planner.timeline import Interval, Timeline
from glinthawk.planner.verdict import best_in_words
from glinthawk.planner.workload import Workload

VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def found_and_page() -> tuple[Found, str]:
    catalogue, shape = load_catalogue(), known_shape("Llama-3.1-8B")
    offer = Offer(
        tier1=(catalogue.machine("A10"),),
        tier2=(catalogue.machine("r7a-4xlarge"),),
        tier1_count=2,
        tier2_count=4,
    )
    work = Workload.fixed(128, 32)
    search = Search("<8B & more>", work)
    found = search.run(offered_rigs(shape, offer, ["bfloat16"], Counter()), top=3)
    return found, render_report(
        found, search, work, "cost", "not measured: from the catalogue", "glinthawk plan -m '<8B'"
    )


class Nesting(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "img", "object")
        assert not {"src", "href", "srcset"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_it_is_well_formed(found_and_page: tuple[Found, str]) -> None:
    reader = Nesting()
    reader.feed(found_and_page[1])
    reader.close()
    assert not reader.open
    assert "<8B & more>, 128:32" in reader.words


def test_every_plot_is_an_image_with_marks(found_and_page: tuple[Found, str]) -> None:
    plots = re.findall(r"<svg.*?</svg>", found_and_page[1], re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        tree = ElementTree.fromstring(plot)
        assert tree.get("role") == "img"
        assert tree.get("aria-label")
        assert len(tree.findall(".//{*}title")) > 2


def test_lines_of_a_grid_are_round_and_one_point_is_ringed() -> None:
    axes = Axes("title", "batches", "$ a million, or $")
    points = [Point(1, 0.31, "#112233", "1 < 2"), Point(2, 1.17, "#112233", "")]
    plain, ringed = dots(axes, points), dots(axes, points, ringed=2)
    texts = re.findall(r"<text[^>]*>([^<]*)<", ringed)
    assert {"0", "0.5", "1", "batches", "$ a million, or $"} <= set(texts)
    assert "<title>1 &lt; 2</title>" in ringed
    assert ringed.count("<use ") == plain.count("<use ") + 1


def test_a_plot_is_the_same_every_time() -> None:
    axes = Axes("title", "x", "y", is_log=True)
    points = [Point(1, 1, "#112233", "one"), Point(64, 2, "#112233", "two")]
    assert dots(axes, points) == dots(axes, points)


def test_no_two_things_of_a_page_have_one_name(found_and_page: tuple[Found, str]) -> None:
    names = re.findall(r' id="([^"]*)"', found_and_page[1])
    assert names
    assert len(names) == len(set(names))


def test_a_legend_has_what_is_there(found_and_page: tuple[Found, str]) -> None:
    found, page = found_and_page
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', page)
    assert len(legends) == 3
    for legend in legends:
        assert found.best[0].estimate.binds in legend
        assert "storage" not in legend


def test_nothing_is_loaded(found_and_page: tuple[Found, str]) -> None:
    page = found_and_page[1].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_it_has_the_figures(found_and_page: tuple[Found, str]) -> None:
    found, page = found_and_page
    for one in found.best:
        assert f"<td>{number(one.estimate.tokens_per_s)}</td>" in page
        assert f"<td>{number(one.tokens_per_s)}</td>" in page
        assert f"<td>{number(one.dollars_per_million)}</td>" in page
    for words in ("not measured", "tier 1, slice 0", "one way", "prefers-color-scheme"):
        assert words in page


def test_it_says_what_is_best_and_how_it_was_made(found_and_page: tuple[Found, str]) -> None:
    found, page = found_and_page
    assert f'<p class="says">{best_in_words(found)}; ' in page
    assert "<pre>glinthawk plan -m &#x27;&lt;8B&#x27;</pre>" in page
    for figure in ("Cost against speed", "Throughput over batch size"):
        assert f"<h2>{figure}</h2>" in page


def test_busy_is_said_by_the_estimate_and_by_the_timeline(
    found_and_page: tuple[Found, str],
) -> None:
    found, page = found_and_page
    table = re.search(r'<table class="busy">(.*?)</table>', page)
    assert table is not None
    estimated = found.best[0].estimate.tier1_busy
    assert f'<th scope="row">Tier 1</th><td>{estimated:.0%}</td><td>' in table[1]
    timeline = Timeline(
        ["tier 1, slice 0", "tier 1, slice 1", "worker 1, slice 0"],
        [
            Interval("tier 1, slice 0", 0, "a", 0.0, 1.0),
            Interval("tier 1, slice 1", 0, "a", 1.0, 2.0),
            Interval("tier 1, slice 1", 1, "b", 3.0, 1.0),
        ],
        4.0,
    )
    assert (timeline.busy("tier 1"), timeline.busy("worker")) == (0.75, 0.0)
    assert timeline.busy("drives") is None


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_good_in_a_browser(
    found_and_page: tuple[Found, str], width: int, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(found_and_page[1])
    scheme = "dark" if width == max(WIDTHS) else "light"
    with open_browser() as browser, open_page(browser, path.as_uri(), width, scheme) as page:
        check_page(page)
        # What is cut off can be scrolled to, and is said to be there; on a desk nothing is.
        wide = "box => box.scrollWidth > box.clientWidth + 1"
        table = page.get_by_role("region", name="The best plans")
        assert table.evaluate(wide) == (width == min(WIDTHS))
        hint = page.get_by_text("The table has more columns")
        assert hint.is_visible() == (width == min(WIDTHS))
