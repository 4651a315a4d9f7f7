"""From the monitor's document to the signs that the trigger weighs."""

from __future__ import annotations

from typing import Any

from tidegate.monitors.trigger import Signs
from tidegate.pipelines.alarm import signs
from tidegate.pipelines.live_quality import lost, of_champion

WINDOW = {"from": "2026-03-01T11:00:00+00:00", "to": "2026-03-01T12:00:00+00:00", "rows": 900}


def document(**quality: Any) -> dict[str, Any]:
    measured = {"metric": "accuracy", "value": 0.78, "low": 0.76, "high": 0.80, "reference": 0.80, "lost": False}
    return {
        "window": WINDOW,
        "outcome": "no_drift",
        "reasons": ["price drifted"],
        "quality": {"lost": False, "versions": [{"release": "r-2", **measured, **quality}]},
    }


def signs_of(document: dict[str, Any], champion: str = "r-2", **more: Any) -> Signs:
    return signs(document, of_champion(document["quality"], champion), **more)


def test_the_quality_of_the_champion_is_the_sign() -> None:
    """With its interval, and what it was on the holdout."""
    seen = signs_of(document())
    assert (seen.since, seen.outcome, seen.lost, seen.short) == (WINDOW["from"], "no_drift", False, "")
    assert seen.quality == "accuracy is 0.78 (0.76 to 0.8) on matured labels, 0.8 on the holdout"
    assert seen.drift == "price drifted"


def test_a_window_without_labels_cannot_tell() -> None:
    """None is neither lost nor kept."""
    assert signs_of({**document(), "quality": None}).lost is None
    assert signs_of(document(lost=None, value=None)).quality == ""


def test_a_champion_that_keeps_a_low_promise_falls_short_of_a_former_one() -> None:
    """It was trained while the world changed: its whole interval lies below what version 1 had in its time."""
    short = signs_of(document(), best=(1, 0.95), tolerance=0.05).short
    assert short.endswith("and version 1 had 0.95 in its time")
    assert signs_of(document(), best=(1, 0.84), tolerance=0.05).short == ""
    loss = document(metric="log_loss", value=0.5, low=0.45, high=0.55, reference=0.5)
    assert signs_of(loss, best=(1, 0.2), tolerance=0.05).short
    assert not signs_of(loss, best=(1, 0.42), tolerance=0.05).short


def test_labels_of_the_version_before_say_nothing_against_the_new_champion() -> None:
    """They mature after a promotion, and its loss is why there was one."""
    late = document(lost=True)
    assert lost(late["quality"], "r-2") is True
    assert lost(late["quality"], "r-3") is None
    assert signs_of(late, champion="r-3").lost is None
