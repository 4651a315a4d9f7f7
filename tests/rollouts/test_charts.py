"""Axes that a person reads at a glance, and lines that keep what matters when they are thinned."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from tidegate.rollouts.charts import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    Axis,
    Band,
    Chart,
    Line,
    Mark,
    number_axis,
    odds_axis,
    svg,
    thinned,
    time_axis,
)


def test_thinning_keeps_ends_extremes_and_decisions() -> None:
    """A single spike in 5,000 blocks, and the block of a decision, are still there; the order is kept."""
    points = [(float(at), 0.001 * (at % 7)) for at in range(5000)]
    points[1234], points[4321] = (1234.0, 9.0), (4321.0, -9.0)
    kept = thinned(points, pinned={777.0})
    assert len(kept) <= MOST_POINTS + 1
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert {points[1234], points[4321], points[777]} <= set(kept)
    assert kept == sorted(kept)


def test_a_short_line_is_drawn_whole() -> None:
    """Nothing is left out where there is room."""
    points = [(float(at), 1.0) for at in range(MOST_POINTS)]
    assert thinned(points) == points


@pytest.mark.parametrize(
    ("seconds", "last", "count"),
    [(3.0, "3 s", 4), (110.0, "90 s", 4), (1200.0, "20 min", 5), (49 * 3600.0, "48 h", 5), (40 * 86_400.0, "40 d", 5)],
)
def test_time_has_few_round_ticks(seconds: float, last: str, count: int) -> None:
    """From seconds to days."""
    axis = time_axis(seconds)
    assert (axis.ticks[-1][1], len(axis.ticks)) == (last, count)
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)


@pytest.mark.parametrize("low_high", [(-0.31, 0.52), (0, 26_227), (-100, 100), (0, 1), (3e-7, 5e-6), (0.5, 0.5)])
def test_numbers_have_round_ticks_inside(low_high: tuple[float, float]) -> None:
    """At most six, also where every value is the same."""
    axis = number_axis(*low_high, "x")
    assert len(axis.ticks) <= 6
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value, _ in axis.ticks)
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


def test_odds_are_short() -> None:
    """They must fit beside the chart."""
    assert [text for _, text in odds_axis(-3, 6).ticks] == ["1:100", "1:1", "100:1", "10k:1", "1M:1"]
    assert odds_axis(-0.2, 1.6).ticks == ((-1.0, "1:10"), (0.0, "1:1"), (1.0, "10:1"), (2.0, "100:1"))


def test_a_chart_is_xml_that_stays_in_its_box_and_says_what_it_shows() -> None:
    """Title and description for those who cannot see it; hostile text is text; decisions do not overlap."""
    wild = '"><script>alert(1)</script>&'
    lines = [Line("effect", wild, [(0.0, -5.0), (10.0, 500.0)]), Line("safe", "nothing", [])]
    marks = [Mark(9.5 + 0.1 * at, wild, at + 1) for at in range(5)] + [Mark(5.0, wild)]
    x, y = time_axis(10), Axis(-1, 1, ((0.0, wild),), wild)
    band = Band("interval", "band", [(0.0, -1.0), (10.0, -0.5)], [(0.0, 1.0), (10.0, 0.5)])
    root = ET.fromstring(svg(Chart(wild, wild, x, y, lines, [band], marks), "one"))  # noqa: S314 - our own text
    found = {element.tag: element.text for element in root}
    assert (found["title"], found["desc"]) == (wild, wild)
    assert root.get("aria-labelledby") == "one-t one-d"
    badges = sorted(float(str(circle.get("cx"))) for circle in root.iter("circle"))
    assert len(badges) == 5
    assert all(after - before >= 16 for before, after in pairwise(badges))
    assert badges[-1] <= WIDTH - 8
    numbers = [float(one) for path in root.iter("path") for one in re.findall(r"-?\d+\.?\d*", str(path.get("d")))]
    assert -2 * HEIGHT <= min(numbers) <= max(numbers) <= 3 * HEIGHT


def test_a_single_point_is_seen_and_has_no_area() -> None:
    """A rollout may be decided by its first block."""
    band = Band("interval", "band", [(1.0, -1.0)], [(1.0, 1.0)])
    drawn = svg(Chart("a", "b", time_axis(1), Axis(-1, 1, ()), [Line("effect", "e", [(1.0, 0.5)])], [band]), "one")
    assert re.search(r'class="effect" d="M[\d.]+ [\d.]+h3"', drawn)
    assert "interval" not in drawn
