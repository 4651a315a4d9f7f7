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
    # Whole, in a pipe.
    assert "; ".join(stream["reasons"]) in table.stdout
    assert "judge 1 stream ..." in table.stderr


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


def test_a_projects_own_config_and_a_rollouts_own_blocks_are_a_replay(cli: Cli, tmp_path: Path) -> None:
    """`rollout:` may stand around the policy, among whatever else; the store's folder holds a file for each block."""
    policy, project = tmp_path / "policy.yaml", tmp_path / "tidegate.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    inner = "".join(f"  {line}\n" for line in POLICY.splitlines())
    project.write_text(f"version: 1\nmodel: demand\nrollout:\n{inner}", encoding="utf-8")
    file, folder = recorded(tmp_path, failed=30), tmp_path / "blocks"
    folder.mkdir()
    rows = file.read_text(encoding="utf-8").splitlines()
    for at in range(0, len(rows), 2):
        # Without a last newline: what a file begins is a line of its own all the same.
        (folder / f"{at // 2:08d}.jsonl").write_text("\n".join(rows[at : at + 2]), encoding="utf-8")
    (folder / "notes.txt").write_text("no JSON", encoding="utf-8")
    found = cli("rollout", "replay", "--plan", project, "--blocks", folder, "--json")
    assert found.exit_code == 0, found.stderr
    assert found.json == cli("rollout", "replay", "--plan", policy, "--blocks", file, "--json").json
    project.write_text(f"rollout:\n{inner}".replace("error_rate", "eror_rate"), encoding="utf-8")
    wrong = cli("rollout", "replay", "--plan", project, "--blocks", folder)
    assert "tidegate.yaml:4: rollout.guardrails[0].metric: unknown metric" in wrong.stderr


def test_a_folder_without_blocks_is_told_so(cli: Cli, tmp_path: Path) -> None:
    """Exit code 2, and where a rollout's own blocks lie."""
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    found = cli("rollout", "replay", "--plan", tmp_path / "policy.yaml", "--blocks", tmp_path)
    assert found.exit_code == 2
    assert "holds no .jsonl file" in found.stderr
    assert ".tidegate/store/rollouts/ID/blocks" in found.stderr


def test_the_documented_blocks_are_judged(cli: Cli, tmp_path: Path) -> None:
    """What docs/judge.md shows is what the command reads."""
    text = (Path(__file__).parents[2] / "docs" / "judge.md").read_text(encoding="utf-8")
    example = text.split("## Recorded blocks")[1].split("```json\n")[1].split("```")[0]
    (tmp_path / "blocks.jsonl").write_text(example, encoding="utf-8")
    (tmp_path / "policy.yaml").write_text(f"steps: [20]\n{POLICY}", encoding="utf-8")
    arguments = ("rollout", "replay", "--plan", tmp_path / "policy.yaml", "--blocks", tmp_path / "blocks.jsonl")
    found = cli(*arguments, "--block", "10s", "--json")
    assert found.exit_code == 0, found.stderr
    [stream] = found.json["streams"]
    assert (stream["stream"], stream["canary_units"]) == ("monday", 127)
