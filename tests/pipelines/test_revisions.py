"""What should run, and who gets the traffic of those that do: the ledger asks, reality answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipelines.revisions import Wanted, routing, wanted
from tidegate.registry.state import Retired, RolloutState, State
from tidegate.serving.deploy import Running
from tidegate.serving.gateway.state import GatewayState, Upstream

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROLLOUT = RolloutState("o-1", "r-1", "r-2", {}, (20, 50), "2026-01-01T11:00:00+00:00")
SERVING = State(champion="r-1", challenger="r-2", versions={"r-1": 1, "r-2": 2})


def running(*ready: str, loading: tuple[str, ...] = ()) -> dict[str, Running]:
    names = [(name, True) for name in ready] + [(name, False) for name in loading]
    return {name: Running(name, 1, 100, 20_000 + index, is_ready) for index, (name, is_ready) in enumerate(names)}


def serving(release: str | None) -> GatewayState:
    """How traffic is split now: everybody to `release`, at a port it had before."""
    return GatewayState(None if release is None else Upstream(release, 19_999))


def split(state: GatewayState) -> tuple[str | None, str | None, int]:
    """Stable release, canary release, weight."""
    arms = [one.release if one is not None else None for one in (state.stable, state.canary)]
    return arms[0], arms[1], state.weight


def test_nothing_deployed_asks_for_nothing() -> None:
    """An empty ledger needs no process, and the gateway says that nothing is there."""
    asked = wanted(State(), NOW)
    assert (asked.releases, split(routing(asked, {}, serving(None)))) == ((), (None, None, 0))


def test_a_challenger_without_a_rollout_does_not_run() -> None:
    """Only the champion does."""
    assert wanted(SERVING, NOW) == Wanted("r-1")


def test_a_rollout_asks_for_both_arms_at_its_weight() -> None:
    """The champion first; the rollout's id salts the hash."""
    asked = wanted(replace(SERVING, rollouts=(replace(ROLLOUT, step=1),)), NOW)
    assert asked == Wanted("r-1", "r-2", "o-1", 50)
    assert asked.releases == ("r-1", "r-2")


def test_a_canary_in_its_shadow_phase_gets_copies_and_nobody() -> None:
    """As soon as it is ready, held or not; at its first step the copies end."""
    for state in ("running", "held"):
        rollout = replace(ROLLOUT, shadowing=True, state=state)  # type: ignore[arg-type]  # two of the words
        asked = wanted(replace(SERVING, rollouts=(rollout,)), NOW)
        assert asked == Wanted("r-1", "r-2", "o-1", 0, shadow=True)
        assert routing(asked, running("r-1", loading=("r-2",)), serving("r-1")).shadow is None
        split_to = routing(asked, running("r-1", "r-2"), serving("r-1"))
        assert (split(split_to), split_to.shadow) == (("r-1", "r-2", 0), split_to.canary)
    stepped = wanted(replace(SERVING, rollouts=(ROLLOUT,)), NOW)
    assert routing(stepped, running("r-1", "r-2"), serving("r-1")).shadow is None


@pytest.mark.parametrize("word", ["promoted", "rolled_back", "inconclusive", "aborted", "replaced"])
def test_a_rollout_that_is_over_asks_for_no_canary(word: str) -> None:
    """At whatever step it ended."""
    over = replace(ROLLOUT, step=1, state=word)  # type: ignore[arg-type]  # one of the words, by the parameters
    assert wanted(replace(SERVING, rollouts=(over,)), NOW) == Wanted("r-1")


def test_a_held_rollout_keeps_its_split() -> None:
    """A person has yet to decide; users stay where they are."""
    held = replace(SERVING, rollouts=(replace(ROLLOUT, state="held"),))
    assert wanted(held, NOW) == Wanted("r-1", "r-2", "o-1", 20)


@pytest.mark.parametrize(("seconds", "warm"), [(-1, "r-0"), (0, None), (3600, None)])
def test_the_former_champion_stays_warm_exactly_as_long_as_promised(seconds: float, warm: str | None) -> None:
    """Until `keep` seconds after it retired."""
    retired = Retired("r-0", (NOW - timedelta(seconds=600 + seconds)).isoformat(), 600.0)
    asked = wanted(replace(SERVING, retired=retired), NOW)
    assert asked.warm == warm
    assert asked.releases == (("r-1",) if warm is None else ("r-1", warm))


def test_a_release_in_two_roles_is_started_once() -> None:
    """After a rollback the champion is also the one that was kept warm."""
    assert Wanted("r-1", "r-2", "o-1", 20, warm="r-1").releases == ("r-1", "r-2")


def test_the_canary_gets_users_only_once_it_is_ready() -> None:
    """While it loads the stable arm has everybody; the salt is there already."""
    asked = Wanted("r-1", "r-2", "o-1", 20)
    for there in (running("r-1"), running("r-1", loading=("r-2",))):
        state = routing(asked, there, serving("r-1"))
        assert (split(state), state.rollout) == (("r-1", None, 0), "o-1")
    assert split(routing(asked, running("r-1", "r-2"), serving("r-1"))) == ("r-1", "r-2", 20)


def test_the_old_champion_answers_until_the_new_one_is_ready() -> None:
    """A promotion or a rollback drops no request."""
    asked = Wanted("r-2", warm="r-1")
    assert split(routing(asked, running("r-1", loading=("r-2",)), serving("r-1"))) == ("r-1", None, 0)
    assert split(routing(asked, running("r-1"), serving("r-1"))) == ("r-1", None, 0)
    assert split(routing(asked, running("r-1", "r-2"), serving("r-1"))) == ("r-2", None, 0)


def test_a_champion_that_is_not_ready_is_still_better_than_nobody() -> None:
    """With nobody else to answer, the process that lives is asked."""
    assert split(routing(Wanted("r-1"), running(loading=("r-1",)), serving("r-1"))) == ("r-1", None, 0)
    assert split(routing(Wanted("r-2"), running(loading=("r-1", "r-2")), serving("r-1"))) == ("r-2", None, 0)


def test_a_dead_champion_keeps_its_place_while_it_is_started_again() -> None:
    """Its own users get errors for a moment; those of the canary are still answered, and nobody changes arm."""
    asked = Wanted("r-1", "r-2", "o-1", 20)
    assert routing(asked, running("r-2"), serving("r-1")).stable == Upstream("r-1", 19_999)
    assert split(routing(asked, running("r-2"), serving("r-1"))) == ("r-1", "r-2", 20)


def test_a_canary_never_answers_alone() -> None:
    """Where there never was a stable arm there is nothing to compare it with: nobody is sent to it by weight."""
    assert split(routing(Wanted("r-1", "r-2", "o-1", 20), running("r-2"), serving(None))) == (None, None, 0)


names = st.sampled_from(["r-1", "r-2", "r-3"])
maybe = st.none() | names
asks = st.builds(
    lambda stable, canary, weight, warm: Wanted(
        stable, canary if stable else None, "o-1" if stable and canary else "none", weight if canary else 0, warm
    ),
    maybe,
    maybe,
    st.integers(1, 99),
    maybe,
)
reality = st.dictionaries(names, st.booleans()).map(
    lambda found: {
        name: Running(name, 1, 100 + index, 20_000 + index, ready) for index, (name, ready) in enumerate(found.items())
    }
)


@given(asks, reality, maybe)
def test_traffic_only_ever_goes_to_what_runs(asked: Wanted, there: dict[str, Running], current: str | None) -> None:
    """Whatever the ledger asks for and whatever died; the one exception is the stable arm that is being restarted."""
    state = routing(asked, there, serving(current))
    restarting = current == asked.stable and asked.stable not in there
    if state.stable is not None and not (restarting and state.stable == serving(current).stable):
        assert there[state.stable.release].port == state.stable.port
    if state.canary is not None:
        assert there[state.canary.release] == Running(state.canary.release, 1, ANY, state.canary.port, ready=True)
        assert state.stable is not None
    assert state.weight == (asked.weight if state.canary is not None else 0)


@given(asks, reality, maybe)
def test_who_answers_now_is_only_replaced_by_somebody_ready(
    asked: Wanted, there: dict[str, Running], current: str | None
) -> None:
    """Nobody is moved from a ready revision to one that is not, and what is not asked for never takes over."""
    stable = routing(asked, there, serving(current)).stable
    if current in there and there[str(current)].ready:
        assert stable is not None
        assert there[stable.release].ready
    assert stable is None or stable.release in {asked.stable, current}
