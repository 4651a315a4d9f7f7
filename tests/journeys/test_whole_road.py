"""The promise of the README, with nothing edited: the default blocks, steps and guardrails. Minutes, so `make road`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journeys.test_shapes import running, traffic

Cli = Callable[..., Any]

pytestmark = pytest.mark.long


@pytest.mark.timeout(1500)
def test_electricity_goes_from_the_file_to_a_second_version_that_users_have_judged(
    cli: Cli, cli_process: Cli, tmp_path: Path, elec: Path
) -> None:
    """Init, ship, up, the printed curl, traffic, a changed param, ship: promoted by evidence within minutes."""
    root = tmp_path / "project"
    assert cli("init", root, "--from", elec, "--target", "class").exit_code == 0
    assert cli("-C", root, "ship").exit_code == 0
    with running(cli_process, root) as said:
        line = next(line for line in said.splitlines() if line.startswith("curl "))
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["predictions"]
        with traffic(root, rps=150, users=9000):
            assert cli("-C", root, "train", "-p", "max_iter=150").exit_code == 0
            shipped = cli("-C", root, "ship", "--json", "--timeout", "20m")
        assert shipped.exit_code == 0, shipped
        assert (shipped.json["version"], shipped.json["rollout"]["decision"]) == (2, "promote")
        assert all(step["units"]["canary"] > 1000 for step in shipped.json["rollout"]["steps"])
