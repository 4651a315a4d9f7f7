"""The offline formula of the split; tests/serving/test_gateway_split.py holds it against the real Envoy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.assignment import assigned_arm, bucket


def test_the_hash_is_xxh64_of_rollout_and_unit() -> None:
    """Fixed values: a change of library or encoding would re-deal every running rollout."""
    assert [bucket("ro-1", "user-1"), bucket("ro-1", "Zoë"), bucket("none", "")] == [3, 59, 83]


@given(st.text(), st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_weight_only_adds_units_to_the_canary(rollout: str, unit: str, one: int, other: int) -> None:
    """Monotone in the weight, nobody at 0, everybody at 100."""
    small, large = sorted((one, other))
    if assigned_arm(rollout, unit, small) == "canary":
        assert assigned_arm(rollout, unit, large) == "canary"
    assert assigned_arm(rollout, unit, 0) == "stable"
    assert assigned_arm(rollout, unit, 100) == "canary"
