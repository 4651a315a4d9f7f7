"""`tidegate ship` on a small real project, as a person reads it: what became of a release, and what to do next."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.core.project import Project

pytestmark = pytest.mark.slow


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
    assert compared["metrics"][0]["first"] < compared["metrics"][0]["second"]


def test_a_first_version_that_is_refused_leaves_nobody_served(project: Project, rewrite: Any, cli: Any) -> None:
    """There is no champion to stay."""
    changed = rewrite(project, "tidegate.yaml", "{metric: roc_auc}", "{metric: roc_auc, required: 0.999}")
    refused = cli("ship", cwd=changed.root)
    assert refused.exit_code == 3
    assert "Nothing was registered; nobody is served." in refused.stdout
    assert "gate.required in tidegate.yaml draws that line: 0.999." in refused.stdout
    assert "model compare" not in refused.stdout
