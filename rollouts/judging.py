"""What a loop and a judge's service do alike with blocks: judge them in order, and write down what follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tidegate.core.store import Store
from tidegate.registry.ledger import Draft, Event, Ledger
from tidegate.registry.state import RolloutState, State, deciding, on_open
from tidegate.rollouts.block_files import write_blocks
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.failing import BROKEN_SHARE
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.verdict import Verdict


def judge_all(judge: Judge, blocks: Iterable[Block], *, stable_ready: bool = True) -> tuple[Verdict, list[Block]]:
    """The verdict after these blocks, and those to keep, as they were judged.

    An idle interval is kept where something began or changed by it, so that the kept ones decide the same.
    """
    verdict, kept = judge.verdict(), []
    for block in blocks:
        before = verdict
        judged = block if stable_ready and has_control(block) else without_control(block)
        verdict = judge.update(judged)
        changed = (before.step, before.decision) != (verdict.step, verdict.decision)
        if block.attempts.n1 + block.attempts.n0 or block.skipped or block.matured or changed or block.index == 0:
            kept.append(judged)
    return verdict, kept


def has_control(block: Block) -> bool:
    """Whether the stable arm was well: an outage of both arms proves nothing."""
    return block.attempts.x0 <= BROKEN_SHARE * max(block.attempts.n0, 1)


def without_control(block: Block) -> Block:
    """The same interval with nothing to compare; it passes time, and only a canary that fails alone ends by it."""
    attempts = block.attempts
    alone = attempts.n0 > 0 and attempts.x0 <= BROKEN_SHARE * attempts.n0
    return replace(block, metrics={}, attempts=attempts if alone else Counts())


def keep_blocks(store: Store, plan: RolloutPlan, rollout: str, kept: list[Block]) -> None:
    """Write judged blocks down, with what their lines must say beside the counts."""
    higher = {one.metric for one in plan.metrics if one.source == "own" and one.better == "higher"}
    write_blocks(store, rollout, kept, {one.metric: one.bunching for one in plan.streams}, higher)


def decide_on(
    ledger: Ledger, rollout: str, kind: str, step: int, data: Mapping[str, Any], *, shadowing: bool = False
) -> Event | None:
    """Append the judge's event unless the rollout is over, moved on, or holds already."""

    def draft(_: State, current: RolloutState) -> Draft | None:
        # Harm that was proven at the step before is harm at this one.
        late = (current.step, current.shadowing) != (step, shadowing) and kind != "rolled_back"
        if late or (kind == "held" and current.state == "held"):
            return None
        return Draft(kind, {"rollout": rollout, **data}, actor="judge")

    def decide(state: State) -> Draft | None:
        is_open = state.open_rollout is not None and state.open_rollout.id == rollout
        return on_open(rollout, draft)(state) if is_open else None

    return ledger.append(deciding(decide))
