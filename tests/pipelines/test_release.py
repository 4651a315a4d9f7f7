"""Releases that were made before: gated again against today's champion, and made again when they cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.registry.ledger import Draft

pytestmark = pytest.mark.slow


@pytest.fixture
def project(cli_process: Any, tmp_path: Path) -> Path:
    """A small project with one deployed version."""
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(tmp_path / "cells.csv", index=False)
    root = tmp_path / "cells"
    cli_process("init", str(root), "--from", str(tmp_path / "cells.csv"), "--target", "target", timeout=120)
    config = root / "tidegate.yaml"
    config.write_text(config.read_text().replace("max_iter: 200", "max_iter: 20"))
    assert cli_process("ship", "--json", cwd=root, timeout=180).json["rollout"]["decision"] == "deployed"
    return root


def environment(root: Path) -> Environment:
    return environment_for(open_project(root))


def crown(root: Path, release: str) -> None:
    environment(root).ledger.append(lambda _: Draft("deployed", {"release": release}))


def test_an_earlier_release_meets_the_champion_of_today_at_the_gate(cli_process: Any, project: Path) -> None:
    """Going back to old params gives the old release; it must be as good as the champion that came since."""
    first = environment(project).state().champion
    cli_process("train", "-p", "max_iter=40", cwd=project, timeout=180)
    second = cli_process("ship", "--json", cwd=project, timeout=180)
    assert (second.exit_code, second.json["rollout"]["decision"]) == (5, "inconclusive"), second
    assert any("version 1" in reason for reason in second.json["gate"]["reasons"])
    crown(project, second.json["release"])
    cli_process("train", "-p", "max_iter=20", cwd=project, timeout=180)
    back = cli_process("ship", "--json", cwd=project, timeout=180).json
    assert any("version 2" in reason for reason in back["gate"]["reasons"]), back
    if back["gate"]["passed"]:
        assert back["release"] == first
        again = cli_process("ship", "--json", cwd=project, timeout=180).json
        assert again["gate"] == back["gate"]


def test_a_lost_bundle_is_packaged_again_by_the_next_ship(cli_process: Any, project: Path) -> None:
    """The error is said, and following it mends it."""
    shutil.rmtree(project / ".tidegate" / "bentoml" / "bentos")
    again = cli_process("ship", "--json", cwd=project, timeout=180)
    assert (again.exit_code, again.json["rollout"]["decision"]) == (0, "none"), again
    assert "made again" in again.stderr
    assert list((project / ".tidegate" / "bentoml" / "bentos").rglob("manifest.json"))
