"""`ship` and `retrain` where the trainings run in a cluster: what is refused first, and what becomes of a Workflow."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeRunner

from tidegate.core import git
from tidegate.core.errors import ContractFailed, Permanent, TidegateError, UsageError
from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.pipelines import in_cluster
from tidegate.pipelines.dag import PASSED, REFUSED, References
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft

CONFIG = """
version: 1
model: demand
data: {path: data/train.csv, target: class}
environments:
  prod: {kind: kubernetes, store: .tidegate/store, train: {image: IMAGE}}
  bare: {kind: kubernetes, store: .tidegate/store}
"""


@pytest.fixture
def project(git_repo: Path, tmp_path: Path) -> Project:
    """A commit that is pushed."""
    (git_repo / "tidegate.yaml").write_text(CONFIG.replace("IMAGE", "acme/trainer@sha256:" + "a" * 64))
    (git_repo / ".gitignore").write_text(".tidegate/\n")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "remote")], check=True)
    git.git(git_repo, "remote", "add", "origin", str(tmp_path / "remote"))
    git.git(git_repo, "add", "--all")
    git.git(git_repo, "commit", "--quiet", "--message", "Begin")
    git.git(git_repo, "push", "--quiet", "origin", "HEAD:main")
    return open_project(git_repo, "prod")


@pytest.fixture
def environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Its environment; data is where pods find it."""
    monkeypatch.setattr(in_cluster, "_share", lambda _: None)
    return Environment(project)


def answering(monkeypatch: pytest.MonkeyPatch, **gives: Any) -> FakeRunner:
    """A cluster whose steps give these references."""

    def work(step: str) -> Any:
        def made(_: References) -> References:
            answer: References = gives[step]() if callable(gives[step]) else gives[step]
            return answer

        return made

    runner = FakeRunner({name: work(name) for name in gives})
    monkeypatch.setattr(in_cluster, "_runner", lambda _: runner)
    return runner


ROAD: dict[str, Any] = {"contract": {"contract": PASSED}, "train": {"run_id": "r1"}, "evaluate": {}}


def test_only_a_cluster_with_a_trainer_image_trains(project: Project) -> None:
    """Elsewhere `ship` trains where it is typed."""
    assert in_cluster.trains(project)
    assert not in_cluster.trains(open_project(project.root, "bare"))
    assert not in_cluster.trains(open_project(project.root))


def test_a_cluster_without_a_trainer_image_is_told_what_builds_one(project: Project) -> None:
    """The command, and where its line goes."""
    with pytest.raises(UsageError, match="no trainer image") as refused:
        in_cluster.retrain(Environment(open_project(project.root, "bare")), "why", Silent(), wait=False)
    assert "tidegate package --trainer --push" in refused.value.hint


def test_files_that_are_no_commit_are_not_submitted(project: Project, environment: Environment) -> None:
    """Pods would train something else; the same holds for a commit that only this machine has."""
    (project.root / "note.txt").write_text("hello")
    with pytest.raises(UsageError, match="The files differ from the commit"):
        in_cluster.ship(environment, Silent(), wait=False, timeout=1)
    git.git(project.root, "add", "--all")
    git.git(project.root, "commit", "--quiet", "--message", "Here only")
    with pytest.raises(UsageError, match="No remote branch has the commit"):
        in_cluster.ship(environment, Silent(), wait=False, timeout=1)


def test_data_on_this_disk_is_not_submitted(fresh_project: Project) -> None:
    """A DVC remote that is a folder of the project is no place that pods reach."""
    with pytest.raises(UsageError, match="which no pod can reach"):
        in_cluster._share(fresh_project)


def test_what_the_gate_refused_is_told_with_its_reasons(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the ledger's; the newest of this run."""
    for run, reason in (("r0", "old"), ("r1", "roc_auc is 0.61, 0.70 is required")):
        said = {"run_id": run, "reasons": [reason]}
        environment.ledger.append(lambda _, said=said: Draft("gate_refused", said))
    answering(monkeypatch, **ROAD, gate={"gate": REFUSED}, register={}, package={})
    shipped = in_cluster.ship(environment, Silent(), wait=True, timeout=5)
    assert (shipped.decision, shipped.gate and shipped.gate.passed) == ("none", False)
    assert shipped.reasons == ("roc_auc is 0.61, 0.70 is required",)


def test_a_broken_contract_is_told_as_one(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code 3, and where to look."""
    answering(monkeypatch, **{**ROAD, "contract": {"contract": REFUSED}}, gate={}, register={}, package={})
    with pytest.raises(ContractFailed) as broken:
        in_cluster.ship(environment, Silent(), wait=True, timeout=5)
    assert "tidegate workflow logs --env prod release-" in broken.value.hint


def test_a_workflow_that_failed_names_the_step(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command that shows its logs."""

    def broken() -> References:
        raise Permanent("OOMKilled (exit code 137)")

    answering(monkeypatch, **{**ROAD, "train": broken}, gate={}, register={}, package={})
    with pytest.raises(TidegateError, match=r"train: OOMKilled") as failed:
        in_cluster.ship(environment, Silent(), wait=True, timeout=5)
    assert "tidegate workflow logs" in failed.value.hint


def test_a_retrain_is_told_as_the_ledger_has_it(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of this Workflow, by who wrote it."""
    runner = answering(
        monkeypatch, begin={"goes_on": "no"}, data={}, compare={}, **ROAD, gate={}, register={}, package={}
    )
    given = {"reason": "drift", "window": ""}
    name = runner.start(in_cluster.RETRAIN, given, git.head(environment.project.root)).name
    for kind, more in (
        ("retrain_started", {"reason": "drift"}),
        ("retrain_ended", {"outcome": "kept", "reasons": ["a"]}),
    ):
        data = {"retrain": "t-1", **more}
        environment.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data, actor=f"{name}@pod"))
    done = in_cluster.retrain(environment, "drift", Silent(), wait=True)
    assert (done.to_json()["retrain"], done.to_json()["outcome"]) == ("t-1", "kept")
