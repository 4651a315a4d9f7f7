"""A plan without a ledger: the `rollout:` section as somebody sends it with a request, for the judge alone.

What tidegate measures on the stable arm before a start only tunes a test's speed and the forecast; here it may be said,
else it is what a replay takes. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field, ValidationError

from tidegate.core.config_live import Rollout
from tidegate.core.config_types import PositiveSeconds, Section
from tidegate.core.errors import UsageError
from tidegate.rollouts.plan import RolloutPlan, source_of
from tidegate.rollouts.planning import Measured, kind_of, make_plan
from tidegate.rollouts.stats.latency import SHARES, LatencyLines

_EXPECTED: Final = {"accuracy": 0.9, "conversion": 0.05}
_RATE: Final = 0.005


class _Told(Section):
    """What is known of a metric of the stable arm."""

    value: float = Field(description="Its share or mean.")
    variance: float = Field(default=1.0, gt=0, description="Of a mean: from user to user.")


class InlinePlan(Rollout):
    """The `rollout:` section, and what a request must say in place of a project."""

    block: PositiveSeconds = Field(default=60.0, description="How long one interval of the counts is.")
    units_per_minute: float = Field(default=0.0, ge=0, description="New users a minute on both arms; 0: not known.")
    bunching: float = Field(default=1.0, ge=1, lt=1e6, description="Design effect of slow requests that come together.")
    maturity: PositiveSeconds = Field(default=1800.0, description="Age at which labels are counted.")
    measured: Mapping[str, _Told] = Field(default={}, description="What the stable arm showed, for means needed.")


def inline_plan(document: Mapping[str, Any], rollout: str) -> RolloutPlan:
    """The plan that a request carries.

    Args:
        document: see `InlinePlan`; `steps` must be written out.
        rollout: the id that the plan gets.

    Raises:
        UsageError: it is no such section, or there can be no plan of it.
    """
    try:
        section = InlinePlan.model_validate(document, context={"file": True})
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'plan'}: {one['msg']}" for one in error.errors()
        )
        raise UsageError(
            f"The plan cannot be read: {told}.", "It holds the keys of `rollout:` in tidegate.yaml."
        ) from None
    if section.steps == "auto":
        raise UsageError("The plan says `steps: auto`.", "Write the weights of the Rollout's steps, such as [10, 50].")
    names = [one.metric for one in section.guardrails] + ([section.goal.metric] if section.goal else [])
    lines = LatencyLines((0.0,) * 3, (0.0,) * 3, (section.bunching,) * len(SHARES), 0)
    plan = make_plan(
        section.model_copy(update={"shadow": False}),
        rollout_id=rollout,
        block_seconds=section.block,
        units_per_minute=section.units_per_minute,
        error_rate=section.measured["error_rate"].value if "error_rate" in section.measured else _RATE,
        latency=lines,
        others={name: _measured(name, section) for name in names if name not in {"latency", "error_rate"}},
    )
    return dataclasses.replace(plan, warnings=())


def _measured(name: str, section: InlinePlan) -> Measured:
    source, told = source_of(name), section.measured.get(name)
    if source == "own":
        raise UsageError(
            f"{name} is a function, which the judge alone cannot call.",
            "Start the rollout with tidegate, or guard a metric that it counts by itself.",
        )
    delay = {"requests": 0.0, "labels": section.maturity, "outcomes": section.unit.window}[source]
    if told is not None:
        return Measured(told.value, told.variance, kind_of(name), source=source, delay=delay)
    if kind_of(name) == "mean":
        raise UsageError(
            f"{name} is a mean, and nobody said what the stable arm's is.",
            f"Write measured: {{{name}: {{value: MEAN, variance: VARIANCE}}}} into the plan.",
        )
    return Measured(_EXPECTED.get(name, _RATE), kind="share", source=source, delay=delay)
