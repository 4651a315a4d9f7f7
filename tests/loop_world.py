"""One rollout with users, a gateway and a supervisor on a written log, with a clock of its own.

`World` plays the parts around the loop: Envoy writes lines by the ledger's weight, the supervisor ticks and says what
is applied. Time only passes between ticks, so an interrupted run can be compared with one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fakes import MemoryStore, log_line

from tidegate.core.assignment import assigned_arm
from tidegate.core.config import Rollout
from tidegate.registry.ledger import Draft, Event, Ledger
from tidegate.registry.state import RolloutState, deciding, fold, start
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.drivers.local import LocalDriver
from tidegate.rollouts.health import Health
from tidegate.rollouts.loop import RolloutLoop
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import Measured, make_plan
from tidegate.serving.service.pair_log import Half, encode

# Wide lines, so that some dozen canary users decide.
GUARDRAIL = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.02}, "safe": {"ratio": 1.5, "margin": 0.15}}
WELL = Health(stable_ready=True, canary_alive=True, canary_ready=True)
TICK = 0.5
Answer = Callable[[int, str], dict[str, Any]]


def fine(_number: int, _arm: str) -> dict[str, Any]:
    return {}


def dead(_number: int, arm: str) -> dict[str, Any]:
    """The canary fails every request."""
    return {"status": 503} if arm == "canary" else {}


def bad(number: int, arm: str) -> dict[str, Any]:
    """The canary fails every fourth request."""
    return {"status": 500} if arm == "canary" and number % 4 == 0 else {}


class Killed(BaseException):
    """`kill -9`: nothing of ours may catch it."""


@cache
def plan_of(section: str, block: float) -> RolloutPlan:
    """The plan of a `rollout` section, as JSON; forecasts take their time."""
    rollout = Rollout.model_validate(json.loads(section))
    others = {
        "invalid_output": Measured(0.0),
        "accuracy": Measured(0.8, source="labels", delay=3.0),
        "conversion": Measured(0.2, source="outcomes", delay=2.0),
    }
    return make_plan(
        rollout, rollout_id="o-1", block_seconds=block, units_per_minute=14_400, error_rate=0.01, others=others
    )


class World:
    """One rollout with users, a gateway and a supervisor."""

    def __init__(
        self,
        folder: Path,
        *,
        answer: Answer = fine,
        users: int = 40,
        block: float = 1,
        reading: Any = None,
        **rollout: Any,
    ) -> None:
        self.now = 1_800_000_000.0
        self.log, self.pairs, self.store = folder / "access.jsonl", folder / "pairs", MemoryStore()
        self.answer, self.users, self.health = answer, users, WELL
        # Who is who may not differ from one world to another.
        self.store.files["telemetry/salt"] = bytes(32)
        self.said: list[str] = []
        self.reading: Any = reading
        self.aside: Any = lambda work: work()
        self.number = self.weight = 0
        self.loop: RolloutLoop | None = None
        ledger = self.ledger
        for release, version in (("r-1", 1), ("r-2", 2)):
            data = {"release": release, "version": version, "run_id": "x"}
            ledger.append(lambda _, data=data: Draft("registered", data))
        ledger.append(lambda _: Draft("deployed", {"release": "r-1"}))
        section = {"guardrails": [GUARDRAIL], "steps": [20, 50], "step": {"min": "3s", "max": "1h"}} | rollout
        self.plan = plan_of(json.dumps(section), block)
        ledger.append(deciding(start("r-2", self.plan.to_dict(), 60.0, by_hand=False)))

    @property
    def ledger(self) -> Ledger:
        """A reader of its own each time, as another process has it."""
        return Ledger(self.store, "demand.local", lambda: datetime.fromtimestamp(self.now, UTC))

    @property
    def rollout(self) -> RolloutState:
        found = fold(self.ledger.events()).rollout
        assert found is not None
        return found

    @property
    def driver(self) -> LocalDriver:
        return LocalDriver(self.ledger, self.store, 60.0)

    @property
    def events(self) -> list[Event]:
        """What happened since the start of the rollout."""
        return list(self.ledger.events()[4:])

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def units(self) -> dict[str, int]:
        document = read_checkpoint(self.store, "o-1")
        assert document is not None
        units: dict[str, int] = document["verdict"]["units"]
        return units

    def restart(self) -> None:
        """Forget everything that is not in a file."""
        self.loop = None

    def tick(self) -> None:
        """One round of the supervisor, as pipelines/stack.py goes it."""
        if self.rollout.open:
            if self.loop is None:
                self.loop = RolloutLoop(
                    self.rollout,
                    self.ledger,
                    self.store,
                    self.log,
                    pairs=self.pairs,
                    reading=self.reading,
                    clock=lambda: self.now,
                    aside=self.aside,
                )
            self.said += self.loop.tick(self.rollout, self.health)
            self.weight = self.rollout.weight if self.rollout.open else 0
            self.loop.applied(self.weight)

    def traffic(self, seconds: float = TICK) -> None:
        """Let new users come, each with two requests, while the time passes."""
        count = int(self.users * seconds / TICK)
        lines = []
        for index in range(count):
            self.number += 1
            when = self.now + seconds * index / max(count, 1)
            if self.rollout.shadowing and self.rollout.open:
                self.copy(when)
            lines += [self.line(f"user-{self.number}", when + extra) for extra in (0, seconds / (2 * count))]
        self.write(*lines)
        self.now += seconds

    def copy(self, when: float) -> None:
        """What both processes note of a request in a shadow phase: every fourth gets another class."""
        self.pairs.mkdir(exist_ok=True)
        for arm, release, label in (("stable", "r-1", 0), ("shadow", "r-2", int(self.number % 4 == 0))):
            status = self.answer(self.number, "canary" if arm == "shadow" else arm).get("status", 200)
            fields = {"rollout": "o-1", "id": f"id-{self.number}", "arm": arm, "unit": self.number, "at": when}
            shown = {"predictions": [label]} if status == 200 else {}
            with (self.pairs / f"{release}.1.000000.jsonl").open("ab") as file:
                file.write(encode(Half(**fields, status=status, seconds=0.01, **shown)))  # type: ignore[arg-type]  # as read

    def line(self, unit: str, when: float, **changes: Any) -> bytes:
        """A request by the gateway's rule at the weight of now."""
        arm = assigned_arm("o-1", unit, self.weight)
        release = {"stable": "r-1", "canary": "r-2"}[arm]
        fields = {"cluster": f"{arm}/{release}/127.0.0.1:8500", "route": f"split/o-1/{self.weight}"}
        return log_line(at=when, unit=unit, **{**fields, **self.answer(self.number, arm), **changes})

    def write(self, *lines: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(b"".join(lines))

    def run(self, ticks: int = 120) -> list[str]:
        """Go on until the rollout is decided or held; give the kinds of its events."""
        for _ in range(ticks):
            self.tick()
            if self.rollout.state != "running":
                break
            self.traffic()
        return self.kinds
