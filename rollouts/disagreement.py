"""Where two versions disagree: by the class that the stable one predicts, and by the values of the gate's slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Values of one column that are told apart; further ones are counted together.
MOST_GROUPS: Final = 50
# What a page or a terminal shows of them: the largest.
_SHOWN: Final = 10
_REST: Final = "(others)"
_LONGEST: Final = 64
# Fewer rows of a group are an anecdote.
_FEW: Final = 20


class Groups:
    """Rows and disagreements of each value of some columns; the state is JSON.

    Args:
        state: a former `state()`.
    """

    def __init__(self, state: Mapping[str, Mapping[str, list[float]]] | None = None) -> None:
        # Column -> value -> [rows, rows with another class or sum of distances].
        self._columns = {name: {key: list(sums) for key, sums in one.items()} for name, one in (state or {}).items()}

    def add(self, column: str, value: Any, distance: float) -> None:
        """Count a row.

        Args:
            column: which grouping.
            value: of the row in it.
            distance: 1 for another class and 0 for the same, or how far two numbers are apart.
        """
        groups = self._columns.setdefault(column, {})
        key = str(value)[:_LONGEST]
        if key not in groups and len(groups) >= MOST_GROUPS:
            key = _REST
        sums = groups.setdefault(key, [0, 0.0])
        sums[0] += 1
        sums[1] += distance

    def state(self) -> dict[str, dict[str, list[float]]]:
        """JSON with which a new one goes on."""
        return {name: {key: list(sums) for key, sums in one.items()} for name, one in self._columns.items()}

    def numbers(self, column: str) -> list[dict[str, Any]]:
        """The largest groups of a column: their value, rows, and mean distance of a row, largest group first."""
        groups = sorted(self._columns.get(column, {}).items(), key=lambda group: -group[1][0])[:_SHOWN]
        return [{"value": key, "rows": int(rows), "difference": total / rows} for key, (rows, total) in groups]

    def columns(self) -> list[str]:
        """Every column that was counted."""
        return list(self._columns)


def worst(groups: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The group with the largest difference among those with rows enough; None if there is no choice."""
    known = [one for one in groups if one["rows"] >= _FEW and one["value"] != _REST]
    return max(known, key=lambda one: one["difference"]) if len(known) > 1 else None
