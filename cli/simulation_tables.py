"""How `rollout simulate` is drawn for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from tidegate.rollouts.simulation.run import Outcome, Report


def print_names(console: Console, scenarios: Iterable[Mapping[str, str]]) -> None:
    """The built-in scenarios."""
    shown = table("scenario", "what happens")
    for one in scenarios:
        shown.add_row(one["name"], one["about"])
    console.print(shown)


def print_report(console: Console, report: Report) -> None:
    """One row for each policy, what the share rolled back means, and what does not hold."""
    scenario, plan = report.scenario, report.plan
    steps = ", ".join(map(str, plan.steps))
    console.print(f"{report.name}: {scenario.about}", markup=False, soft_wrap=True)
    console.print(
        f"{scenario.runs:,} rollouts of {scenario.duration / 60:g} minutes, {scenario.units_per_minute:g} new users a "
        f"minute, steps [{steps}], mode {plan.mode}",
        markup=False,
    )
    word = report.rollback_means.replace("_", " ")
    truth = "beyond" if report.harmful else "within"
    console.print(f"The canary is {truth} the harm line, so to roll it back is {word}.")
    shown = table("policy", word, "promoted", "waits", "undecided", "median minutes", "median canary exposure")
    for outcome in report.outcomes:
        shown.add_row(*cells(outcome))
    console.print(shown)
    for sentence in report.broken():
        console.print(f"does not hold: {sentence}", markup=False)


def cells(outcome: Outcome) -> tuple[str, ...]:
    """A row: shares in per cent with their standard error, minutes, and who met the canary."""
    error = outcome.standard_error
    shares = [
        f"{100 * share:.1f} ± {100 * error[name]:.1f} %"
        for name, share in (
            ("rolled_back", outcome.rolled_back),
            ("promoted", outcome.promoted),
            ("inconclusive", outcome.inconclusive),
            ("undecided", outcome.undecided),
        )
    ]
    minutes = "never" if outcome.median_minutes is None else f"{outcome.median_minutes:.4g}"
    return outcome.policy, *shares, minutes, f"{outcome.median_canary_units:,.0f} {outcome.counts}"
