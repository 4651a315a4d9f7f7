"""Metrics by name: those of core/metrics.py, and the user's own `module:function(y_true, prediction, frame)`.

`frame` holds the raw columns of the same rows, with the model's `score_<k>` columns beside them. Higher is better,
unless the function carries `higher_is_better = False`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.core import metrics
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.pipelines import user_code

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.metrics import Direction, Scored
    from tidegate.core.project import Project


@dataclass(frozen=True)
class Measure:
    """One metric: its name, which way is better, and for the user's own its function."""

    name: str
    direction: Direction
    function: Callable[..., Any] | None = None

    def of(self, scored: Scored, frame: pd.DataFrame) -> float:
        """The metric on these rows; NaN where it is not defined.

        Raises:
            TidegateError: the user's function failed, or gave no number.
        """
        if self.function is None:
            return metrics.compute(self.name, scored)
        try:
            value = self.function(scored.truth, scored.prediction, with_scores(frame, scored))
            return float(value)
        except Exception as error:
            raise TidegateError(
                f"The metric {self.name} failed: {type(error).__name__}: {error}",
                "It is called as function(y_true, prediction, frame) and must return one number.",
            ) from error


def with_scores(frame: pd.DataFrame, scored: Scored) -> pd.DataFrame:
    """The raw rows with the model's scores beside them."""
    if scored.scores is None:
        return frame
    return frame.assign(**{f"score_{k}": scored.scores[:, k] for k in range(scored.scores.shape[1])})


def measure(project: Project, name: str, scored: Scored) -> Measure:
    """The metric called `name`.

    Raises:
        ConfigError: it does not fit the task, or needs probabilities that the model does not give.
        UserCodeFailed: importing the user's own failed.
    """
    if ":" in name:
        return own_measure(project, name)
    usable = metrics.names(project.config.task, scored)
    if name not in usable:
        raise ConfigError(
            f"The metric {name} cannot be computed for this {project.config.task} model.",
            f"These can: {', '.join(usable)}; own ones are written module:function.",
        )
    return Measure(name, metrics.DIRECTIONS[name])


def own_measure(project: Project, name: str) -> Measure:
    """The user's own metric, by the code of the project as it is now; raises as `measure`."""
    with user_code.importable(project.root, project.config.train.code):
        function = user_code.load_function(project.root, name, "the metric")
    return Measure(name, "higher" if getattr(function, "higher_is_better", True) else "lower", function)


def measures(project: Project, scored: Scored) -> tuple[Measure, ...]:
    """Every metric that fits the task, then the user's own ones that the gate names."""
    gate = project.config.gate
    wanted = [name for name in (gate.metric, *(check.metric for check in gate.checks)) if name]
    known: Sequence[str] = metrics.names(project.config.task, scored) if project.config.task != "custom" else ()
    return tuple(measure(project, name, scored) for name in dict.fromkeys([*known, *wanted]))


def finite(values: dict[str, float]) -> dict[str, float]:
    """Without the metrics that are not defined on these rows."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
