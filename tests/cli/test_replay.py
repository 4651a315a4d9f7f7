"""`tidegate rollout replay`: a policy tried on recorded blocks, without a project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]

POLICY = """\
unit: request
guardrails:
  - {metric: error_rate, harm: {ratio: 1.1, margin: 0.001}, safe: {ratio: 1.5, margin: 0.002}}
step: {min: 1m, max: 2h}
"""


def recorded(folder: Path, *, failed: int) -> Path:
    head = {"stream": "monday", "metric": "error_rate"}
    rows = [
        {**head, "minute": minute, "arm": arm, "n": n, "x": x}
        for minute in range(60)
        for arm, n, x in (("canary", 300, failed), ("stable", 900, 4))
    ]
    file = folder / "blocks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_policy_is_tried_on_recorded_blocks_anywhere(cli: Cli, tmp_path: Path) -> None:
    """One JSON document; the same in a table; exit code 0 whatever the verdicts, which are the result."""
    plan = tmp_path / "policy.yaml"
    plan.write_text(POLICY, encoding="utf-8")
    blocks = recorded(tmp_path, failed=30)
    found = cli("rollout", "replay", "--plan", plan, "--blocks", blocks, "--json")
    assert found.exit_code == 0
    assert found.json["kind"] == "replay"
    [stream] = found.json["streams"]
    assert (stream["stream"], stream["decision"], stream["minute"]) == ("monday", "rollback", 0)
    assert stream["canary_units"] == 300
    assert "worse than the allowed" in stream["reasons"][0]
    table = cli("rollout", "replay", "--plan", plan, "--blocks", blocks)
    assert "1 rollback" in table.stdout


def test_a_policy_with_a_typo_and_broken_blocks_are_named_with_their_lines(cli: Cli, tmp_path: Path) -> None:
    """Exit code 2, nothing judged."""
    plan, blocks = tmp_path / "policy.yaml", recorded(tmp_path, failed=3)
    plan.write_text(POLICY.replace("error_rate", "eror_rate"), encoding="utf-8")
    wrong = cli("rollout", "replay", "--plan", plan, "--blocks", blocks)
    assert wrong.exit_code == 2
    assert 'policy.yaml:3: guardrails[0].metric: unknown metric "eror_rate", did you mean "error_rate"?' in wrong.stderr
    plan.write_text(POLICY, encoding="utf-8")
    blocks.write_text(blocks.read_text(encoding="utf-8").replace('"n": 900', '"n": -900', 1), encoding="utf-8")
    broken = cli("rollout", "replay", "--plan", plan, "--blocks", blocks)
    assert broken.exit_code == 2
    assert "Line 2 of the blocks: A block says that 4.0 of -900.0 units had an event." in broken.stderr
    missing = cli("rollout", "replay", "--plan", plan, "--blocks", tmp_path / "nothing.jsonl")
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)
