"""When a window asks for a retrain, and every brake that answers "no, because"."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidegate.core.config_live import Monitor, Retrain
from tidegate.monitors.trigger import Decision, Signs, brake, decide, unanswered
from tidegate.registry.ledger import Event
from tidegate.registry.state import State, fold

START = datetime(2026, 3, 1, tzinfo=UTC)
MONITOR = Monitor.model_validate({"window": "1h", "drift": {"windows": 3}})
RETRAIN = Retrain.model_validate({"cooldown": "6h", "budget": {"runs": 2, "per": "24h"}})


def hour(number: float) -> str:
    return (START + timedelta(hours=number)).isoformat()


class Story:
    """A ledger that is told event by event; windows are one hour long."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tell(0, "registered", release="r-1", version=1, run_id="a", gate=[])
        self.tell(0, "deployed", release="r-1")

    def tell(self, at: float, kind: str, **data: Any) -> Story:
        self.events.append(Event(len(self.events), hour(at), kind, "ada@desk", data))
        return self

    def window(self, number: int, outcome: str = "no_drift", *, lost: bool | None = None, asked: bool = False) -> Story:
        retrain = {"asked": asked, "reason": "because"}
        times = {"window": hour(number), "until": hour(number + 1)}
        return self.tell(number + 1, "watched", **times, outcome=outcome, share=0.5, lost=lost, retrain=retrain)

    @property
    def state(self) -> State:
        return fold(self.events)

    def decide(self, number: int, outcome: str = "no_drift", *, policy: Retrain = RETRAIN, **signs: Any) -> Decision:
        seen = Signs(hour(number), **{"outcome": outcome, "lost": None, **signs})
        return decide(self.state, seen, policy, MONITOR, START + timedelta(hours=number + 1))


def test_one_alarming_window_is_not_enough_and_says_which_one_of_how_many_it_is() -> None:
    """`drift.windows` in a row ask; the first two say that they count."""
    story = Story()
    first = story.decide(1, "drift", drift="price drifted")
    assert first == Decision(asked=False, reason="price drifted; window 1 of the 3 in a row that count")
    story.window(1, "drift").window(2, "drift")
    assert story.decide(3, "drift", drift="price drifted") == Decision(
        asked=True, reason="price drifted; 3 windows in a row"
    )


def test_lost_quality_and_drift_are_one_row_of_alarms() -> None:
    """A window that drifted, one that lost quality, and one more: the world changed, whatever shows it."""
    story = Story().window(1, "drift").window(2, lost=True)
    assert story.decide(3, "drift").asked


def test_a_quiet_window_begins_the_count_anew_and_one_that_cannot_tell_does_not() -> None:
    """No traffic at night is no sign of health."""
    assert not Story().window(1, "drift").window(2).window(3, "drift").decide(4, "drift").asked
    assert Story().window(1, "drift").window(2, "cannot_tell").window(3, "drift").decide(4, "drift").asked


def test_matured_labels_outweigh_drift() -> None:
    """Inputs may move for ever without harm; a retrain could only make it worse."""
    story = Story().window(1, "drift", lost=False).window(2, "drift", lost=False)
    kept = story.decide(3, "drift", lost=False, drift="price drifted", quality="accuracy is 0.84, as on the holdout")
    assert kept == Decision(asked=False, reason="price drifted, but accuracy is 0.84, as on the holdout")
    only = Retrain.model_validate({"on": ["drift"]})
    assert story.decide(3, "drift", lost=False, policy=only).asked


@pytest.mark.parametrize(
    ("on", "lost", "outcome"), [(["drift"], True, "no_drift"), (["quality"], None, "drift"), ([], True, "drift")]
)
def test_what_retrain_on_does_not_name_asks_for_nothing(on: list[str], lost: bool | None, outcome: str) -> None:
    """The reason says that it was seen and does not count."""
    policy = Retrain.model_validate({"on": on})
    story = Story().window(1, outcome, lost=lost).window(2, outcome, lost=lost)
    answer = story.decide(3, outcome, lost=lost, policy=policy)
    assert (answer.asked, "retrain.on does not name" in answer.reason) == (False, True)


def brakes() -> dict[str, Story]:
    """What is true when three windows in a row have drifted, and the word that says so."""
    asked = {"retrain": "t-1", "reason": "because"}
    started = {"rollout": "o-1", "stable": "r-1", "canary": "r-2", "plan": {}, "steps": [10]}
    second = {"release": "r-2", "version": 2, "run_id": "b", "gate": []}
    ended = {"retrain": "t-1", "reasons": []}
    return {
        "retrains are frozen: launch day": Story().tell(0, "frozen", reason="launch day"),
        "retrain t-1 is not over yet": Story().tell(0, "retrain_started", **asked),
        "rollout o-1 is not over yet": Story().tell(0, "registered", **second).tell(0, "rollout_started", **started),
        "waits for you: `tidegate rollout start r-2`": (
            Story()
            .tell(-9, "retrain_started", **asked)
            .tell(-9, "registered", **second)
            .tell(-9, "retrain_ended", **ended, outcome="registered", release="r-2")
        ),
        "retrain.cooldown is 6h": (
            Story().tell(0, "retrain_started", **asked).tell(0.5, "retrain_ended", **ended, outcome="kept")
        ),
    }


@pytest.mark.parametrize("why", brakes())
def test_a_brake_says_why_nothing_happens(why: str) -> None:
    """The alarm is told with what holds it back."""
    story = brakes()[why].window(1, "drift").window(2, "drift")
    answer = story.decide(3, "drift", drift="price drifted")
    assert not answer.asked
    assert answer.reason.startswith("price drifted; 3 windows in a row, but ")
    assert why in answer.reason


def test_the_budget_counts_trainings_only() -> None:
    """Going back to a former champion, or finding nothing new, costs no training and no cooldown."""
    story = Story()
    for number, outcome in enumerate(["former", "kept", "nothing_new", "refused"]):
        story.tell(number, "retrain_started", retrain=f"t-{number}", reason="x")
        story.tell(number, "retrain_ended", retrain=f"t-{number}", outcome=outcome, reasons=[])
    spent = brake(story.state, RETRAIN, START + timedelta(hours=12))
    assert spent == "the budget of 2 retrains in 1d is spent"
    assert brake(story.state, RETRAIN, START + timedelta(hours=26)) == ""


def test_the_windows_of_another_champion_do_not_count() -> None:
    """Right after a promotion the new champion has three windows of its own before anything is asked."""
    story = Story().window(1, "drift").window(2, "drift")
    story.tell(2.5, "registered", release="r-2", version=2, run_id="b", gate=[]).tell(2.5, "deployed", release="r-2")
    assert not story.decide(3, "drift").asked
    assert story.window(3, "drift").window(4, "drift").decide(5, "drift").asked


def test_a_former_champion_that_is_better_asks_at_once_and_passes_cooldown() -> None:
    """A returning regime is answered by the version that knows it, for free; a freeze still holds."""
    story = Story().tell(0, "retrain_started", retrain="t-1", reason="x")
    story.tell(0.5, "retrain_ended", retrain="t-1", outcome="kept", reasons=[])
    better = "version 1, a former champion, is better"
    assert story.decide(1, lost=None, former=better) == Decision(asked=True, reason=better, former=True, trains=False)
    frozen = story.tell(0.6, "frozen", reason="launch day").decide(1, former=better)
    assert (frozen.asked, "frozen: launch day" in frozen.reason) == (False, True)


BETTER = "version 1, a former champion, is better"


def former_window(story: Story, number: int, *, in_vain: bool, lost: bool | None = None) -> Decision:
    """A window in which a former champion is better; whoever acts on it half an hour later finds that it is not."""
    answer = story.decide(number, former=BETTER, lost=lost)
    times = {"window": hour(number), "until": hour(number + 1)}
    told = {"outcome": "no_drift", "share": 0.0, "lost": lost, "retrain": answer.to_json()}
    story.tell(number + 1, "watched", **times, **told)
    if answer.asked and in_vain:
        window = unanswered(story.state)
        assert window is not None
        begun = {"retrain": f"t-{number}", "reason": window.reason, "window": window.since, "trains": window.trains}
        story.tell(number + 1.5, "retrain_started", **begun)
        story.tell(number + 1.5, "retrain_ended", retrain=f"t-{number}", outcome="nothing_new", reasons=["no more"])
    return answer


def test_a_former_champion_that_is_never_better_when_somebody_acts_is_asked_for_ever_more_rarely() -> None:
    """At the edge of what can be told: after each look in vain twice as many windows in a row, with the reason."""
    story = Story()
    answers = [former_window(story, number, in_vain=True) for number in range(1, 16)]
    assert [number for number, one in enumerate(answers, 1) if one.asked] == [1, 3, 7, 15]
    assert "no more so when retrain t-1 looked; window 1 of the 2 in a row that count" in answers[1].reason
    assert not any(one.trains for one in answers if one.asked)
    story.tell(16.7, "registered", release="r-2", version=2, run_id="b", gate=[]).tell(16.7, "deployed", release="r-2")
    assert former_window(story, 17, in_vain=False).asked, "the new champion was never looked at"


def test_a_look_in_vain_is_no_answer_to_an_alarm() -> None:
    """Quality was lost in three windows; that a former champion was asked for in between takes none of them away."""
    story = Story().window(1, lost=True)
    assert former_window(story, 2, in_vain=True, lost=True).asked
    assert story.decide(3, lost=True) == Decision(asked=True, reason="quality was lost; 3 windows in a row")
    story = Story().window(1, lost=True).window(2, lost=True)
    both = story.decide(3, lost=True, former=BETTER)
    assert (both.asked, both.trains, both.reason) == (True, True, BETTER)


def test_a_former_champion_that_waits_for_a_person_is_not_asked_for_again() -> None:
    """`retrain.release` is ask: one question is enough, however many windows agree."""
    story = Story().tell(0, "registered", release="r-2", version=2, run_id="b", gate=[])
    story.tell(0, "deployed", release="r-2").tell(1, "retrain_started", retrain="t-1", reason="x", window=hour(0))
    story.tell(1, "retrain_ended", retrain="t-1", outcome="former", release="r-1", reasons=[])
    answer = story.decide(2, former=BETTER)
    assert (answer.asked, "waits for you: `tidegate rollout start r-1`" in answer.reason) == (False, True)


def test_a_window_that_asked_is_answered_once() -> None:
    """Whoever starts the retrain names the window, so a killed scheduler does not start a second one."""
    story = Story().window(1, "drift", asked=True)
    waiting = unanswered(story.state)
    assert waiting is not None
    story.tell(3, "retrain_started", retrain="t-1", reason="x", window=waiting.since)
    assert unanswered(story.state) is None
    assert unanswered(Story().window(1, "drift", asked=True).window(2).state) is None


def test_without_a_champion_there_is_nothing_to_replace() -> None:
    """And nothing to watch."""
    seen = Signs(hour(1), "drift", lost=True)
    assert decide(State(), seen, RETRAIN, MONITOR, START) == Decision(asked=False, reason="there is no champion")
