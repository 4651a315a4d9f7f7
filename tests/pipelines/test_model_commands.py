"""`tidegate model`: what a person and a script see of the versions."""

from __future__ import annotations

from typing import Any

from tidegate.core.artifacts import RunRef
from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.pipelines.runners import local
from tidegate.pipelines.steps.train import RunFile
from tidegate.registry.mlflow_registry import open_registry


def test_versions_are_listed_shown_and_compared(project: Project, cli: Any) -> None:
    """Two versions with different params: list has the agreed fields, compare puts them side by side."""
    registry = open_registry(project)
    registry.set_alias("champion", registry.register(RunRef(RunFile.read(project.out_dir).run_id)).version)
    second = local.train(project, {"C": "0.001"}, Silent())
    registry.register(RunRef(second.run_id))

    listed = cli("model", "list", "--json", cwd=project.root).json
    assert [one["version"] for one in listed["versions"]] == [2, 1]
    assert set(listed["versions"][0]) == {
        "version", "aliases", "run_id", "git_commit", "git_dirty", "data_md5", "metrics", "status",
    }  # fmt: skip
    assert listed["versions"][1]["aliases"] == ["champion"]

    compared = cli("model", "compare", "2", "--json", cwd=project.root).json
    assert compared["same_data"] is True
    assert {"name": "C", "first": "0.001", "second": "1.0"} in compared["params"]
    assert "roc_auc" in cli("model", "compare", "2", "champion", cwd=project.root).stdout
    assert cli("model", "show", "champion", "--json", cwd=project.root).json["params"]["C"] == "1.0"
    assert cli("train", "--json", cwd=project.root).json["version"] == 2


def test_the_metric_that_decides_comes_first_and_a_dirty_tree_is_marked(project: Project, cli: Any) -> None:
    """Not the first of the alphabet; `train -p` changed the config of the second version after the commit."""
    registry = open_registry(project)
    registry.register(RunRef(RunFile.read(project.out_dir).run_id))
    registry.register(RunRef(local.train(project, {"C": "0.001"}, Silent()).run_id))
    listed = cli("model", "list", "--json", cwd=project.root).json
    assert listed["metric"] == "roc_auc"
    assert [one["git_dirty"] for one in listed["versions"]] == [True, False]
    for columns in (0, 80):
        shown = cli("model", "list", cwd=project.root, columns=columns).stdout
        lines = shown.splitlines()
        assert lines[0].split() == ["version", "aliases", "commit", "data", "roc_auc", "*", "others"]
        second, first = (next(line.split() for line in lines if line.startswith(number)) for number in ("2 ", "1 "))
        assert [cells[1].endswith("+") for cells in (second, first)] == [True, False]
        assert float(first[3]) == round(listed["versions"][1]["metrics"]["roc_auc"], 4)
        assert "+ made with uncommitted changes" in shown


def test_a_training_that_is_no_version_is_compared_with_one(project: Project, cli: Any) -> None:
    """What the gate refused was never registered, and is what its author wants to look at."""
    registry = open_registry(project)
    registry.set_alias("champion", registry.register(RunRef(RunFile.read(project.out_dir).run_id)).version)
    worse = local.train(project, {"C": "0.001"}, Silent())
    compared = cli("model", "compare", "--json", cwd=project.root).json
    assert [one["version"] for one in compared["versions"]] == [None, 1]
    assert compared["versions"][0]["run_id"] == worse.run_id
    assert compared["metrics"][0] == {
        "name": "roc_auc", "first": worse.metrics["roc_auc"], "second": registry.get(1).metrics["roc_auc"],
    }  # fmt: skip
    assert {"name": "C", "first": "0.001", "second": "1.0"} in compared["params"]
    shown = cli("model", "compare", cwd=project.root, columns=80).stdout.splitlines()
    assert shown[0].split() == ["newest", "training", "1"]
    assert shown[1].startswith("roc_auc *")


def test_without_a_training_there_is_nothing_to_compare(fresh_project: Project, cli: Any) -> None:
    """It says what makes one."""
    result = cli("model", "compare", cwd=fresh_project.root)
    assert result.exit_code == 2
    assert "tidegate train" in result.stderr


def test_an_unknown_version_is_a_usage_error(project: Project, cli: Any) -> None:
    """Exit code 2, and the command that makes the first version."""
    result = cli("model", "show", "9", "--json", cwd=project.root)
    assert result.exit_code == 2
    assert "tidegate ship" in result.json["hint"]
    assert "no version yet" in cli("model", "list", cwd=project.root).stdout


def test_a_run_can_be_adopted_as_a_version(project: Project, cli: Any) -> None:
    """`model add RUN` registers it; again, it is the same version."""
    run_id = RunFile.read(open_project(project.root).out_dir).run_id
    first = cli("model", "add", run_id, "--json", cwd=project.root).json
    assert first["version"] == 1
    assert cli("model", "add", run_id, "--json", cwd=project.root).json == first
