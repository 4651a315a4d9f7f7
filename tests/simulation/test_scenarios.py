"""What installs with tidegate as a scenario holds: the judge keeps every bound that the scenario expects of it."""

from __future__ import annotations

import pytest

from tidegate.rollouts.simulation.run import Report, play, policies_for
from tidegate.rollouts.simulation.scenario import load, names, plan_for

pytestmark = pytest.mark.long

RUNS = 300


@pytest.mark.parametrize("name", names())
def test_the_judge_keeps_what_each_scenario_expects(name: str) -> None:
    """Equal canaries stay, bad ones go: with incidents, daily cycles, heavy and returning users, and late labels."""
    scenario = load(name, runs=RUNS, seed=11)
    plan = plan_for(scenario)
    ours = play(policies_for(scenario, plan)[0], scenario, plan)
    report = Report(name, scenario, plan, (ours,))
    assert report.broken() == (), ours
    error = (plan.alpha * (1 - plan.alpha) / RUNS) ** 0.5
    assert report.harmful or ours.rolled_back <= plan.alpha + 3 * error
