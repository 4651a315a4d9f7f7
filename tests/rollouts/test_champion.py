"""What replaces a champion that has just been promoted: only what cannot be an outage of everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import log_line

from tidegate.rollouts.champion import ChampionWatch


class Watched:
    """A champion r-2 with a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_800_000_000.0
        self.log = folder / "access.jsonl"
        self.watch = ChampionWatch("r-2", self.log, 4.0, lambda: self.now)

    def after(self, seconds: float, *, alive: bool = True, ready: bool = True, warm_ready: bool = True) -> str:
        """Tick twice a second; the last answer."""
        why = ""
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            why = why or self.watch.tick(alive=alive, ready=ready, warm_ready=warm_ready)
        return why


@pytest.fixture
def champion(tmp_path: Path) -> Watched:
    found = Watched(tmp_path)
    assert found.after(2) == ""
    return found


def test_a_dead_champion_goes_at_once(champion: Watched) -> None:
    """There is nothing to wait for."""
    assert champion.after(0.5, alive=False, ready=False) == "its process died"


def test_a_champion_that_is_only_being_started_has_not_died(tmp_path: Path) -> None:
    """After `up`, a warm process may answer before the champion's is there; if it never comes, it goes."""
    begun = Watched(tmp_path)
    assert begun.after(80, alive=False, ready=False) == ""
    assert begun.after(20, alive=True, ready=False) == "it did not become ready within 90 seconds"
    again = Watched(tmp_path)
    assert again.after(5, alive=False, ready=False) == ""
    assert again.after(100) == ""


def test_a_silent_champion_goes_while_the_warm_one_answers(champion: Watched) -> None:
    """Within seconds, but not by one look."""
    assert champion.after(1, ready=False) == ""
    assert "readiness" in champion.after(2, ready=False)


def test_a_stall_of_both_is_no_reason_to_go_back(champion: Watched) -> None:
    """The champion is looked at first, so for a moment only it seems silent."""
    assert champion.after(1, ready=False) == ""
    assert champion.after(60, ready=False, warm_ready=False) == ""
    assert champion.after(1, ready=False) == ""
    assert champion.after(10) == ""


def test_a_champion_that_fails_every_request_goes(champion: Watched) -> None:
    """With how many there were."""
    champion.log.write_bytes(
        b"".join(log_line(at=champion.now, cluster="stable/r-2/127.0.0.1:1", status=500) for _ in range(30))
    )
    assert "all 30 requests to it failed" in champion.after(5)
