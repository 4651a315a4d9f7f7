"""The report of a rollout: one page that needs nothing else, and JSON with every block."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from fakes import MemoryStore
from recorded import BAD, BEGAN, GOOD, Recorder, plan

from tidegate.core.errors import Conflict, TidegateError
from tidegate.registry.ledger import Event
from tidegate.rollouts.block_files import write_blocks
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.drivers.local import LocalDriver
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.report import Report, report
from tidegate.rollouts.report_page import page
from tidegate.rollouts.words import points

VOID = {"meta", "br"}


def reported(recorder: Recorder) -> Report:
    status = LocalDriver(recorder.ledger, recorder.store, 60.0).status(recorder.plan.rollout)
    return report("demand", status, recorder.ledger.events(), recorder.store)


@cache
def good() -> Report:
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=2000)
    recorder.run(GOOD)
    return reported(recorder)


@cache
def bad() -> Report:
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=300)
    recorder.run(BAD)
    return reported(recorder)


class Page(HTMLParser):
    """Reads a page as a browser would, and refuses what a browser would have to repair."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]

    @property
    def shown(self) -> str:
        return " ".join(text for where, text in self.texts if where != "style")


@pytest.mark.parametrize("made", [good, bad])
def test_the_page_is_whole_and_needs_nothing_else(made: Any) -> None:
    """Every element is closed, every id is there once, and no address, script or file is asked for."""
    text = page(made())
    read = Page(text)
    assert read.open == []
    assert len(read.ids) == len(set(read.ids)) > 20
    assert not re.search(r"https?://|//\w|@import|url\((?!#)", text)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name in {"src", "href"} or name.startswith("on")]
    named = {one for name, value in read.attributes if name == "aria-labelledby" for one in value.split()}
    assert named <= set(read.ids)


def test_the_page_tells_the_verdict_its_reasons_and_who_took_every_decision() -> None:
    """In words at the top, and numbered in the list and on the charts."""
    made = good()
    read = Page(page(made))
    assert read.of("h1") == ["Promoted: version 2 took over from version 1"]
    assert set(made.status["reasons"]) <= set(read.of("li"))
    cells = read.of("td")
    at = cells.index("2")
    assert cells[at + 2 : at + 5] == ["step passed", "50 %", "judge"]
    assert "after 30 s" in cells[at + 1]
    assert "promoted" in cells
    assert read.shown.count(" 3 ") >= 1
    badges = [text for where, text in read.texts if where == "text" and text in {"2", "3"}]
    # On the ramp, users, four pairs, all together, and the sample ratio.
    assert badges.count("2") == badges.count("3") == 12


def test_the_page_draws_every_metric_against_its_lines() -> None:
    """Errors and the three quantiles of latency: a band, the effect, both lines, the evidence, and the numbers."""
    read = Page(page(good()))
    titles = read.of("title")
    for name in ("error_rate", "latency_p50", "latency_p90", "latency_p99"):
        assert {f"{name}: canary minus stable", f"{name}: evidence"} <= set(titles)
    looks = [value for name, value in read.attributes if name == "class"]
    # Each is drawn in its chart and in the legend.
    assert [looks.count(one) for one in ("interval", "effect", "harm", "safe")] == [8, 8, 8, 8]
    assert read.tags.count("details") == 5
    assert any(re.fullmatch(r"In the end .* percentage points, between .* and .*", one[:-1]) for one in described(read))


def test_a_chart_alone_in_its_section_is_as_large_as_those_in_pairs() -> None:
    """An SVG scales its lettering too: a pair keeps the empty place beside a lonely chart, and no chart grows far."""
    text = page(good())
    [columns] = re.findall(r"\.pair {.*?repeat\((\S+),", text)
    assert columns == "auto-fill"
    assert re.search(r"^figure {[^}]*max-width: 600px", text, re.MULTILINE)
    assert '<div class="pair"><figure><b>Sample ratio' in text


def described(read: Page) -> list[str]:
    return [text.split("over time. ")[1] for text in read.of("desc") if "confidence sequence" in text]


def test_a_rollback_says_so() -> None:
    """With the sentence that the judge gave."""
    read = Page(page(bad()))
    assert read.of("h1") == ["Rolled back: version 2 was taken back, every user has version 1"]
    assert any("worse than the allowed 1.1x + 0.1 pp" in text for text in read.of("li"))
    assert "rolled back" in read.of("td")


def test_names_and_reasons_from_data_are_text() -> None:
    """A model, a person and a reason that would be markup do no harm."""
    wild = '<img src=x onerror="alert(1)">&"\''
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=2000)
    recorder.run(GOOD, most=2)
    recorder.say("aborted", {"rollout": "o-1a2b", "reasons": [wild]}, f"{wild}@desk")
    made = replace(reported(recorder), model=wild)
    text = page(made)
    read = Page(text)
    assert "img" not in read.tags
    assert "<img" not in text
    assert wild in read.of("li")
    assert {wild, f"{wild}@desk"} <= set(read.of("td"))
    assert any(one.startswith(wild) for one in read.of("p"))


def test_a_rollout_without_blocks_has_a_page_that_says_so() -> None:
    """Not an error: it has begun, and the decision to begin is there."""
    read = Page(page(reported(Recorder(MemoryStore(), "demand.local", plan()))))
    assert read.of("h1") == ["Running: version 2 answers 20 % of users"]
    assert "No users have been judged yet" in read.of("h2")
    assert "started" in read.of("td")
    assert "svg" not in read.tags


def test_a_shadow_phase_shows_what_the_copies_showed() -> None:
    """Before the first step there is no block; after it time counts from the first user."""
    recorder = Recorder(MemoryStore(), "demand.local", plan(shadow=True), units=2000)
    read = Page(page(reported(recorder)))
    assert read.of("h1")[0].startswith("In its shadow phase: version 2 gets copies")
    showed = {
        "sentence": "40 copied requests: <all> alike.",
        "different": 0.1,
        "by_class": [{"value": "<b>up", "rows": 40, "difference": 0.1}],
        "by_slice": {"country": [{"value": "NL", "rows": 12, "difference": 0.25}]},
    }
    recorder.say("shadow", {"rollout": "o-1a2b", "shadow": showed})
    recorder.run(GOOD)
    made = reported(recorder)
    read = Page(page(made))
    assert any("40 copied requests: <all> alike." in text for text in read.of("p"))
    assert {"<b>up", "NL", "25 %"} <= set(read.of("td"))
    assert [one.kind for one in made.decisions] == ["rollout_started", "shadow", "step_passed", "promoted"]


def test_json_holds_every_block_and_decision() -> None:
    """Strict JSON with the fields of `rollout status`, the verdict on the blocks, and one row for each of them."""
    made = good()
    document = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert (document["kind"], document["id"], document["state"]) == ("report", "o-1a2b", "promoted")
    assert len(document["series"]) == len(made.history.moments)
    assert document["series"][-1]["readings"][3]["name"] == "latency_p99"
    assert document["verdict"] == made.history.verdict.to_dict()
    assert [one["seconds"] for one in document["decisions"]] == [0.0, 30.0, 50.0]
    assert made.began == BEGAN


@pytest.mark.parametrize(
    "wrong",
    [Block(0, 35, {"error_rate": Counts(1, 0, 1, 0)}), Block(0, 20, {"error_rate": Counts(1, 0, 1, 0)})],
    ids=["a weight that is no step", "a metric that is missing"],
)
def test_blocks_of_another_plan_are_one_clear_error(wrong: Block) -> None:
    """They can be read and still be wrong."""
    recorder = Recorder(MemoryStore(), "demand.local", plan())
    write_blocks(recorder.store, "o-1a2b", [replace(wrong, attempts=Counts(1, 0, 1, 0))])
    with pytest.raises(TidegateError, match="The recorded blocks of rollout o-1a2b are damaged: Block 0 has"):
        reported(recorder)


def test_a_plan_of_another_version_is_named() -> None:
    """It cannot be judged again here; its status can still be asked for."""
    recorder = Recorder(MemoryStore(), "demand.local", plan())
    status = LocalDriver(recorder.ledger, recorder.store, 60.0).status()
    events = [_with_plan(event, {"rollout": "o-1a2b"}) for event in recorder.ledger.events()]
    with pytest.raises(Conflict, match="The plan of rollout o-1a2b cannot be read"):
        report("demand", status, events, recorder.store)


def _with_plan(event: Event, kept: dict[str, Any]) -> Event:
    return replace(event, data={**event.data, "plan": kept}) if "plan" in event.data else event


def test_two_days_of_blocks_stay_a_small_page() -> None:
    """3,000 one-minute blocks with latency: under 500 KB, every step and decision still marked."""
    slow: RolloutPlan = plan(block=60, units_per_minute=4, step={"min": "10s", "max": "40h"}, steps=[20, 50])
    recorder = Recorder(MemoryStore(), "demand.local", slow, units=4)
    recorder.run(GOOD, most=2000)
    recorder.say("step_passed", {"rollout": "o-1a2b", "step": 1, "reasons": ["on my watch"]}, "ada@desk")
    recorder.weight = 50
    recorder.run(GOOD, most=1000)
    made = reported(recorder)
    text = page(made)
    assert len(made.history.moments) == 3000
    assert len(text.encode()) < 500_000
    read = Page(text)
    assert "on my watch" in read.of("td")
    # Where a step begins is marked on all charts but the ramp, which shows it by itself.
    assert read.of("text").count("50 %") == 11


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.00123, "+0.12 pp"), (-0.0312, "-3.1 pp"), (0.31, "+31 pp"), (0.0, "0 pp"), (-0.00001, "0 pp")],
)
def test_a_difference_of_shares_has_the_digits_that_matter(share: float, text: str) -> None:
    """In percentage points, with its sign."""
    assert points(share) == text
