"""`tidegate workflow`, `retrain --env` and `package --trainer` at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import KubeApi, kubeconfig, serving

from tidegate.core.kube import POD, WORKFLOW

CONFIG = """
version: 1
model: demand
data: {path: data/train.csv, target: class}
environments:
  prod: {kind: kubernetes, store: .tidegate/store}
"""
LABELS = {"tidegate.dev/model": "demand", "tidegate.dev/environment": "prod", "tidegate.dev/flow": "release"}
NAME = "tidegate-release-demand-0123abcd"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """A cluster in which one release Workflow is at its training."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    made = KubeApi()
    with serving(made):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, made)))
        node = {"id": f"{NAME}-7", "displayName": "train", "type": "Pod", "phase": "Running"}
        status = {"phase": "Running", "nodes": {node["id"]: node}}
        kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
        made.write(WORKFLOW, {**kind, "metadata": {"name": NAME, "labels": LABELS}, "spec": {}, "status": status})
        made.write(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{NAME}-train-7"}})
        made.logs[f"{NAME}-train-7", "main"] = [("2026-11-25T04:00:00.0Z", "fit 720 rows")]
        yield made


def test_what_runs_is_listed_followed_read_and_cancelled(cli: Callable[..., Any], api: KubeApi, tmp_path: Path) -> None:
    """By its name, for people and for scripts; following that ends before it does is no success."""

    def ask(*words: str) -> Any:
        return cli("-C", tmp_path, "--env", "prod", "workflow", *words)

    steps = [{"name": "train", "phase": "Running", "message": ""}]
    said = {"name": NAME, "flow": "release", "phase": "Running", "steps": steps}
    assert ask("list", "--json").json == {"kind": "workflows", "workflows": [said]}
    assert "train running" in ask("list").stdout
    assert ask("logs", NAME).stdout == "train: fit 720 rows\n"
    assert ask("logs", NAME, "--step", "train", "--json").lines == [{"step": "train", "line": "fit 720 rows"}]
    watched = ask("watch", NAME, "--timeout", "0s")
    assert (watched.exit_code, f"Workflow {NAME} goes on" in watched.stderr) == (5, True)
    cancelled = ask("cancel", NAME, "--reason", "wrong branch", "--json")
    assert cancelled.json == {"kind": "cancelled", "workflow": NAME, "reason": "wrong branch"}
    assert (api.read(WORKFLOW, NAME) or {})["spec"] == {"shutdown": "Stop"}
    events = cli("-C", tmp_path, "--env", "prod", "events", "--json").lines
    assert [one["kind"] for one in events] == ["flow_ended"]


def test_a_name_that_is_none_is_said(cli: Callable[..., Any], api: KubeApi, tmp_path: Path) -> None:
    """With the command that lists them."""
    del api
    done = cli("-C", tmp_path, "--env", "prod", "workflow", "logs", "none")
    assert (done.exit_code, "tidegate workflow list --env prod" in done.stderr) == (2, True)


def test_a_retrain_needs_a_trainer_image(cli: Callable[..., Any], api: KubeApi, tmp_path: Path) -> None:
    """Nothing is submitted without one."""
    done = cli("-C", tmp_path, "--env", "prod", "retrain", "--no-wait")
    assert (done.exit_code, "package --trainer --push" in done.stderr) == (2, True)
    assert len(api.all(WORKFLOW)) == 1


def test_a_trainer_image_is_of_no_version(cli: Callable[..., Any], tmp_path: Path) -> None:
    """It holds none; asking for both is a mistake."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    assert cli("-C", tmp_path, "package", "3", "--trainer").exit_code == 2
