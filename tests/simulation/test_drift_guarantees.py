"""What every verdict promises: no alarm on the same distribution or a trifle, one on half a spread, at any size."""

from __future__ import annotations

import pytest
from simulation.drifting import KINDS, NEVER_MOVES, alarms

from tidegate.core.config_live import Drift

SIZES = (500, 5_000, 50_000, 500_000)
MOVING = [name for name in KINDS if name not in NEVER_MOVES]


@pytest.mark.slow
def test_few_rows_of_the_same_distribution_raise_no_alarm() -> None:
    """One in a hundred at most, heavy tails and a thousand categories among them."""
    found = alarms(500, 60, 0.0)
    assert {name: count for name, count in found.columns.items() if count > 1} == {}


def test_few_rows_moved_by_a_trifle_raise_no_alarm_and_moved_by_half_a_spread_do() -> None:
    """0.02 of a spread is nothing anybody would act on; 0.5 is."""
    trifle, half = alarms(500, 10, 0.02), alarms(500, 10, 0.5)
    assert {name: count for name, count in trifle.columns.items() if count > 1} == {}
    assert {name: half.columns[name] for name in MOVING if half.columns[name] < 8} == {}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rows", SIZES)
def test_the_same_distribution_raises_no_alarm_at_any_size(rows: int) -> None:
    """In 99 % of 200 seeded draws at the least, for every column."""
    found = alarms(rows, 200, 0.0)
    assert {name: count for name, count in found.columns.items() if count > 2} == {}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize(("numerical", "categorical"), [("wasserstein", "jensenshannon"), ("psi", "psi")])
def test_a_trifle_raises_no_alarm_and_half_a_spread_does_at_any_size(
    rows: int, numerical: str, categorical: str
) -> None:
    """An effect size means the same with 500 rows and with 500,000."""
    policy = Drift(numerical=numerical, categorical=categorical)  # type: ignore[arg-type]  # checked by pydantic
    trifle, half = (alarms(rows, 30, shift, policy) for shift in (0.02, 0.5))
    assert {name: count for name, count in trifle.columns.items() if count > 1} == {}
    assert {name: half.columns[name] for name in MOVING if half.columns[name] < 24} == {}
