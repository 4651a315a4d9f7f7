"""Every road command where it cannot go on: one clear error, its exit code, the same as JSON, and nothing changed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.project import open_project
from tidegate.core.store import open_store
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft

Cli = Callable[..., Any]
CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\nadvanced: {gateway_port: 29999}\n"


@pytest.fixture
def project(git_repo: Path) -> Path:
    """A project in which nothing has happened yet."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    return git_repo


@pytest.fixture
def deployed(project: Path) -> Path:
    """One in which a first release is champion; nothing runs."""
    environment = Environment(open_project(project, "local"))
    release = releases.Release("demand", 1, "run1", "demand:1", "00", "", False, (), {}, {}, {})  # noqa: FBT003 - data
    releases.save(environment.store, release, {})
    registered = {"release": release.id, "version": 1, "run_id": "run1"}
    environment.ledger.append(lambda _: Draft("registered", registered))
    environment.ledger.append(lambda _: Draft("deployed", {"release": release.id}))
    return project


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "/.git/" not in str(path)}


def check(cli: Cli, cwd: Path, line: str, code: int, said: str) -> None:
    """As text it is one message on stderr, as JSON one document on stdout; both say the same and change nothing."""
    before = files(cwd)
    plain, scripted = cli(*line.split(), cwd=cwd), cli("--json", *line.split(), cwd=cwd)
    assert (plain.exit_code, plain.stdout) == (code, ""), plain
    assert said in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "did not expect" not in plain.stderr
    document = json.loads(scripted.stdout)
    assert (document["kind"], document["exit_code"], scripted.exit_code) == ("error", code, code)
    assert said in document["message"]
    assert document["hint"], "it does not say what to type next"
    assert scripted.stderr == ""
    assert files(cwd) == before


OUTSIDE = [
    *("train", "model list", "release list", "release show r-1", "ship", "up", "up -d", "down", "ps", "logs"),
    *("rollout plan", "rollout start", "rollout status", "rollout watch", "rollout promote", "rollout abort"),
    *("rollout history", "rollback --reason x", "freeze --reason x", "unfreeze --reason x", "why x", "events"),
    *("config", "data check", "data status", "dev traffic"),
]


@pytest.mark.parametrize("line", OUTSIDE)
def test_outside_a_project_every_command_says_how_to_begin(cli: Cli, tmp_path: Path, line: str) -> None:
    """Exit code 2, and `tidegate init`."""
    check(cli, tmp_path, line, 2, "tidegate.yaml")
    assert "tidegate init" in cli(*line.split(), cwd=tmp_path).stderr


def test_a_step_in_a_pod_is_not_tried_again(cli: Cli, tmp_path: Path) -> None:
    """A missing config stays missing: exit code 78."""
    check(cli, tmp_path, "step train", 78, "tidegate.yaml")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("release show r-nope", 2, "There is no release r-nope"),
        ("release checkout r-nope", 2, "There is no release r-nope"),
        ("ship --release r-nope", 2, "There is no release r-nope"),
        ("ship --timeout soon", 2, '"soon" is not a duration'),
        ("rollback --reason x", 2, "There is no earlier champion"),
        ("rollback r-nope --reason x", 2, "There is no release r-nope"),
        ("rollout status", 1, "There is no such rollout"),
        ("rollout status o-nope", 1, "There is no such rollout"),
        ("rollout watch", 1, "There is no such rollout"),
        ("rollout promote", 1, "No rollout is running"),
        ("rollout abort", 1, "No rollout is running"),
        ("rollout start", 1, "There is no challenger"),
        ("rollout start r-nope", 2, "There is no release r-nope"),
        ("rollout plan", 5, "Nothing is deployed yet"),
        ("why nonsense", 2, "No prediction nonsense"),
        ("why colour:red", 2, "is not a question"),
        ("why release:r-nope", 2, "There is no release"),
        ("ps", 1, "The stack is not running"),
        ("logs gateway", 2, "There is no log of gateway"),
        ("events --since 5x", 2, '"5x" is not a duration'),
        ("dev traffic --for soon", 2, '"soon" is not a duration'),
        ("dev traffic", 1, "The stack is not running"),
    ],
)
def test_before_anything_happened_each_command_says_what_is_missing(
    cli: Cli, project: Path, line: str, code: int, said: str
) -> None:
    """Nothing was trained, deployed or started."""
    check(cli, project, line, code, said)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("rollback --reason x", 2, "There is no earlier champion"),
        ("rollout plan", 5, "The stack is not running"),
        ("rollout start", 1, "There is no challenger"),
        ("rollout watch --timeout 5x", 2, '"5x" is not a duration'),
        ("ps", 1, "The stack is not running"),
        ("why version:2", 2, "There is no release with version 2"),
    ],
)
def test_with_a_champion_alone_there_is_nothing_to_judge_or_go_back_to(
    cli: Cli, deployed: Path, line: str, code: int, said: str
) -> None:
    """The stack is down and there was only ever one version."""
    check(cli, deployed, line, code, said)


def test_going_back_to_where_one_is_refused(cli: Cli, deployed: Path) -> None:
    """The champion cannot be rolled back to itself."""
    champion = cli("release", "list", "--json", cwd=deployed).json["releases"][0]["release"]
    check(cli, deployed, f"rollback {champion} --reason x", 2, f"Release {champion} is the champion already")
    check(cli, deployed, f"rollout start {champion}", 1, f"Release {champion} is the champion already")


@pytest.mark.parametrize(
    ("line", "document"),
    [
        ("release list", {"kind": "releases", "releases": []}),
        ("rollout history", {"kind": "rollouts", "rollouts": []}),
        ("down", {"kind": "down", "was_up": False}),
    ],
)
def test_an_empty_answer_is_no_error(cli: Cli, project: Path, line: str, document: dict[str, Any]) -> None:
    """Nothing to list and nothing to stop are answers, each one document."""
    result = cli(*line.split(), "--json", cwd=project)
    assert (result.exit_code, result.json) == (0, document)
    assert cli(*line.split(), cwd=project).exit_code == 0


@pytest.mark.parametrize("line", ["down", "events", "release list", "rollout history"])
def test_looking_and_stopping_need_no_secret(cli: Cli, project: Path, line: str) -> None:
    """Only the terminal that starts the gateway knows its API keys."""
    with (project / "tidegate.yaml").open("a") as file:
        file.write("serve: {auth: {api_keys: env:KEYS_OF_ANOTHER_TERMINAL}}\n")
    assert cli(*line.split(), cwd=project).exit_code == 0
    up = cli("up", cwd=project)
    assert (up.exit_code, "KEYS_OF_ANOTHER_TERMINAL is not set" in up.stderr) == (2, True)


@pytest.mark.parametrize("line", ["events", "events --since 2h", "events --since 999999999w", "logs"])
def test_an_empty_stream_is_empty(cli: Cli, project: Path, line: str) -> None:
    """No events, no logs: no lines, no error."""
    for arguments in (line.split(), [*line.split(), "--json"]):
        assert (cli(*arguments, cwd=project).exit_code, cli(*arguments, cwd=project).stdout) == (0, "")


@pytest.mark.parametrize("line", ["up", "up -d"])
def test_a_second_up_is_refused_and_names_the_first(cli: Cli, project: Path, line: str) -> None:
    """The lock is the kernel's, so a dead `up` never stands in the way."""
    run_dir = Environment(open_project(project, "local")).run_dir
    run_dir.mkdir(parents=True)
    (run_dir / "up.lock").write_text("4711")
    with (run_dir / "up.lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = cli(*line.split(), cwd=project)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "The stack runs already" in result.stderr
        assert "4711" in result.stderr


@pytest.mark.parametrize("line", ["release list", "events", "rollback --reason x", "rollout status", "ps --env prod"])
def test_an_unknown_environment_is_named(cli: Cli, project: Path, line: str) -> None:
    """With those that there are."""
    check(cli, project, f"{line.replace(' --env prod', '')} --env prod", 2, "prod")


def test_a_damaged_ledger_stops_every_decision(cli: Cli, deployed: Path) -> None:
    """It is named, and nothing is guessed in its place."""
    store = open_store(open_project(deployed, "local").store_url)
    name = store.list("ledger")[-1]
    store.write(name, b'{"half": ')
    for line in ("release list", "events", "rollback --reason x", "rollout status", "freeze --reason x"):
        check(cli, deployed, line, 1, "The ledger is damaged")


def test_a_release_that_was_tampered_with_is_not_served_again(cli: Cli, deployed: Path) -> None:
    """Neither listed as if nothing were, nor shown, nor shipped."""
    store = open_store(open_project(deployed, "local").store_url)
    (release,) = releases.ids(store)
    name = f"releases/{release}/release.json"
    store.write(name, store.read(name).replace(b'"version": 1', b'"version": 2'))
    listed = cli("release", "list", cwd=deployed)
    assert (listed.exit_code, "damaged" in listed.stdout, "is not what was recorded" in listed.stderr) == (
        1,
        True,
        True,
    )
    for line in (f"release show {release}", f"release checkout {release}", f"ship --release {release}"):
        check(cli, deployed, line, 1, "is not what was recorded")


def test_freeze_and_unfreeze_are_kept_with_their_reasons(cli: Cli, project: Path) -> None:
    """What a person did is in the ledger, with who did it."""
    assert cli("freeze", "--reason", "black friday", cwd=project).exit_code == 0
    assert cli("unfreeze", "--reason", "over", "--json", cwd=project).json["frozen"] is False
    lines = cli("events", "--json", cwd=project).lines
    assert [(one["kind"], one["data"]["reason"]) for one in lines] == [("frozen", "black friday"), ("unfrozen", "over")]
    assert all("@" in one["actor"] for one in lines)
    assert cli("events", "--since", "999999999w", "--json", cwd=project).lines == lines
    assert cli("events", "--since", "0", "--json", cwd=project).lines == []


def test_rollback_during_a_rollout_is_the_emergency_brake(cli: Cli, deployed: Path) -> None:
    """With only one champion ever, and without naming a release, everybody is back on the champion."""
    environment = Environment(open_project(deployed, "local"))
    champion = environment.state().champion
    environment.ledger.append(lambda _: Draft("registered", {"release": "r-2", "version": 2, "run_id": "run2"}))
    begun = {"rollout": "o-1", "stable": champion, "canary": "r-2", "steps": [50], "plan": {}}
    environment.ledger.append(lambda _: Draft("rollout_started", begun))
    done = cli("rollback", "--reason", "it hurts", "--json", cwd=deployed)
    assert (done.exit_code, done.json["release"], done.json["from"]) == (0, champion, "r-2"), done
    state = Environment(open_project(deployed, "local")).state()
    assert (state.open_rollout, state.champion, state.rollouts[-1].reasons) == (None, champion, ("it hurts",))
