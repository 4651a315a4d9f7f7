"""Where a project's things are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tidegate.core.errors import UsageError
from tidegate.core.optouts import OPT_OUTS, opt_out
from tidegate.core.project import find, open_project
from tidegate.core.threads import share_processors

CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"


def test_the_nearest_folder_upwards_is_the_project(tmp_path: Path) -> None:
    """Commands work from any folder of a project, and a project may hold another one."""
    inner = tmp_path / "shop" / "demand"
    deep = inner / "notebooks" / "old"
    deep.mkdir(parents=True)
    (tmp_path / "shop" / "tidegate.yaml").write_text(CONFIG)
    (inner / "tidegate.yaml").write_text(CONFIG)
    assert find(deep) == inner
    assert find(tmp_path / "shop") == tmp_path / "shop"


def test_no_project_says_how_to_make_one(tmp_path: Path) -> None:
    """The hint is the command to type."""
    with pytest.raises(UsageError) as caught:
        find(tmp_path)
    assert "tidegate init" in caught.value.hint
    with pytest.raises(UsageError, match="is not a folder"):
        find(tmp_path / "missing")


def test_relative_places_start_at_the_project_not_at_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same store and database from whatever folder a command runs in."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    project = open_project(Path())
    assert project.store_url == str(tmp_path / ".tidegate/store")
    assert project.mlflow_uri == f"sqlite:///{tmp_path}/.tidegate/mlflow.db"
    assert (project.state_dir, project.out_dir) == (tmp_path / ".tidegate", tmp_path / "out")


def test_the_mlflow_address_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else where MLflow is used."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG + "mlflow: https://mlflow.example.org\nstore: s3://bucket/a\n")
    project = open_project(tmp_path)
    assert (project.mlflow_uri, project.store_url) == ("https://mlflow.example.org", "s3://bucket/a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert project.mlflow_uri == "http://127.0.0.1:5000"


def test_no_library_reports_home_unless_the_user_says_so() -> None:
    """Opt-outs are set once and never overwrite a choice."""
    environment = {"DO_NOT_TRACK": "0"}
    opt_out(environment)
    assert environment == {**OPT_OUTS, "DO_NOT_TRACK": "0"}


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    """Training does not burn the processors that serve."""
    environment: dict[str, str] = {}
    share_processors(environment)
    assert environment == {"OMP_WAIT_POLICY": "passive"}
    environment["OMP_WAIT_POLICY"] = "active"
    share_processors(environment)
    assert environment == {"OMP_WAIT_POLICY": "active"}


def test_files_of_secrets_inside_the_project_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the config refers to them, also for another environment; from the project's folder or the caller's."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "tidegate.yaml").write_text(
        CONFIG
        + f"""
serve: {{auth: {{api_keys: 'file:keys.txt'}}}}
notify:
  - {{on: [drift], webhook: 'file:/etc/hook'}}
  - {{on: [drift], webhook: 'file:{tmp_path}/sub/../hook.txt'}}
  - {{on: [drift], webhook: 'env:HOOK'}}
environments: {{prod: {{serve: {{auth: {{api_keys: 'file:prod.txt'}}}}}}}}
"""
    )
    monkeypatch.chdir(tmp_path)
    assert open_project(tmp_path).secret_files == ("keys.txt", "hook.txt", "prod.txt")
    monkeypatch.chdir(tmp_path / "sub")
    assert "sub/keys.txt" in open_project(tmp_path).secret_files


def test_what_the_road_writes_makes_nothing_dirty(git_repo: Path) -> None:
    """`dvc.lock` changes with every training, so it would mark every version; a release keeps it by itself."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    (git_repo / "dvc.lock").write_text("stages: {}\n")
    for command in (["add", "--all"], ["commit", "--quiet", "--message", "Begin"]):
        subprocess.run(["git", "-C", str(git_repo), *command], check=True)
    (git_repo / "dvc.lock").write_text("stages: {train: {}}\n")
    assert not open_project(git_repo).work_tree().dirty
    (git_repo / "train.py").write_text("")
    tree = open_project(git_repo).work_tree()
    assert tree.dirty
    assert b"dvc.lock" not in tree.diff


def test_outside_git_there_is_no_commit_and_nothing_dirty(tmp_path: Path) -> None:
    """A project need not be a repository."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    tree = open_project(tmp_path).work_tree()
    assert (tree.commit, tree.dirty) == ("", False)
