"""`tidegate rollout plan`: how long a verdict would take, before anything is deployed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

CONFIG = "version: 1\nmodel: demand\ntask: classification\ndata: {path: data.csv, target: y}\n"


@pytest.fixture
def project(git_repo: Path) -> Path:
    (git_repo / "tidegate.yaml").write_text(CONFIG, encoding="utf-8")
    return git_repo


def test_a_forecast_needs_no_more_than_a_guess_of_the_traffic(cli: Cli, project: Path) -> None:
    """Time and users until a good canary is everybody's, and until bad ones are gone; the JSON has the same."""
    arguments = ("rollout", "plan", "--units-per-minute", "1200")
    shown = cli(*arguments, cwd=project)
    assert shown.exit_code == 0, shown.stderr
    assert "A good canary is everybody's after" in shown.stdout
    assert "error_rate x10" in shown.stdout
    found = cli(*arguments, "--json", cwd=project).json
    assert found["kind"] == "plan"
    assert found["exposed_units"] == pytest.approx(sum(step["canary_units"] for step in found["forecast"]))
    assert found["forecast_seconds"] == pytest.approx(sum(step["promote_seconds"] for step in found["forecast"]))


def test_a_goal_is_forecast_beside_what_is_guarded(cli: Cli, project: Path) -> None:
    """Half of the errors that the stable arm is believed to have: proven in a time, or in longer than anybody waits."""
    goal = "rollout: {goal: {metric: error_rate, improve_by: 0}}\n"
    (project / "tidegate.yaml").write_text(CONFIG + goal, encoding="utf-8")
    shown = cli("rollout", "plan", "--units-per-minute", "120000", cwd=project)
    assert shown.exit_code == 0, shown.stderr
    assert "the goal is proven at" in shown.stdout
    assert "error_rate -50 %" in shown.stdout


def test_metrics_that_come_late_need_a_history_whatever_the_traffic(cli: Cli, project: Path) -> None:
    """Nobody can guess an accuracy: exit code 5, with the command that brings labels."""
    lines = "{metric: accuracy, harm: {margin: 0.01}, safe: {margin: 0.02}}"
    (project / "tidegate.yaml").write_text(f"{CONFIG}rollout: {{guardrails: [{lines}]}}\n", encoding="utf-8")
    refused = cli("rollout", "plan", "--units-per-minute", "1200", cwd=project)
    assert refused.exit_code == 5
    assert "accuracy of the champion is not known" in refused.stderr
    assert "tidegate labels ingest FILE" in refused.stderr


def test_the_suggestion_keeps_what_is_guarded(cli: Cli, project: Path) -> None:
    """Pasted in place of the section, it guards what the section guarded."""
    lines = "{metric: invalid_output, harm: {margin: 0.01}, safe: {margin: 0.02}}"
    section = f"{CONFIG}rollout: {{guardrails: [{lines}], goal: {{metric: error_rate, improve_by: 0.001}}}}\n"
    (project / "tidegate.yaml").write_text(section, encoding="utf-8")
    before = cli("config", "--json", cwd=project).json
    text = cli("rollout", "plan", "--units-per-minute", "1200", "--suggest", cwd=project).stdout
    (project / "tidegate.yaml").write_text(CONFIG + text, encoding="utf-8")
    after = cli("config", "--json", cwd=project).json
    assert [after["config"]["rollout"][key] for key in ("guardrails", "goal")] == [
        before["config"]["rollout"][key] for key in ("guardrails", "goal")
    ]


def test_the_suggestion_is_a_rollout_section_that_can_be_pasted(cli: Cli, project: Path) -> None:
    """What `auto` stands for at this traffic, as YAML that the config takes."""
    text = cli("rollout", "plan", "--units-per-minute", "1200", "--suggest", cwd=project).stdout
    (project / "tidegate.yaml").write_text(CONFIG + text, encoding="utf-8")
    resolved = cli("config", "--json", cwd=project)
    assert resolved.exit_code == 0, resolved.stderr
    again = cli("rollout", "plan", "--units-per-minute", "1200", "--json", cwd=project).json
    assert f"steps: {again['steps']}" in text


def test_so_few_users_that_nothing_can_be_proven_are_told_so(cli: Cli, project: Path) -> None:
    """Two a minute: it would guard only, and never says safe."""
    shown = cli("rollout", "plan", "--units-per-minute", "2", cwd=project)
    assert "mode guard" in shown.stdout
    assert "cannot prove a canary safe within 48 h" in shown.stdout


def test_a_heading_without_effects_is_left_out(cli: Cli, project: Path) -> None:
    """Lines so wide that no effect of the forecast is beyond them."""
    wide = "{metric: error_rate, harm: {ratio: 20, margin: 0.5}, safe: {ratio: 30, margin: 0.6}}"
    (project / "tidegate.yaml").write_text(f"{CONFIG}rollout: {{guardrails: [{wide}]}}\n", encoding="utf-8")
    shown = cli("rollout", "plan", "--units-per-minute", "1200", cwd=project)
    assert shown.exit_code == 0, shown.stderr
    assert "a good canary passes in" in shown.stdout
    assert "if the canary has" not in shown.stdout
