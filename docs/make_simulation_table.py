"""Plays the built-in scenarios of `tidegate rollout simulate` and writes what came of them into docs/judge.md.

python docs/make_simulation_table.py [RUNS]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tidegate.cli.progress import progress
from tidegate.rollouts.simulation.run import Outcome, Report, simulate
from tidegate.rollouts.simulation.scenario import load, names

_TARGET = Path(__file__).parent / "judge.md"
BEGIN, END = "<!-- simulated: make simulate -->", "<!-- end of simulated -->"
# 5 % is known to half a point.
_RUNS = 2000
# Rules that are played in every scenario, by how their names begin.
_POLICIES = {
    "tidegate": "tidegate",
    "Argo ≥ 95 %": "Argo Rollouts, success >= 95 %",
    "Argo ≥ 99 %": "Argo Rollouts, success >= 99 %",
    "Flagger ≥ 99 %": "Flagger",
    "Kayenta": "Kayenta",
    "z-test, peeked": "z-test",
}


def main() -> None:
    """Play everything and replace what stands between the two comments."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else _RUNS
    told = progress()
    reports = [simulate(name, load(name, runs=runs), told) for name in names()]
    text = _TARGET.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    _TARGET.write_text(f"{before}{BEGIN}\n\n{_written(reports, runs)}\n{END}{after}", encoding="utf-8")


def _written(reports: Sequence[Report], runs: int) -> str:
    harmless = [report for report in reports if not report.harmful]
    harmful = [report for report in reports if report.harmful]
    parts = [
        f"{runs:,} rollouts for each cell, seed {reports[0].scenario.seed}.",
        "Harmless canaries, rolled back all the same (per cent):",
        _table(("scenario", *_POLICIES), ([f"`{r.name}`", *map(_rolled_back, _chosen(r))] for r in harmless)),
        "Harmful canaries: rolled back (per cent), promoted (per cent), canary users or requests until then (median):",
        _table(("scenario", *_POLICIES), ([f"`{r.name}`", *map(_all, _chosen(r))] for r in harmful)),
        "tidegate without the rule that a scenario is about, on harmless canaries:",
        _table(("scenario", "rule that is missing", "rolled back"), _without(harmless)),
    ]
    return "\n\n".join(parts) + "\n"


def _chosen(report: Report) -> list[Outcome]:
    by_name = {outcome.policy: outcome for outcome in report.outcomes}
    exact = [by_name.get(start) for start in _POLICIES.values()]
    return [
        found or next(one for one in report.outcomes if one.policy.startswith(start))
        for found, start in zip(exact, _POLICIES.values(), strict=True)
    ]


def _without(reports: Iterable[Report]) -> Iterable[list[str]]:
    for report in reports:
        for outcome in report.outcomes:
            if outcome.policy.startswith("tidegate, "):
                yield [f"`{report.name}`", outcome.policy.removeprefix("tidegate, "), _rolled_back(outcome)]


def _rolled_back(outcome: Outcome) -> str:
    return f"{100 * outcome.rolled_back:.1f}"


def _all(outcome: Outcome) -> str:
    return f"{100 * outcome.rolled_back:.1f} · {100 * outcome.promoted:.1f} · {outcome.median_canary_units:,.0f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["-"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
