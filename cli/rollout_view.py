"""What `rollout watch` draws on a terminal: the ramp, users, and each metric against its lines, in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from tidegate.core.units import span

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.rollouts.plan import Line, RolloutPlan

Document = Mapping[str, Any]

_SCALE, _PROGRESS, _RAMP = 29, 10, 40
"""Characters of a metric's scale, of evidence, and of the ramp."""
_STATES = {"promoted": "bold green", "rolled_back": "bold red", "aborted": "bold red", "running": "bold"}
_SIMPLE = str.maketrans("━●┃│╎█░·", "=o|!:#..")
"""For terminals without such characters."""


@contextmanager
def live(console: Console, plan: RolloutPlan) -> Iterator[Callable[[Document], None]]:
    """Draw documents of `rollout status` in one place; the last one stays."""
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as screen:

        def show(document: Document) -> None:
            drawn = picture(document, plan, datetime.now(UTC))
            if console.options.ascii_only:
                drawn.plain = drawn.plain.translate(_SIMPLE)
            screen.update(drawn, refresh=True)

        yield show


def picture(document: Document, plan: RolloutPlan, now: datetime) -> Text:
    """Everything about a rollout at a moment."""
    shadow, left = document["shadow"], document["forecast_seconds"]
    copies = shadow is not None and shadow["running"]
    lines = [_head(document, now), _ramp(document)]
    if copies:
        lines.append(Text(shadow.get("sentence", "nothing was compared.")))
    else:
        lines.append(_users(document))
        lines += [line for one, pair in _streams(document, plan) for line in _metric(one, pair, plan)]
        if len(plan.streams) > 1:
            together = _evidence("harm", document["log_e_harm"], plan.alpha, "red")
            lines.append(Text.assemble((f"{'all together':<13}", "bold"), together))
        lines.append(_legend(plan))
    if left:
        lines.append(Text(f"about {span(left)} left in this {'phase' if copies else 'step'}, if the canary is good"))
    if document["state"] != "running":
        lines += [Text(str(reason)) for reason in document["reasons"]]
    return Text("\n").join(lines)


def _head(document: Document, now: datetime) -> Text:
    arms, state, ended = document["arms"], document["state"], document["ended_at"]
    until = datetime.fromisoformat(ended) if ended else now
    lasted = span((until - datetime.fromisoformat(document["started_at"])).total_seconds())
    text = Text(f"{document['id']}  version {arms['canary']['version']} against {arms['stable']['version']}  ")
    text.append(state.replace("_", " "), style=_STATES.get(state, "bold yellow"))
    return text.append(f" after {lasted}" if ended else f" for {lasted}", style="dim")


def _ramp(document: Document) -> Text:
    """The canary's share as a bar, and the steps of the plan with the one of now in bold."""
    weight, plan = document["weight"], document["plan"]
    full = round(_RAMP * weight / 100)
    text = Text("canary  ").append("█" * full, style="cyan").append("░" * (_RAMP - full), style="dim")
    text.append(f" {weight:>3} %", style="bold").append("  steps", style="dim")
    for at, step in enumerate(plan["steps"]):
        now = document["state"] in {"running", "held"} and at == plan["step"]
        text.append(f" {step}", style="bold" if now else "dim")
    return text


def _users(document: Document) -> Text:
    units, srm = document["units"], document["srm"]
    text = Text(f"users   canary {units['canary']:,}  stable {units['stable']:,}  sample ratio ")
    return text.append("as planned") if srm["ok"] else text.append("NOT as planned", style="bold red")


Lines = tuple["Line | None", "Line"]
"""The harm and the safe line; a goal has no harm line."""


def _streams(document: Document, plan: RolloutPlan) -> list[tuple[Document, Lines]]:
    """Every counted metric with its lines."""
    from tidegate.rollouts.plan import Line

    told = [part for metric in document["metrics"] for part in metric.get("parts", [metric])]
    planned: list[Lines] = [(stream.harm, stream.safe) for stream in plan.streams]
    planned += [(None, Line(1.0, plan.goal.improve_by))] if plan.goal else []
    return list(zip(told, planned, strict=False))


def _metric(one: Document, lines: Lines, plan: RolloutPlan) -> tuple[Text, Text]:
    """The effect with its interval against both lines; under it the evidence on its way to what decides."""
    effect = "-" if one["effect"] is None else f"{_points(one['effect'])} pp"
    interval = "too few users yet" if one["low"] is None else f"{_points(one['low'])} to {_points(one['high'])}"
    first = Text.assemble((f"{one['name']:<12}", "bold"), f" {effect:>9}  {interval:<20} ")
    evidence = [_evidence("safe", one["log_e_safe"], plan.beta, "green")]
    if one["log_e_harm"] is not None:
        evidence.insert(0, _evidence("harm", one["log_e_harm"], plan.alpha, "red"))
    return first.append(_scale(one, lines)), Text(" " * 13).append(Text("    ").join(evidence))


def _scale(one: Document, lines: Lines) -> Text:
    """The interval on a scale with zero in its middle and both lines in its middle half; dots before there is data."""
    if one["effect"] is None:
        return Text("·" * _SCALE, style="dim")
    stable = one["events"]["stable"] / max(one["units"]["stable"], 1)
    harm, safe = None if lines[0] is None else lines[0].above(stable), lines[1].above(stable)
    reach: float = 2 * max(1e-6, abs(harm or 0.0), abs(safe), abs(one["effect"]) / 1.5)

    def place(value: float) -> int:
        return round((_SCALE - 1) * min(max((value + reach) / (2 * reach), 0.0), 1.0))

    cells = [("·", "dim")] * _SCALE
    cells[place(0.0)] = ("╎", "dim")
    if one["low"] is not None:
        low, high = place(one["low"]), place(one["high"])
        cells[low : high + 1] = [("━", "cyan")] * (high - low + 1)
    cells[place(safe)] = ("│", "green")
    if harm is not None:
        cells[place(harm)] = ("┃", "red")
    cells[place(one["effect"])] = ("●", "bold cyan")
    return Text.assemble(*cells)


def _evidence(what: str, log_e: float, level: float, style: str) -> Text:
    """Odds, and how far they are on the way to those that decide."""
    done = min(max(log_e / -math.log(level), 0.0), 1.0)
    full = math.floor(_PROGRESS * done)
    text = Text(f"{what} {_odds(log_e):>8} ").append("█" * full, style=style)
    return text.append("░" * (_PROGRESS - full), style="dim").append(f" {math.floor(100 * done):>3} %")


def _legend(plan: RolloutPlan) -> Text:
    needed = f"decides: {1 / plan.alpha:,.0f}:1 harm, {1 / plan.beta:,.0f}:1 safe"
    lines = (("┃", "red"), (" harm line  ", "dim"), ("│", "green"), (" safe line  ", "dim"))
    return Text.assemble(*lines, ("━", "cyan"), (f" confidence sequence  {needed}", "dim"))


def _odds(log_e: float) -> str:
    """Short, for columns: beyond a million or a thousandth it does not matter by how much."""
    value = math.exp(min(max(log_e, math.log(1e-3)), math.log(1e6)))
    bound = ">" if log_e > math.log(1e6) else "<" if log_e < math.log(1e-3) else ""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{bound}{value / size:.0f}{unit}:1"
    return f"{bound}{value:,.0f}:1" if value >= 10 else f"{bound}{value:.2g}:1"  # noqa: PLR2004 - two digits below


def _points(share: float) -> str:
    value = 100 * share
    return f"{value:+.2f}" if abs(value) < 10 else f"{value:+.0f}"  # noqa: PLR2004 - whole points from 10 on
