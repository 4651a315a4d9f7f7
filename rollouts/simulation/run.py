"""Runs a scenario: every policy on traffic of its own, drawn with the same seed, and what came of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.errors import UsageError
from tidegate.core.progress import Progress, Silent
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.simulation.ours import Tidegate
from tidegate.rollouts.simulation.peers import Clock, peers
from tidegate.rollouts.simulation.policy import PROMOTED, ROLLED_BACK, Policy, running
from tidegate.rollouts.simulation.scenario import MINUTE, Bound, Scenario, plan_for
from tidegate.rollouts.simulation.traffic import Traffic, View

Floats = npt.NDArray[np.float64]

OUTCOMES = ("rolled_back", "promoted", "inconclusive", "undecided")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy did.

    Attributes:
        policy: its name.
        rolled_back: share of runs.
        promoted: share of runs.
        inconclusive: share that waited for a person at the end.
        undecided: share that was still running.
        standard_error: of each of the four.
        counts: whether canary units are users or requests.
        median_canary_units: who met the canary until the run was decided, or to the end.
        median_minutes: until half of the runs were rolled back or promoted; None: they were not.
    """

    policy: str
    rolled_back: float
    promoted: float
    inconclusive: float
    undecided: float
    standard_error: dict[str, float]
    counts: str
    median_canary_units: float
    median_minutes: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All of a simulation; `outcomes` begins with tidegate's own."""

    name: str
    scenario: Scenario
    plan: RolloutPlan
    outcomes: tuple[Outcome, ...]

    @property
    def harmful(self) -> bool:
        """Whether the canary is beyond the harm line, so that rolling it back is right."""
        return self.scenario.harmful(self.plan)

    @property
    def rollback_means(self) -> str:
        """What the share rolled back is."""
        return "power" if self.harmful else "false_rollback"

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        scenario = self.scenario
        return {
            "kind": "simulation",
            "scenario": self.name,
            "about": scenario.about,
            "runs": scenario.runs,
            "seed": scenario.seed,
            "minutes": scenario.duration / MINUTE,
            "mode": self.plan.mode,
            "steps": list(self.plan.steps),
            "harmful": self.harmful,
            "rollback_means": self.rollback_means,
            "rows": [asdict(outcome) for outcome in self.outcomes],
            "broken": list(self.broken()),
        }

    def broken(self) -> tuple[str, ...]:
        """Each bound of `expect` that tidegate's row does not keep, as a sentence."""
        ours, expect = self.outcomes[0], self.scenario.expect
        found = []
        for key in type(expect).model_fields:
            bound: Bound | None = getattr(expect, key)
            value = getattr(ours, "rolled_back" if key in {"power", "false_rollback"} else key)
            if bound is not None and (why := bound.broken_by(value)):
                found.append(f"expect.{key}: {why}.")
        return tuple(found)


def simulate(name: str, scenario: Scenario, progress: Progress | None = None) -> Report:
    """Play the scenario for each policy.

    Args:
        name: as it was asked for.
        scenario: what happens.
        progress: where to say how far it is.

    Raises:
        UsageError: the scenario's policy cannot be planned, or `expect` bounds what it cannot have.
    """
    plan, progress = plan_for(scenario), progress or Silent()
    _refuse_misplaced(scenario, plan)
    policies = policies_for(scenario, plan)
    with progress.task("simulate", total=len(policies)) as task:
        outcomes = []
        for policy in policies:
            outcomes.append(play(policy, scenario, plan))
            task.advance(text=policy.name)
    return Report(name, scenario, plan, tuple(outcomes))


def _refuse_misplaced(scenario: Scenario, plan: RolloutPlan) -> None:
    """Refuse a bound on what this scenario cannot have."""
    harmful, expect = scenario.harmful(plan), scenario.expect
    if (expect.false_rollback if harmful else expect.power) is not None:
        key, truth = ("false_rollback", "beyond") if harmful else ("power", "within")
        raise UsageError(
            f"The scenario expects a bound on {key}, but its canary lies {truth} the harm line.",
            f"Rolling it back is {'right: expect.power' if harmful else 'wrong: expect.false_rollback'}.",
        )


def policies_for(scenario: Scenario, plan: RolloutPlan) -> list[Policy]:
    """The judge; the judge without the rule that the scenario is about; the peers."""
    runs = scenario.runs
    found: list[Policy] = [Tidegate(plan, runs, view="first" if plan.unit == "user" else "requests")]
    wrong: list[tuple[View, str]] = []
    if scenario.regulars and plan.unit == "user":
        wrong.append(("requests", "tidegate, if it counted requests"))
    if scenario.returning_users and plan.unit == "user":
        wrong.append(("once_per_arm", "tidegate, if users counted in each arm"))
    if scenario.labels:
        wrong.append(("requests", "tidegate, if it took labels as they come"))
    found += [Tidegate(plan, runs, view=view, name=name, ratio_check=False) for view, name in wrong]
    return found + peers(Clock(plan.steps, scenario.blocks, scenario.block, runs))


def play(policy: Policy, scenario: Scenario, plan: RolloutPlan) -> Outcome:
    """Let one policy decide every run of the scenario."""
    traffic = Traffic(scenario, plan, np.random.default_rng(scenario.seed))
    units, minutes = np.zeros(scenario.runs), np.full(scenario.runs, math.inf)
    for index in range(scenario.blocks):
        live = running(policy.weight)
        if not live.any():
            break
        shown = traffic.block(index, policy.weight)
        units += np.where(live, shown.exposed[policy.view], 0)
        policy.see(shown)
        minutes[live & ~running(policy.weight)] = (index + 1) * scenario.block / MINUTE
    return _outcome(policy, units, minutes)


def _outcome(policy: Policy, units: Floats, minutes: Floats) -> Outcome:
    open_ = running(policy.weight)
    found = (policy.weight == ROLLED_BACK, policy.weight == PROMOTED, open_ & policy.waits, open_ & ~policy.waits)
    shares = {name: float(which.mean()) for name, which in zip(OUTCOMES, found, strict=True)}
    median = float(np.median(minutes)) if np.isfinite(minutes).mean() > 0.5 else math.inf  # noqa: PLR2004 - a half
    return Outcome(
        policy.name,
        **shares,
        standard_error={name: math.sqrt(p * (1 - p) / len(units)) for name, p in shares.items()},
        counts="requests" if policy.view == "requests" else "users",
        median_canary_units=float(np.median(units)),
        median_minutes=median if math.isfinite(median) else None,
    )
