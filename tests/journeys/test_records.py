"""A prediction through the whole stack is written down, traced by its id, and forgotten when its user asks."""

from __future__ import annotations

import httpx
import pytest
from journeys.journey import Journey, wait_until

from tidegate.serving.telemetry import Predictions

pytestmark = pytest.mark.long


def test_a_prediction_is_recorded_traced_and_erased(stack: Journey) -> None:
    """The same command tells more once the record is in the store, and less once the user is erased."""
    url, user = f"{stack.address}/predict", {"x-user-id": "somebody-special", "content-type": "application/json"}
    reply = httpx.post(url, content=stack.bodies[0], headers=user, trust_env=False)
    assert reply.status_code == 200
    name = reply.headers["x-tidegate-prediction-id"]
    told = stack.must("why", name, "--json").json
    assert told["release"] == stack.champion
    telemetry = Predictions(stack.environment.store, stack.environment.stream)
    wait_until(lambda: telemetry.find(name), "no record came")
    told = stack.must("why", name, "--json").json
    assert (told["release"], told["unit"]) == (stack.champion, "somebody-special")
    assert told["answer"] == str(reply.json()["predictions"][0]).lower()
    assert told["inputs"]
    assert stack.must("why", f"release:{stack.champion}", "--json").json["predictions"] >= 1
    erased = stack.must("data", "erase", "--unit", "somebody-special", "--yes", "--json").json
    assert (erased["predictions"], erased["requests"] >= 1) == (1, True)
    assert telemetry.find(name) is None
    told = stack.must("why", name, "--json").json
    assert told["unit"] != "somebody-special"
    assert "inputs" not in told
