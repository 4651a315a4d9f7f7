"""Line charts as SVG text: small, without scripts, readable on a phone. Pure.

A chart is 440 units wide and scales with its column, so its letters keep a size that can be read. Colours and strokes
are classes; the page's style sheet knows what they look like in the light and in the dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 440, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 22, 26
_ACROSS, _DOWN = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_BADGE = 8
"""Radius of a decision's number."""

MOST_POINTS = 400
"""Of a line: about one for each unit of width."""

_SECONDS = (1, 2, 5, 10, 15, 30)
_TIMES = (
    *((n, "s", 1) for n in _SECONDS),
    *((60 * n, "min", 60) for n in _SECONDS),
    *((3600 * n, "h", 3600) for n in (1, 2, 3, 6, 12)),
    *((86_400 * n, "d", 86_400) for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
"""Distances between ticks of a time axis: seconds, unit, seconds of the unit."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, with (value, text) of each tick; `unit` is written above a vertical one."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right, drawn in the style of the class `look`; `label` is its name in the legend."""

    look: str
    label: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Band:
    """The area between two lines, as above."""

    look: str
    label: str
    low: Sequence[Point]
    high: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at `x`: a decision with its number, or without one a boundary with its `text`."""

    x: float
    text: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """What `svg` draws; `title` and `description` are for those who cannot see it."""

    title: str
    description: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()


def svg(chart: Chart, name: str) -> str:
    """The chart; `name` is unique in the page."""
    pinned = {mark.x for mark in chart.marks}
    plot = f'<rect x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_DOWN}"/>'
    drawn = [_band(chart, band, pinned) for band in chart.bands]
    drawn += [f'<path class="{one.look}" d="{_path(chart, one.points, pinned)}"/>' for one in chart.lines]
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
            f'<title id="{name}-t">{escape(chart.title)}</title><desc id="{name}-d">{escape(chart.description)}</desc>',
            f'<clipPath id="{name}-c">{plot}</clipPath>',
            _grid(chart),
            f'<g clip-path="url(#{name}-c)">{"".join(drawn)}</g>',
            _marks(chart),
            "</svg>",
        ]
    )


def figure(name: str, chart: Chart, how: str) -> str:
    """The chart with its heading, its legend and a sentence on how to read it; `name` is unique in the page."""
    legend = "".join(
        f'<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="{one.look}" d="M0 6H26"/></svg>'
        f"{escape(one.label)}</li>"
        for one in chart.lines
        if one.label
    )
    legend += "".join(
        f'<li><svg viewBox="0 0 26 12" aria-hidden="true"><path class="{one.look}" d="M0 0H26V12H0Z"/></svg>'
        f"{escape(one.label)}</li>"
        for one in chart.bands
        if len(one.low) > 1
    )
    return (
        f'<figure><b>{escape(chart.title)}</b><ul class="legend">{legend}</ul>{svg(chart, name)}'
        f"<figcaption>{escape(how)}</figcaption></figure>"
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS, pinned: Collection[float] = ()) -> list[Point]:
    """At most about `most` of the points: first, last, lowest and highest of each stretch, and those at `pinned` x."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(4 * len(points) / most)
    kept: set[int] = {at for at, (x, _) in enumerate(points) if x in pinned}
    for begin in range(0, len(points), size):
        stretch = range(begin, min(begin + size, len(points)))
        kept |= {stretch[0], stretch[-1], min(stretch, key=lambda at: points[at][1])}
        kept.add(max(stretch, key=lambda at: points[at][1]))
    return [points[at] for at in sorted(kept)]


def time_axis(seconds: float) -> Axis:
    """From 0 to `seconds`, with at most six ticks in the largest unit that divides them."""
    step, unit, size = next((one for one in _TIMES if seconds / one[0] <= 5), _TIMES[-1])  # noqa: PLR2004 - what fits
    count = int(seconds // step)
    return Axis(0.0, max(seconds, 1e-9), tuple((n * step, f"{n * step // size} {unit}") for n in range(count + 1)))


def number_axis(low: float, high: float, unit: str, text: Callable[[float], str] | None = None) -> Axis:
    """From `low` to `high` or a little beyond, with three to six ticks at 1, 2 or 5 times a power of ten."""
    spread = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= spread / 4 * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    write = text or (lambda value: f"{value:g}")
    ticks = tuple((at * step, write(round(at * step, 12) + 0.0)) for at in range(first, last + 1))
    return Axis(low, low + spread, ticks, unit)


def odds_axis(low: float, high: float) -> Axis:
    """Decimal logarithms of odds, with ticks at 1:1 and whole powers of a thousand, a hundred or ten."""
    first, last = math.floor(low), math.ceil(high)
    step = max(1, math.ceil((last - first) / 5))
    ticks = tuple((float(at), _odds(at)) for at in range(first, last + 1) if at % step == 0)
    return Axis(float(first), float(last), ticks, "odds")


def _odds(power: int) -> str:
    """Short enough for the room on the left: 100:1, 1:10, 10k:1, 1M:1."""
    thousands, rest = divmod(abs(power), 3)
    number = f"{10**rest}{'kMGT'[thousands - 1] if thousands else ''}"
    return f"{number}:1" if power >= 0 else f"1:{number}"


def _x(chart: Chart, value: float) -> float:
    return _LEFT + _ACROSS * (value - chart.x.low) / (chart.x.high - chart.x.low)


def _y(chart: Chart, value: float) -> float:
    return _TOP + _DOWN * (chart.y.high - value) / (chart.y.high - chart.y.low)


def _path(chart: Chart, points: Sequence[Point], pinned: Collection[float]) -> str:
    placed = [f"{_x(chart, x):.1f} {_clipped(_y(chart, y)):.1f}" for x, y in thinned(points, pinned=pinned)]
    # A single point would not be seen.
    return "M" + "L".join(placed) + ("h3" if len(placed) == 1 else "") if placed else ""


def _clipped(y: float) -> float:
    """Far outside is as good as outside, in fewer characters."""
    return min(max(y, -2.0 * HEIGHT), 3.0 * HEIGHT)


def _band(chart: Chart, band: Band, pinned: Collection[float]) -> str:
    if len(band.low) < 2:  # noqa: PLR2004 - one point has no area
        return ""
    upper, lower = _path(chart, band.high, pinned), _path(chart, list(reversed(band.low)), pinned)
    return f'<path class="{band.look}" d="{upper}L{lower[1:]}Z"/>'


def _grid(chart: Chart) -> str:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [f'<text class="unit" x="{_LEFT}" y="{_TOP - 9}">{escape(chart.y.unit)}</text>']
    for value, text in chart.y.ticks:
        y = _y(chart, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in chart.x.ticks:
        x = _x(chart, value)
        # The last one would stick out, centred; the first one fits, since there is the vertical axis.
        anchor = "end" if x > right - 16 else "middle"
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    return "".join(parts)


def _marks(chart: Chart) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for mark in chart.marks:
        if mark.number is None:
            x = _x(chart, mark.x)
            parts.append(f'<path class="boundary" d="M{x:.1f} {_TOP}V{bottom}"/>')
            parts.append(f'<text class="boundary-text" x="{x + 4:.1f}" y="{bottom - 5}">{escape(mark.text)}</text>')
    numbered = [mark for mark in chart.marks if mark.number is not None]
    places = _apart([_x(chart, mark.x) for mark in numbered])
    for mark, place in zip(numbered, places, strict=True):
        x, y = _x(chart, mark.x), _TOP + 1
        parts.append(f'<path class="decision" d="M{x:.1f} {bottom}V{y + 2 * _BADGE}L{place:.1f} {y + _BADGE}"/>')
        parts.append(f'<circle class="badge" cx="{place:.1f}" cy="{y}" r="{_BADGE}"/>')
        parts.append(f'<text class="number" x="{place:.1f}" y="{y + 4}" text-anchor="middle">{mark.number}</text>')
    return "".join(parts)


def _apart(places: Sequence[float]) -> list[float]:
    """The same places, moved as little as it takes for their badges not to overlap nor to stick out on the right."""
    gap, moved = 2 * _BADGE + 2, list(places)
    for at in range(1, len(moved)):
        moved[at] = max(moved[at], moved[at - 1] + gap)
    limit = float(WIDTH - _BADGE - 1)
    for at in range(len(moved) - 1, -1, -1):
        moved[at] = min(moved[at], limit)
        limit = moved[at] - gap
    return moved
