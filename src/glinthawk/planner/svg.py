"""Plots as SVG text. Colours are classes that the page's style names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from glinthawk.planner.plan_text import number

__all__ = ["Axes", "Point", "bars", "dots"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 280, 70, 44, 12


@dataclass(frozen=True, slots=True)
class Point:
    """``kind`` is a class of the page's style, ``says`` what a pointer over it shows."""

    x: float
    y: float
    kind: str
    says: str


@dataclass(frozen=True, slots=True)
class Axes:
    """Titles, and whether x is drawn by its logarithm."""

    title: str
    x: str
    y: str
    is_log: bool = False


class _Scale:
    """From values to pixels."""

    def __init__(self, axes: Axes, points: Sequence[Point]) -> None:
        self._is_log = axes.is_log
        xs = [self._position(one.x) for one in points]
        self.first, self.last = min(xs), max(xs)
        self.step = _round_step(max(one.y for one in points) or 1.0)
        self.top = self.step * ceil(1.05 * max(one.y for one in points) / self.step) or self.step

    def x(self, value: float) -> float:
        share = (self._position(value) - self.first) / (self.last - self.first or 1.0)
        return round(_LEFT + 12 + share * (_WIDTH - _LEFT - 36), 1)

    def y(self, value: float) -> float:
        return round(_TOP + (1 - value / self.top) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def _position(self, value: float) -> float:
        return log10(value) if self._is_log else value


def dots(axes: Axes, points: Sequence[Point], *, ringed: float | None = None) -> str:
    """A line through ``points`` (rising in x) with a dot for each, and a ring around one at x."""
    scale = _Scale(axes, points)
    at = [(scale.x(one.x), scale.y(one.y)) for one in points]
    line = " ".join(f"{x},{y}" for x, y in at)
    parts = [f'<polyline class="line" points="{line}"/>']
    parts += [
        f'<circle class="ring" cx="{x}" cy="{y}" r="9"/>'
        for one, (x, y) in zip(points, at, strict=True)
        if one.x == ringed
    ]
    parts += [
        f'<circle class="{one.kind}" cx="{x}" cy="{y}" r="5"><title>{escape(one.says)}</title>'
        "</circle>"
        for one, (x, y) in zip(points, at, strict=True)
    ]
    return _frame(axes, [*_grid(scale), *_ticks(scale, points), *parts])


def bars(
    title: str,
    lanes: Sequence[str],
    intervals: Iterable[tuple[int, float, float, str, str]],
    seconds: float,
) -> str:
    """A timeline: (lane, begin, seconds, kind, what it says) within ``seconds``."""
    row, left = 22, 150
    scale = (_WIDTH - left - 10) / seconds
    parts = [
        f'<text x="{left - 8}" y="{row * index + 15}" class="end">{escape(name)}</text>'
        f'<rect class="lane" x="{left}" y="{row * index + 3}" width="{_WIDTH - left - 10}" '
        f'height="{row - 6}"/>'
        for index, name in enumerate(lanes)
    ]
    parts += [
        f'<rect class="{kind}" x="{left + begin * scale:.1f}" y="{row * lane + 3}" '
        f'width="{max(0.5, length * scale):.1f}" height="{row - 6}"><title>{escape(says)}</title>'
        "</rect>"
        for lane, begin, length, kind, says in intervals
    ]
    bottom = row * len(lanes) + 16
    parts.append(f'<text x="{left}" y="{bottom}">0</text>')
    end = f"{number(1e3 * seconds)} ms"
    parts.append(f'<text x="{_WIDTH - 10}" y="{bottom}" class="end">{end}</text>')
    return _svg(title, bottom + 8, parts)


def _grid(scale: _Scale) -> list[str]:
    lines = []
    for part in range(round(scale.top / scale.step) + 1):
        value = scale.step * part
        y = scale.y(value)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 4}" class="end">{value:,.6g}</text>')
    return lines


def _round_step(most: float) -> float:
    """Between about four lines of a grid: 1, 2 or 5 times a power of ten.

    >>> _round_step(600), _round_step(23.4)
    (200.0, 5.0)
    """
    power = 10.0 ** floor(log10(most / 4))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= most / 5)


def _ticks(scale: _Scale, points: Sequence[Point]) -> list[str]:
    """Numbers below the points, where there is room."""
    ticks, last = [], -100.0
    for value in sorted({one.x for one in points}):
        x = scale.x(value)
        if x - last >= 48:
            text = f"{value:,.0f}"
            ticks.append(f'<text x="{x}" y="{_HEIGHT - 26}" class="middle">{text}</text>')
            last = x
    return ticks


def _frame(axes: Axes, parts: Sequence[str]) -> str:
    middle = (_HEIGHT - _BOTTOM) / 2
    center = (_WIDTH + _LEFT) / 2
    titles = [
        f'<text x="{center}" y="{_HEIGHT - 6}" class="middle">{escape(axes.x)}</text>',
        f'<text transform="translate(14 {middle}) rotate(-90)" class="middle">'
        f"{escape(axes.y)}</text>",
    ]
    return _svg(axes.title, _HEIGHT, [*parts, *titles])


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    )
