"""`tidegate ship` on a small real project, as a person reads it: what became of a release, and what to do next."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.core.project import Project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.scoring import Evaluation
from tidegate.registry.ledger import Draft

pytestmark = pytest.mark.slow

HOOKED = "serve: {code: features.py}\ngate:"


def test_a_refusal_says_who_serves_what_to_look_at_and_which_line_to_change(project: Project, cli: Any) -> None:
    """After the reasons: the champion stays, one command compares, and a tolerance is named that would let it pass."""
    assert cli("ship", "--json", cwd=project.root).json["rollout"]["decision"] == "deployed"
    assert cli("train", "-p", "C=0.00001", cwd=project.root).exit_code == 0
    refused = cli("ship", cwd=project.root, columns=80)
    assert refused.exit_code == 3
    assert "Nothing was registered; version 1 stays the champion and serves everybody." in refused.stdout
    last = refused.stdout.partition("What to do next:")[2]
    assert "`tidegate model compare` puts this training beside version 1." in last
    assert "set gate.tolerance in tidegate.yaml to 0." in last
    assert "gate.tolerance" in cli("ship", "--json", cwd=project.root).json["hint"]
    compared = cli("model", "compare", "--json", cwd=project.root).json
    measured = Evaluation.read(project.out_dir / "evaluation").metrics["roc_auc"]
    champion = cli("model", "show", "1", "--json", cwd=project.root).json["metrics"]["roc_auc"]
    assert (compared["metrics"][0]["name"], measured != champion) == ("roc_auc", True)
    assert (compared["metrics"][0]["first"], compared["metrics"][0]["second"]) == pytest.approx((measured, champion))


def test_a_first_version_that_is_refused_leaves_nobody_served(project: Project, rewrite: Any, cli: Any) -> None:
    """There is no champion to stay."""
    changed = rewrite(project, "tidegate.yaml", "{metric: roc_auc}", "{metric: roc_auc, required: 0.999}")
    refused = cli("ship", cwd=changed.root)
    assert refused.exit_code == 3
    assert "Nothing was registered; nobody is served." in refused.stdout
    assert "gate.required in tidegate.yaml draws that line: 0.999." in refused.stdout
    assert "model compare" not in refused.stdout


HOOKS = {
    "respond": """\
calls = []


def respond(predictions):
    calls.append(1)
    if len(calls) % 5 == 0:
        raise RuntimeError('boom')
    return predictions
""",
    "prepare": """\
def prepare(columns):
    if len(columns['price']) == 1:
        raise RuntimeError('boom')
    return columns
""",
}


@pytest.mark.parametrize(("hook", "line"), [("respond", 7), ("prepare", 3)])
def test_what_a_hook_raises_in_the_gate_is_told_by_the_users_own_line(
    project: Project, rewrite: Any, cli: Any, hook: str, line: int
) -> None:
    """The gate asks for one row at a time, as callers do; it runs a copy of the file, which has the same name."""
    (project.root / "features.py").write_text(HOOKS[hook])
    failed = cli("ship", "--json", cwd=rewrite(project, "tidegate.yaml", "gate:", HOOKED).root)
    assert failed.exit_code == 1
    assert failed.json["message"] == f"features.py:{line}: RuntimeError: boom"
    by = "by `raise RuntimeError('boom')`. Mend"
    assert failed.json["hint"].startswith(f"It was raised while running {hook} of features.py, {by} {hook} and")


def test_a_first_version_says_how_good_it_is(project: Project, cli: Any) -> None:
    """The metric that decides, as it was measured on the holdout."""
    deployed = cli("ship", cwd=project.root, columns=80).stdout
    metrics = cli("model", "show", "1", "--json", cwd=project.root).json["metrics"]
    assert f"roc_auc {metrics['roc_auc']:.4f} on the holdout" in deployed
    assert cli("ship", "--json", cwd=project.root).json["metric"] == "roc_auc"


def test_a_release_meets_the_gate_again_when_only_a_metrics_code_changed(
    project: Project, rewrite: Any, cli: Any
) -> None:
    """It passed under the old code; that says nothing about the new."""
    score = project.root / "score.py"
    score.write_text("def score(y_true, prediction, frame):\n    return 0.9\n")
    gate = "{metric: 'score.py:score', required: 0.5}"
    root = rewrite(project, "tidegate.yaml", "{metric: roc_auc}", gate).root
    assert cli("ship", cwd=root).exit_code == 0
    assert cli("train", "-p", "C=0.9", cwd=root).exit_code == 0
    assert cli("ship", "--json", cwd=root).json["gate"]["passed"]
    score.write_text("def score(y_true, prediction, frame):\n    return 0.2\n")
    refused = cli("ship", "--json", cwd=root)
    assert (refused.exit_code, refused.json["gate"]["passed"]) == (3, False), refused


def test_what_a_person_aborted_is_not_called_rolled_back(project: Project, cli: Any) -> None:
    """Shipped again unchanged: who aborted it, why, and the whole command that tries it again."""
    cli("ship", cwd=project.root)
    assert cli("train", "-p", "C=0.9", cwd=project.root).exit_code == 0
    assert cli("ship", "--json", cwd=project.root).exit_code == 5  # nobody to judge by
    environment = Environment(project)
    state = environment.state()
    challenger = str(state.challenger)
    begun = {"rollout": "o-1", "stable": state.champion, "canary": challenger, "steps": [50], "plan": {}}
    environment.ledger.append(lambda _: Draft("rollout_started", begun))
    assert cli("rollout", "abort", "--reason", "not on a Friday", cwd=project.root).exit_code == 0
    again = cli("ship", cwd=project.root, columns=80)
    assert again.exit_code == 6
    ended = Environment(project).state().rollouts[-1]
    assert f"release {challenger}, version 2: not tried again" in again.stdout
    assert f"- aborted by {ended.ended_by} in rollout o-1; nothing changed since" in again.stdout
    assert "- not on a Friday" in again.stdout
    assert "rolled back" not in again.stdout
    assert f"`tidegate rollout start {challenger}`" in again.stdout
    assert cli("ship", "--json", cwd=project.root).json["rollout"]["decision"] == "rollback"
