"""`serve console` and how `up` tells where the console is: no door is left open, no secret ends up in a log."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tidegate.cli.commands.stack import to_open
from tidegate.core.project import open_project
from tidegate.pipelines import console_access
from tidegate.pipelines.console_process import ConsoleProcess
from tidegate.pipelines.environment import Environment
from tidegate.serving.deploy.local import free_port

Cli = Callable[..., Any]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A project whose console has a port that nobody uses."""
    advanced = f"advanced: {{console_port: {free_port()}}}\n"
    (tmp_path / "tidegate.yaml").write_text("model: demand\ndata: {path: data/train.csv, target: class}\n" + advanced)
    return Environment(open_project(tmp_path))


def test_other_machines_reach_it_only_with_tokens_that_were_given(cli: Cli, environment: Environment) -> None:
    """The token of this machine was made for its owner."""
    refused = cli("serve", "console", "--host", "0.0.0.0", cwd=environment.project.root)  # noqa: S104 - it is refused
    assert (refused.exit_code, "TIDEGATE_CONSOLE_TOKENS" in refused.stderr) == (2, True)
    wrong = cli(
        "serve", "console", cwd=environment.project.root, env={"TIDEGATE_CONSOLE_TOKENS": "admin:0123456789abcdef0123"}
    )
    assert (wrong.exit_code, "neither viewer: nor operator:" in wrong.stderr) == (2, True)
    assert "0123456789abcdef0123" not in wrong.stderr


def test_a_taken_port_is_named_with_its_holder(cli: Cli, environment: Environment) -> None:
    """And with the key that changes it."""
    port = environment.project.config.advanced.console_port
    with socket.create_server(("127.0.0.1", port)):
        taken = cli("serve", "console", cwd=environment.project.root)
    assert (taken.exit_code, f"is taken by process {os.getpid()}" in taken.stderr) == (1, True)
    assert "advanced.console_port" in taken.stderr


def test_a_link_is_printed_on_a_terminal_and_elsewhere_only_where_the_token_is(environment: Environment) -> None:
    """What is piped ends up in a log, which others may read."""
    address = "http://127.0.0.1:8401"
    shown = to_open(Console(file=io.StringIO(), force_terminal=True), address, environment)
    assert shown.startswith(f"{address}/login/")
    assert console_access.redeem(environment, shown.rpartition("/")[2])
    piped = to_open(Console(file=io.StringIO()), address, environment)
    token = console_access.token_file(environment)
    assert piped == f"{address} (the token is in {token})"
    assert token.read_text() not in piped


def test_without_its_libraries_there_is_no_console_and_that_is_said_once(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install tidegate[serve,train]` serves users all the same."""
    monkeypatch.setattr("tidegate.pipelines.console_process._NEEDED", ("a_library_that_is_not_here",))
    said: list[str] = []
    process = ConsoleProcess(environment, said.append)
    for _ in range(3):
        process.keep()
    assert (len(said), "tidegate[monitor]" in said[0]) == (1, True)
    assert (process.address, process.shown()) == (None, None)
