"""`rollout report` and `rollout watch` on a project whose rollout is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded import BAD, GOOD, Recorder, plan

from tidegate.cli.terminal import to_json
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment

Cli = Callable[..., Any]
CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"


@pytest.fixture
def environment(git_repo: Path) -> Environment:
    """A project in which nothing has happened."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    return Environment(open_project(git_repo))


def recorded(environment: Environment, **more: Any) -> Recorder:
    return Recorder(environment.store, "demand.local", plan(**more), units=2000)


def test_the_report_is_written_here_and_its_path_is_printed(cli: Cli, environment: Environment, tmp_path: Path) -> None:
    """In the current folder, named after the rollout; an older file is replaced."""
    recorded(environment).run(GOOD)
    (tmp_path / "rollout-o-1a2b.html").write_text("old")
    result = cli("-C", environment.project.root, "rollout", "report", cwd=tmp_path)
    path = tmp_path / "rollout-o-1a2b.html"
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert "Promoted: version 2 took over from version 1" in path.read_text()
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == [path.name]


def test_json_is_one_document_with_the_series(cli: Cli, environment: Environment, tmp_path: Path) -> None:
    """And the page is written all the same."""
    recorded(environment).run(BAD)
    output = tmp_path / "pages" / "bad.html"
    document = cli("rollout", "report", "o-1", "--output", output, "--json", cwd=environment.project.root).json
    assert (document["kind"], document["id"], document["state"]) == ("report", "o-1a2b", "rolled_back")
    assert document["path"] == str(output)
    assert output.read_text().startswith("<!doctype html>")
    assert document["series"][-1]["decision"] == "rollback"
    assert [one["kind"] for one in document["decisions"]] == ["rollout_started", "rolled_back"]


def test_the_newest_rollout_is_reported_unless_another_is_named(
    cli: Cli, environment: Environment, tmp_path: Path
) -> None:
    """By its id or a beginning of it."""
    recorded(environment).run(BAD)
    recorded(environment, rollout="o-9f9f")
    root = environment.project.root
    assert cli("rollout", "report", "--json", cwd=root).json["id"] == "o-9f9f"
    assert cli("rollout", "report", "o-1a", "--json", cwd=root).json["id"] == "o-1a2b"
    assert "There is no such rollout" in cli("rollout", "report", "o-5", cwd=root).stderr


def test_without_any_rollout_there_is_nothing_to_report(cli: Cli, environment: Environment) -> None:
    """It says how one begins, and writes no file."""
    result = cli("rollout", "report", cwd=environment.project.root)
    assert result.exit_code == 1
    assert "`tidegate rollout start` begins one" in result.stderr
    assert not list(environment.project.root.glob("*.html"))


def test_damaged_blocks_are_named_and_no_page_is_written(cli: Cli, environment: Environment) -> None:
    """Half a page would be believed."""
    recorded(environment).run(GOOD, most=2)
    (path,) = environment.store.list("rollouts/o-1a2b/blocks")[-1:]
    environment.store.write(path, b"{")
    result = cli("rollout", "report", cwd=environment.project.root)
    assert result.exit_code == 1
    assert f"The recorded blocks of rollout o-1a2b are damaged: {path} cannot be read." in result.stderr
    assert not list(environment.project.root.glob("*.html"))


@pytest.mark.parametrize("there", ["folder", "file/x.html"])
def test_a_place_that_cannot_be_written_is_named(
    cli: Cli, environment: Environment, tmp_path: Path, there: str
) -> None:
    """A folder, or below a file: an error with the path, and nothing half-written."""
    recorded(environment).run(GOOD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    result = cli("rollout", "report", "--output", tmp_path / there, cwd=environment.project.root)
    assert result.exit_code == 1
    assert f"Cannot write {tmp_path / there}: " in result.stderr
    assert {one.name for one in tmp_path.iterdir()} - {"project"} == {"folder", "file"}
    assert (tmp_path / "file").read_text() == "mine"


def test_watch_on_a_terminal_draws_the_evidence_and_leaves_the_verdict(cli: Cli, environment: Environment) -> None:
    """Ramp, users, each metric against its lines, in 80 columns; the exit code is as without a terminal."""
    verdict = recorded(environment).run(BAD)
    result = cli("rollout", "watch", cwd=environment.project.root, columns=80)
    assert result.exit_code == 6
    lines = drawn(result.stdout)
    assert lines[0].startswith("o-1a2b  version 2 against 1  rolled back after")
    assert max(map(len, lines)) <= 80
    for name in ("error_rate", "latency_p50", "latency_p90", "latency_p99", "all together"):
        assert sum(line.startswith(name) for line in lines) == 1
    (error_rate,) = (line for line in lines if line.startswith("error_rate"))
    assert "━" in error_rate
    assert error_rate.index("┃") < error_rate.index("│") < error_rate.index("●")
    assert f"canary {verdict.units['canary']:,}" in result.stdout
    assert " ".join(verdict.reasons[0].split()) in " ".join(result.stdout.split())


def test_watch_on_a_terminal_shows_what_is_left_of_a_running_step(cli: Cli, environment: Environment) -> None:
    """It stops after the time it was given, with what it showed last."""
    recorded(environment).run(GOOD, most=2)
    result = cli("rollout", "watch", "--timeout", "1s", cwd=environment.project.root, columns=80)
    assert result.exit_code == 5
    lines = drawn(result.stdout)
    assert " left in this step, if the canary is good" in result.stdout
    assert "running for" in lines[0]
    assert " 20 %  steps 20 50" in lines[1]


def test_watch_elsewhere_prints_a_line_and_json_documents(cli: Cli, environment: Environment) -> None:
    """Nothing is drawn into a file or a pipe, nor where JSON was asked for on a terminal."""
    recorded(environment).run(GOOD)
    root = environment.project.root
    plain = cli("rollout", "watch", cwd=root)
    assert plain.exit_code == 0
    assert plain.stdout.startswith("o-1a2b  promoted     100 %  canary ")
    assert "\x1b" not in plain.stdout
    document = environment.driver.status()
    for columns in (0, 80):
        assert cli("rollout", "watch", "--json", cwd=root, columns=columns).stdout == to_json(document) + "\n"
    assert cli("rollout", "watch", cwd=root, columns=80, env={"TERM": "dumb"}).exit_code == 0


def drawn(stdout: str) -> list[str]:
    """The lines of the last picture."""
    lines = stdout.split("\n")
    begins = max(at for at, line in enumerate(lines) if "o-1a2b" in line)
    head = lines[begins]
    return [head[head.index("o-1a2b") :], *(line.rstrip() for line in lines[begins + 1 :])]
