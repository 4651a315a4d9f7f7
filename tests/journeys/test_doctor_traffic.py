"""`doctor traffic` on the real gateway, and the judge that must not count it."""

from __future__ import annotations

import pytest
from journeys.journey import Journey, wait_until

pytestmark = pytest.mark.slow


def test_a_real_gateway_keeps_its_promises_with_and_without_a_rollout(stack: Journey) -> None:
    """A thousand made-up users each, none of them evidence."""
    quiet = stack.must("doctor", "traffic", "--json").json
    assert (quiet["ok"], quiet["rollout"], quiet["canary"]) == (True, None, 0)
    stack.configure(step="{min: 10m, max: 20m}")
    with stack.rollout_running():
        wait_until(lambda: any(one.weight == 20 for one in stack.log()[-50:]), "20 % is not routed")
        split = stack.must("doctor", "traffic", "--json").json
        assert (split["ok"], split["rollout"], split["weight"]) == (True, stack.rollout.id, 20)
        assert split["canary"] > 0
        stack.must("rollout", "abort")
    asked = [one for one in stack.log() if (one.unit or "").startswith("doctor-")]
    assert asked
    assert [one for one in asked if one.kind == "split"] == []
