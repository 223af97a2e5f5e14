"""Plots as SVG within a page (needs the extra ``plots``): the same bytes for the same figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

__all__ = ["COLOURS", "Axes", "Bar", "Point", "bars", "dots"]

#: To be told apart on a page that is light or dark.
COLOURS = ("#c8452d", "#b8860b", "#7d4cc2", "#1f77b4", "#2a8f5b", "#c2569b", "#6b7280")
_QUIET, _LANE = "#808894", "#80889430"
_STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "text.parse_math": False,
    "svg.fonttype": "none",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True, slots=True)
class Point:
    """``says`` is what a pointer over it shows."""

    x: float
    y: float
    colour: str
    says: str


@dataclass(frozen=True, slots=True)
class Axes:
    """Titles, whether x is drawn by its logarithm, and whether its points follow one another."""

    title: str
    x: str
    y: str
    is_log: bool = False
    is_line: bool = True


@dataclass(frozen=True, slots=True)
class Bar:
    """In a lane of a timeline: milliseconds. ``says`` is what a pointer over it shows."""

    lane: int
    begin: float
    length: float
    colour: str
    says: str


def dots(axes: Axes, points: Sequence[Point], *, ringed: float | None = None) -> str:
    """A dot for each of ``points`` (rising in x), a line through them, and a ring around one at
    x."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": axes.title}):
        figure = Figure((6, 3.4), layout="constrained")
        plot = figure.subplots()
        _label(plot, axes)
        if axes.is_line:
            path = [one.x for one in points], [one.y for one in points]
            plot.plot(*path, color=_QUIET, clip_on=False)
        for one in points:
            (dot,) = plot.plot(one.x, one.y, "o", color=one.colour, clip_on=False)
            dot.set_gid(one.says)
            if one.x == ringed:
                plot.plot(one.x, one.y, "o", ms=12, mfc="none", mec=_QUIET, clip_on=False)
        plot.set_ylim(bottom=0)
        if not axes.is_line:
            plot.set_xlim(left=0)
        return _render(figure, axes.title, {one.says for one in points})


def _label(plot: Plot, axes: Axes) -> None:
    plot.set(xlabel=axes.x, ylabel=axes.y)
    if axes.is_log:
        plot.set_xscale("log", base=2)
    else:
        plot.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    plot.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    plot.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    plot.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    plot.grid(axis="y", alpha=0.3, clip_on=False)


def bars(title: str, lanes: Sequence[str], shown: Sequence[Bar], length: float) -> str:
    """A timeline of ``length`` milliseconds, the first lane on top."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure((8, 0.7 + 0.3 * len(lanes)), layout="constrained")
        plot = figure.subplots()
        plot.set(xlabel="ms", xlim=(0, length))
        plot.barh(range(len(lanes)), length, 0.7, color=_LANE, clip_on=False)
        drawn = plot.barh(
            [one.lane for one in shown],
            [one.length for one in shown],
            0.7,
            [one.begin for one in shown],
            color=[one.colour for one in shown],
            clip_on=False,
        )
        for bar, one in zip(drawn, shown, strict=True):
            bar.set_gid(one.says)
        plot.set_yticks(range(len(lanes)), lanes)
        plot.invert_yaxis()
        return _render(figure, title, {one.says for one in shown})


def _render(figure: Figure, title: str, says: set[str]) -> str:
    """The figure as an element of a page: groups that are named by what they say, say it."""
    written = BytesIO()
    figure.savefig(written, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(written.getvalue())
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if (target := element.attrib.pop(_HREF, None)) is not None:
            element.set("href", target)
        # Names of groups are alike in all figures of a page.
        if element.tag == "g" and (name := element.attrib.pop("id", None)) in says:
            tip = ElementTree.Element("title")
            tip.text = name
            element.insert(0, tip)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")
