"""`config`, `schema` and `doctor`."""

from __future__ import annotations

import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.core import not_yet
from tidegate.core.config import load
from tidegate.pipelines import control

CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"
Cli = Callable[..., Any]


@pytest.fixture
def project(git_repo: Path) -> Path:
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    return git_repo


def finding(document: Any, name: str) -> Any:
    return next(one for one in document["findings"] if one["name"] == name)


def test_config_prints_yaml_that_is_the_same_config(cli: Cli, project: Path) -> None:
    """What is printed may be pasted back."""
    before = load(project)
    text = cli("config", cwd=project).stdout
    (project / "tidegate.yaml").write_text(text)
    assert load(project) == before
    assert cli("config", "--json", cwd=project).json["config"] == yaml.safe_load(text.replace("  on:", "  'on':"))


@pytest.fixture
def idle_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that nothing acts on yet, while the test runs: today there is none."""
    monkeypatch.setattr(not_yet, "_KEYS", (("train.resources", "training takes what this machine has"),))
    return "train: {resources: {gpu: 1}}\n"


def test_keys_that_nothing_acts_on_yet_are_said(cli: Cli, project: Path, idle_key: str) -> None:
    """On stderr and in the document; a config without them warns of nothing."""
    assert cli("config", "--json", cwd=project).json["warnings"] == []
    (project / "tidegate.yaml").write_text(CONFIG + idle_key)
    result = cli("config", "--json", cwd=project)
    assert [sentence.split()[0] for sentence in result.json["warnings"]] == ["train.resources"]
    assert "Warning: train.resources is set, but this version does not act on it yet" in result.stderr


@pytest.mark.parametrize("command", ["ship", "up"])
def test_ship_and_up_warn_before_they_begin(cli: Cli, project: Path, command: str, idle_key: str) -> None:
    """There is no data here, so the command itself fails at once."""
    (project / "tidegate.yaml").write_text(CONFIG + idle_key)
    (project / ".tidegate").write_text("a file where the state's folder would be")
    result = cli(command, cwd=project)
    assert result.exit_code != 0
    assert "Warning: train.resources is set" in result.stderr


def test_an_environment_that_is_not_built_yet_is_called_what_it_is(cli: Cli, project: Path) -> None:
    """A usage error with the way out."""
    (project / "tidegate.yaml").write_text(CONFIG + "environments: {two: {kind: local}}\n")
    result = cli("ps", "--env", "two", "--json", cwd=project)
    assert result.exit_code == 2
    assert result.json["message"] == (
        "The environment two is another one on this machine, which this version cannot deploy to yet."
    )
    assert "Leave out --env" in result.json["hint"]


def test_config_never_prints_a_password(cli: Cli, project: Path) -> None:
    """MLFLOW_TRACKING_URI may hold one."""
    result = cli("config", cwd=project, env={"MLFLOW_TRACKING_URI": "https://ada:hunter2@mlflow.example.org"})
    assert "hunter2" not in result.stdout
    assert "https://ada:***@mlflow.example.org" in result.stdout


def test_schema_is_a_json_schema(cli: Cli) -> None:
    """Outside a project too, with or without --json."""
    for result in (cli("schema"), cli("schema", "--json")):
        assert result.json["$defs"]["Rollout"]["description"]


def test_doctor_is_content_with_a_sound_machine(cli: Cli, project: Path) -> None:
    """Every check is real: git, Envoy, the store's one winner, the disk."""
    result = cli("doctor", "--json", cwd=project)
    names = {one["name"] for one in result.json["findings"]}
    assert {"python", "git", "git identity", "libraries", "envoy", "gateway port", "store", "mlflow", "disk"} <= names
    assert (result.exit_code, result.json["ok"]) == (0, True), result.stdout


def test_doctor_works_outside_a_project(cli: Cli, tmp_path: Path) -> None:
    """It is the first command somebody types."""
    result = cli("doctor", "--json", cwd=tmp_path)
    assert finding(result.json, "config")["status"] == "warning"
    assert result.exit_code == 0


def test_doctor_names_a_broken_config_and_goes_on(cli: Cli, project: Path) -> None:
    """One mistake does not hide the others."""
    (project / "tidegate.yaml").write_text("modle: a\n")
    result = cli("doctor", "--json", cwd=project)
    assert "modle" in finding(result.json, "config")["detail"]
    assert finding(result.json, "disk")
    assert result.exit_code == 1


def test_doctor_finds_a_corrupt_database_and_says_what_to_type(cli: Cli, project: Path) -> None:
    """In a moment: MLflow itself needs half a minute to say so."""
    (project / ".tidegate").mkdir()
    file = project / ".tidegate" / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (a)")
    connection.close()
    file.write_bytes(b"broken" + file.read_bytes()[6:])
    result = cli("doctor", "--json", cwd=project)
    assert finding(result.json, "mlflow")["status"] == "problem"
    assert finding(result.json, "mlflow")["fix"]
    assert result.exit_code == 1


def test_doctor_finds_a_store_that_cannot_be_written(cli: Cli, project: Path) -> None:
    """A file in the place of the folder."""
    (project / ".tidegate").write_text("")
    assert finding(cli("doctor", "--json", cwd=project).json, "store")["status"] == "problem"


def test_doctor_sees_a_port_that_is_taken(cli: Cli, project: Path) -> None:
    """A warning, with what to set instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        (project / "tidegate.yaml").write_text(CONFIG + f"advanced: {{gateway_port: {number}}}\n")
        found = finding(cli("doctor", "--json", cwd=project).json, "gateway port")
    assert found["status"] == "warning"
    assert "advanced.gateway_port" in found["fix"]


def test_doctor_knows_its_own_gateway(cli: Cli, project: Path) -> None:
    """A port on which this project's `up` says that it listens is as it should be."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        (project / "tidegate.yaml").write_text(CONFIG + f"advanced: {{gateway_port: {number}}}\n")
        stack = {"processes": [{"name": "up", "port": None}, {"name": "gateway", "port": number}]}
        with control.serve(control.socket_path(project, "local"), {"ps": lambda: stack}):
            found = finding(cli("doctor", "--json", cwd=project).json, "gateway port")
    assert (found["status"], found["fix"]) == ("ok", "")
    assert "this project's own" in found["detail"]


def test_doctor_refuses_an_envoy_that_is_none(cli: Cli, project: Path) -> None:
    """The version is asked, because pip may have chosen the shim that needs Docker."""
    result = cli("doctor", "--json", cwd=project, env={"TIDEGATE_ENVOY": sys.executable})
    assert finding(result.json, "envoy")["status"] == "problem"
    assert result.exit_code == 1


def test_doctor_lets_envoy_read_the_gateways_settings(cli: Cli, project: Path) -> None:
    """A missing key is found here, not when `up` starts the gateway."""
    assert finding(cli("doctor", "--json", cwd=project).json, "gateway")["status"] == "ok"
    (project / "tidegate.yaml").write_text(CONFIG + "serve: {auth: {api_keys: 'env:NO_SUCH_KEYS'}}\n")
    result = cli("doctor", "--json", cwd=project)
    assert "NO_SUCH_KEYS" in finding(result.json, "gateway")["detail"]
    assert result.exit_code == 1


def test_doctor_says_who_git_thinks_you_are(cli: Cli, project: Path, own_machine: Path) -> None:
    """Without an identity it says how to set one."""
    (own_machine / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    found = finding(cli("doctor", "--json", cwd=project).json, "git identity")
    assert "git config --global user.name" in found["fix"]


def test_doctor_for_a_person_has_the_fix_under_the_finding(cli: Cli, tmp_path: Path) -> None:
    """Plain lines where there is no terminal."""
    lines = cli("doctor", cwd=tmp_path).stdout.splitlines()
    index = next(index for index, line in enumerate(lines) if line.startswith("warn  config"))
    assert "tidegate init" in lines[index + 1]
