"""The pages on a project in which much has happened, on an empty one, and on one whose data attacks the reader."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from happened import HOSTILE, OPERATOR, PREDICTION, RELEASE, client, fill, recorder, say, served
from recorded import BAD, GOOD

from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    import httpx
    import pytest

PAGES = (
    "/", "/rollouts", "/rollouts/o-1a2b", "/rollouts/o-0bad", "/drift", "/quality", "/lineage", "/lineage?q=version:3",
    f"/lineage?q={PREDICTION}", "/lineage?q=data:d41d8", "/ledger", "/ledger?kind=watched", "/ledger?q=ada&before=20",
    "/api/docs",
)  # fmt: skip
VOID = {"meta", "br", "input", "link"}


class Page(HTMLParser):
    """Reads a page as a browser would, and refuses what a browser would have to repair."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def shown(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def read(operator: httpx.Client, path: str, status: int = 200) -> Page:
    answer = operator.get(path)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


def test_every_page_is_whole_and_asks_nobody_else(operator: httpx.Client) -> None:
    """Every element is closed, every id is there once, everything comes from this console, nothing is inline."""
    for path in PAGES:
        _check_whole(read(operator, path))


def _check_whole(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not {"style", "onclick", "onload", "onerror"} & set(attributes), (tag, attributes)
        assert tag not in {"style", "iframe", "object", "base"}
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), (tag, attributes)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"src": "/static/console.js", "defer": None}
    ]


def test_the_overview_says_what_waits_for_a_person(operator: httpx.Client) -> None:
    """And who serves, who is tried, what the newest windows were, and what was decided last."""
    shown = read(operator, "/").shown
    assert "Version 1 serves demand" in shown
    assert "stable: version 1 95 %" in shown
    assert "canary: version 2 5 %" in shown
    assert "The stack is down" in shown
    assert "Quality was lost in the newest window" in shown
    assert f"tidegate rollout start {RELEASE.id}" in shown
    assert "Rollout began: version 2 against version 1" in shown
    assert "waits for a person" in shown


def test_a_rollout_shows_its_evidence_and_what_can_be_done(operator: httpx.Client) -> None:
    """The charts of the report, the words of the judge, and the buttons while it runs."""
    page = read(operator, "/rollouts/o-1a2b")
    titles = {text for text in page.texts if text.endswith(": canary minus stable")}
    assert {"error_rate: canary minus stable", "latency_p99: canary minus stable"} <= titles
    assert [attributes["value"] for tag, attributes in page.tags if tag == "button" and "name" in attributes] == [
        "promote",
        "full",
        "abort",
    ]
    assert "go to 20 %" in page.shown
    over = read(operator, "/rollouts/o-0bad")
    assert "Rolled back: version 2 was taken back" in over.shown
    assert "Decide by hand" not in over.shown


def test_an_action_by_hand_is_in_the_ledger_with_its_actor(operator: httpx.Client, busy: Environment) -> None:
    """Of the step that the person saw: one that has passed meanwhile is not hit."""
    form = {"action": "promote", "reason": "looks good", "step": "0", "shadowing": "no"}
    done = operator.post("/rollouts/o-1a2b", data=form)
    assert (done.status_code, done.headers["location"]) == (303, "/rollouts/o-1a2b?done=promote")
    event = busy.ledger.events()[-1]
    assert (event.kind, event.actor, event.data["reasons"]) == ("step_passed", "operator@console", ["looks good"])
    assert "The step was passed by hand." in read(operator, done.headers["location"]).shown
    late = operator.post("/rollouts/o-1a2b", data=form)
    assert (late.status_code, "went on to 20 % meanwhile" in late.text) == (409, True)
    assert 'value="looks good"' in late.text
    operator.post("/rollouts/o-1a2b", data={"action": "abort", "reason": "enough"})
    assert busy.state().rollouts[-1].state == "aborted"
    over = operator.post("/rollouts/o-1a2b", data={"action": "abort", "reason": "again"})
    assert (over.status_code, "is over" in over.text) == (409, True)
    assert operator.post("/rollouts/o-1a2b", data={"action": "delete", "reason": "x"}).status_code == 404


def test_an_action_needs_a_sentence(operator: httpx.Client, busy: Environment) -> None:
    """Others read it."""
    before = len(busy.ledger.events())
    for reason in ("", "   ", "x" * 501):
        answer = operator.post("/rollouts/o-1a2b", data={"action": "abort", "reason": reason})
        assert (answer.status_code, "reason" in answer.text) == (409, True)
    assert len(busy.ledger.events()) == before


def test_drift_shows_columns_over_time_with_their_outcomes(operator: httpx.Client) -> None:
    """The columns that moved most first, what cannot be compared by its letter, and the model's own answer."""
    page = read(operator, "/drift")
    names = [text for text in page.texts if text in {"price", "transfer", "weekday"}]
    assert names[:3] == ["price", "transfer", "weekday"]
    assert {"M", "N", "C"} <= set(page.texts)
    assert "the model's answer" in page.shown
    for words in ("drifted", "only nulls", "missing", "new category", "easter: 3 % of rows"):
        assert words in page.shown
    squares = [
        attributes for tag, attributes in page.tags if tag == "a" and "square" in (attributes.get("class") or "")
    ]
    assert len(squares) == 30
    window = read(operator, str(squares[-1]["href"]))
    assert "accuracy" in window.shown
    assert "quality lost" in window.shown


def test_evidentlys_page_is_a_stranger(operator: httpx.Client, busy: Environment) -> None:
    """It is made from data and full of scripts: in its sandbox it can neither act nor read a session."""
    window = operator.get("/api/windows").json()["windows"][-1]["id"]
    policy = operator.get(f"/drift/{window}/evidently.html").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy
    busy.store.delete(f"reports/{busy.stream}/{window}/evidently.html")
    assert operator.get(f"/drift/{window}/evidently.html").status_code == 404


def test_quality_is_drawn_against_what_counts_as_lost(operator: httpx.Client) -> None:
    """A chart for each version with its interval, and every window in words."""
    page = read(operator, "/quality")
    assert "Version 1: accuracy" in page.texts
    assert {"lost beyond this", "on the holdout", "95 % interval"} <= set(page.texts)
    assert "cannot tell: too few labels" in page.texts
    assert page.texts.count("lost") >= 4


def test_a_prediction_leads_to_its_data_and_commit(operator: httpx.Client) -> None:
    """And a release to what happened to it."""
    shown = read(operator, f"/lineage?q={PREDICTION}").shown
    for part in ("user ada", RELEASE.id, RELEASE.run_id, RELEASE.git_commit, RELEASE.data[0].md5, "45,312 rows"):
        assert part in shown
    assert "Version 3 passed the gate" in shown
    assert "No prediction zzz" in read(operator, "/lineage?q=zzz", 404).shown


def test_the_ledger_is_filtered_and_turned_page_by_page(operator: httpx.Client, busy: Environment) -> None:
    """By kind and by words, newest first."""
    for number in range(55):
        say(busy, "frozen", {"reason": f"reason {number}"}, "bob@desk")
    first = read(operator, "/ledger?kind=frozen&q=bob")
    assert "reason 54" in first.shown
    assert "reason 3 " not in first.shown
    [older] = [str(a["href"]) for tag, a in first.tags if tag == "a" and "before=" in (a.get("href") or "")]
    assert "reason 3 " in read(operator, older).shown
    assert "ada@desk" not in first.shown
    assert "Nothing fits" in read(operator, "/ledger?q=nobodysaidthis").shown


def test_text_from_data_and_people_stays_text(environment: Environment) -> None:
    """Names of columns, categories, users, reasons and actors that would be markup, on every page that shows them."""
    fill(environment, HOSTILE)
    with served(environment) as address, client(address, OPERATOR) as operator:
        window = operator.get("/api/windows").json()["windows"][-1]["id"]
        seen = 0
        for path in (*PAGES, f"/drift/{window}", "/lineage?q=%3Cscript%3E", "/ledger?q=%22%3E%3Cscript%3E"):
            answer = operator.get(path)
            page = Page(answer.text)
            assert "img" not in {tag for tag, _ in page.tags}, path
            assert sum(tag == "script" for tag, _ in page.tags) == 1, path
            assert "<img" not in answer.text
            seen += HOSTILE in page.shown
        assert seen >= 5
        form = {"action": "abort", "reason": HOSTILE}
        operator.post("/rollouts/o-1a2b", data=form)
        assert HOSTILE in read(operator, "/rollouts/o-1a2b").shown
        back = operator.post("/rollouts/o-1a2b", data=form)
        assert "<img" not in back.text


def test_a_project_in_which_nothing_has_happened_has_all_its_pages(environment: Environment) -> None:
    """Each says what brings it to life."""
    with served(environment) as address, client(address, OPERATOR) as operator:
        for path, words in {
            "/": "Nothing is deployed yet",
            "/rollouts": "There was none yet",
            "/drift": "No window of live data has been looked at yet",
            "/quality": "No label has matured",
            "/lineage": "There is no release yet",
            "/ledger": "0 events",
        }.items():
            assert words in read(operator, path).shown
        for path in ("/rollouts/o-1", "/drift/20260101T000000Z", "/drift/x/evidently.html", "/nothing"):
            assert read(operator, path, 404).shown


def test_what_is_damaged_is_said_and_the_rest_is_shown(busy: Environment) -> None:
    """A report that is no JSON, blocks that cannot be read, a rollout's plan of another version."""
    newest = busy.state().windows[-1]
    folder = newest.report.rpartition("/")[2]
    busy.store.write(f"reports/{busy.stream}/{folder}/drift.json", b'{"columns": [{"name": 1}, 3], "quality": []}')
    [block] = busy.store.list("rollouts/o-0bad/blocks")[:1]
    busy.store.write(block, b"{")
    with served(busy) as address, client(address, OPERATOR) as operator:
        assert read(operator, "/drift").shown
        assert read(operator, f"/drift/{folder}").shown
        shown = read(operator, "/rollouts/o-0bad").shown
        assert "are damaged" in shown
        assert "Rollout o-0bad: rolled back" in shown
        busy.store.write(f"reports/{busy.stream}/{folder}/drift.json", b"torn")
    with served(busy) as address, client(address, OPERATOR) as operator:
        assert "is not in the store any more, or cannot be read" in read(operator, f"/drift/{folder}").shown


def test_a_damaged_ledger_is_no_mistake_of_the_console(busy: Environment) -> None:
    """503 with what is broken, as a page and as JSON, and the probe goes on."""
    busy.store.write(f"ledger/{busy.stream}/00000003.json", b"{")
    fresh = Environment(busy.project)
    with served(fresh) as address, client(address, OPERATOR) as operator:
        assert "The ledger is damaged" in read(operator, "/rollouts", 503).shown
        answer = operator.get("/api/status")
        assert (answer.status_code, answer.json()["kind"]) == (503, "error")
        assert operator.get("/healthz").status_code == 200


def test_an_open_page_is_told_when_there_is_something_new(operator: httpx.Client, busy: Environment) -> None:
    """An event or a new block changes the version; nothing new keeps it."""

    def version() -> str:
        return str(operator.get("/live").json()["version"])

    first = version()
    assert (version(), f'data-version="{first}"' in operator.get("/").text) == (first, True)
    say(busy, "unfrozen", {"reason": "the sale is over"})
    second = version()
    assert second != first
    operator.post("/rollouts/o-1a2b", data={"action": "abort", "reason": "enough"})
    running = recorder(busy, "o-2c3d")
    third = version()
    running.run(BAD, most=1)
    assert len({first, second, third, version()}) == 4


def test_an_open_page_of_a_long_rollout_costs_little(busy: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that took long is shown a while although there are new blocks, and never after a decision."""
    import time

    from tidegate.console.known import Known
    from tidegate.rollouts import report

    calls: list[float] = []
    made = report.report

    def slow(*given: Any) -> report.Report:
        calls.append(time.monotonic())
        time.sleep(0.3)
        return made(*given)

    monkeypatch.setattr(report, "report", slow)
    busy.driver.abort("make room")
    running, known = recorder(busy, "o-2c3d"), Known(busy)
    for _ in range(4):
        running.run(GOOD, most=1)
        known.report("o-2c3d")
    assert len(calls) == 1
    early = known.version()
    time.sleep(3.5)
    assert known.version() != early
    busy.driver.abort("enough")
    assert known.report("o-2c3d").status["state"] == "aborted"
    assert len(calls) == 2
