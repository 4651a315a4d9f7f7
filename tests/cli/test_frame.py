"""The frame that every command runs in."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from tidegate.cli import main
from tidegate.cli.main import COMMANDS, root

CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\nenvironments: {prod: {kind: kubernetes}}\n"
Cli = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    return tmp_path


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from leaves(child, f"{path} {name}")


def everything() -> list[tuple[str, Any]]:
    tree = root()
    found = [("tidegate", tree)]
    for name in COMMANDS:
        found += leaves(tree.load(name), f"tidegate {name}")
    return found


def test_every_command_and_every_option_has_help() -> None:
    """Nobody has to read the source to learn what an option does."""
    for path, command in everything():
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path} {parameter.opts}"


def test_no_option_of_a_command_hides_a_global_one() -> None:
    """-C, -e, --json and --traceback mean the same everywhere."""
    for path, command in everything():
        names = [name for parameter in command.params for name in parameter.opts]
        assert len(names) == len(set(names)), path
        assert {"-C", "-e", "--json", "--traceback"} <= set(names), path


def test_every_line_of_the_table_leads_to_a_command_with_the_same_purpose() -> None:
    """A command that does not exist is not shown."""
    for name, line in COMMANDS.items():
        assert line.help.endswith("."), name
        assert line.panel


@pytest.mark.parametrize("name", [*COMMANDS, "--help", "--version"])
def test_help_needs_no_project(cli: Cli, name: str, tmp_path: Path) -> None:
    """Help is printed anywhere, without ANSI when nobody looks."""
    result = cli(*([name, "--help"] if not name.startswith("-") else [name]), cwd=tmp_path)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout + result.stderr
    assert result.stdout


@pytest.mark.parametrize("before", [True, False])
def test_global_options_work_before_and_after_the_command(cli: Cli, project: Path, before: bool) -> None:
    """Both orders mean the same."""
    options = ["-C", str(project), "--env", "prod", "--json"]
    result = cli(*options, "config") if before else cli("config", *options)
    assert result.json["env"] == "prod"
    assert result.json["root"] == str(project)


def test_the_last_word_on_a_global_option_counts(cli: Cli, project: Path) -> None:
    """What is typed after the command's name, then before it, then TIDEGATE_ENV."""
    env = {"TIDEGATE_ENV": "nowhere"}
    assert cli("-e", "nowhere", "config", "-e", "prod", "--json", cwd=project, env=env).json["env"] == "prod"
    assert cli("-e", "prod", "config", "--json", cwd=project, env=env).json["env"] == "prod"
    assert cli("config", cwd=project, env=env).exit_code == 2
    assert cli("config", "--json", cwd=project).json["env"] == "local"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confg"], "'config'"),
        (["config", "--jsno"], "--json"),
        (["release", "shwo"], "'show'"),
        (["config", "extra"], "extra"),
        (["freeze"], "--reason"),
    ],
)
def test_a_mistyped_command_line_is_exit_2_with_what_was_meant(cli: Cli, arguments: list[str], said: str) -> None:
    """On stderr for a person, as one document for a script."""
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    document = cli(*arguments, "--json").json if "--jsno" not in arguments else cli("--json", *arguments).json
    assert (document["kind"], document["exit_code"]) == ("error", 2)
    assert said in document["message"]


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    """And the exit code says that nothing was done."""
    result = cli()
    assert result.exit_code == 2
    assert "Usage: tidegate" in result.stderr


def test_config_errors_are_one_document_with_every_problem(cli: Cli, tmp_path: Path) -> None:
    """Scripts get the same lines as people."""
    (tmp_path / "tidegate.yaml").write_text("modle: a\n")
    result = cli("config", "--json", cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (2, "")
    assert 'tidegate.yaml:1: modle: unknown key, did you mean "model"?' in result.json["problems"]
    assert set(result.json) >= {"kind", "message", "hint", "problems", "exit_code"}
    plain = cli("config", cwd=tmp_path)
    assert plain.stdout == ""
    assert "tidegate.yaml:1: modle" in plain.stderr


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Put a function in the place of `tidegate schema`."""

    def replace(function: Callable[[], None]) -> None:
        monkeypatch.setattr("tidegate.cli.commands.schema.schema", function)

    return replace


def test_an_unexpected_error_is_one_line_and_a_request(cli: Cli, broken: Cli) -> None:
    """The stack is shown when it is asked for."""

    def fail() -> None:
        """Fail."""
        raise KeyError("weights")

    broken(fail)
    result = cli("schema")
    assert result.exit_code == 1
    assert "KeyError: 'weights'" in result.stderr
    assert "report" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in cli("schema", "--traceback").stderr
    assert cli("schema", "--json").json["exit_code"] == 1


def test_only_a_step_tells_a_pod_not_to_try_again(cli: Cli, broken: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no new attempt can mend is exit code 78 for a scheduler, and an error like any other for a person."""
    from tidegate.core.errors import Permanent

    def fail() -> None:
        """Fail."""
        raise Permanent("The data is not what was recorded.", "Restore it.")

    broken(fail)
    monkeypatch.setattr("tidegate.cli.commands.step._run", lambda *_: fail())
    assert (cli("schema").exit_code, cli("step", "train").exit_code) == (1, 78)


def test_a_document_that_is_out_is_not_followed_by_another(cli: Cli, broken: Cli) -> None:
    """A command that shows its result and then fails still prints exactly one document."""
    from tidegate.cli.terminal import terminal
    from tidegate.core.errors import ContractFailed

    def refuse() -> None:
        """Refuse."""
        terminal().show({"kind": "release", "passed": False, "loss": float("nan"), "path": Path("a")})
        raise ContractFailed("The data said no.", "Look at the reasons.")

    broken(refuse)
    result = cli("schema", "--json")
    assert result.exit_code == 3
    assert result.json == {"kind": "release", "passed": False, "loss": None, "path": "a"}
    assert "The data said no." in result.stderr


def test_a_stream_ends_with_its_error_as_one_more_line(cli: Cli, broken: Cli) -> None:
    """JSON Lines stay JSON Lines."""
    from tidegate.cli.terminal import terminal
    from tidegate.core.errors import ExitCode, TidegateError

    def stream() -> None:
        """Stream."""
        terminal().line({"kind": "event"}, "text")
        raise TidegateError("Slower.", exit_code=ExitCode.ROLLED_BACK)

    broken(stream)
    result = cli("schema", "--json")
    assert [line["kind"] for line in result.lines] == ["event", "error"]
    assert result.exit_code == 6


def test_lists_are_tables_without_boxes_where_there_is_no_terminal(cli: Cli, broken: Cli) -> None:
    """What scripts and logs see is plain text, and brackets are no colours."""
    from tidegate.cli.terminal import terminal

    def show() -> None:
        """Show."""
        terminal().show({"kind": "models", "versions": [{"version": 1, "note": "[red]x"}], "ok": True, "none": None})

    broken(show)
    lines = [line.split() for line in cli("schema").stdout.splitlines()]
    assert lines == [["versions:"], ["version", "note"], ["1", "[red]x"], ["ok:", "yes"], ["none:", "-"]]


def test_progress_goes_to_stderr(cli: Cli, broken: Cli) -> None:
    """A redirected result stays clean."""
    from tidegate.cli.terminal import terminal

    def work() -> None:
        """Work."""
        with terminal().progress.task("Training", total=2) as task:
            task.advance(2, "done")
        terminal().show({"kind": "train", "changed": False})

    broken(work)
    result = cli("schema", "--json")
    assert result.json == {"kind": "train", "changed": False}
    assert "Training" in result.stderr


def test_ctrl_c_is_exit_130_without_a_traceback(tmp_path: Path) -> None:
    """Interrupting a command is no error of the command."""
    script = textwrap.dedent("""\
        import sys, time
        from tidegate.cli.commands import schema
        from tidegate.cli.main import main
        def wait():
            "Wait."
            print("up", flush=True)
            time.sleep(60)
        schema.schema = wait
        sys.argv = ["tidegate", "schema"]
        main()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_early_hears_nothing_more() -> None:
    """`tidegate schema | head -1` prints no traceback."""
    command = f"{sys.executable} -m tidegate.cli schema | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize(("no_color", "colours"), [("", True), ("1", False)])
def test_a_terminal_gets_pretty_help_and_no_color_is_honoured(no_color: str, colours: bool) -> None:
    """Boxes and colours are for people who look and want them."""
    parent, child = pty.openpty()
    env = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm-256color"}
    env = {name: value for name, value in env.items() if value or name != "NO_COLOR"}
    command = [sys.executable, "-m", "tidegate.cli", "--help"]
    with subprocess.Popen(command, stdout=child, stderr=child, env=env) as process:
        os.close(child)
        text = b""
        try:
            while chunk := os.read(parent, 65536):
                text += chunk
        except OSError:  # Linux says EIO when the other end is closed
            pass
    os.close(parent)
    assert process.returncode == 0
    shown = text.decode()
    assert "╭" in shown
    assert ("\x1b[36m" in shown or "\x1b[1;36m" in shown) is colours


HEAVY = (
    "pandas",
    "numpy",
    "mlflow",
    "dvc",
    "bentoml",
    "great_expectations",
    "sklearn",
    "onnx",
    "pydantic",
    "yaml",
    "rich",
)


def test_help_imports_nothing_heavy() -> None:
    """The start-up of every command pays for what `--help` imports."""
    script = textwrap.dedent("""\
        import sys
        from tidegate.cli.main import run
        code = run(["--help"])
        print("LOADED", *sys.modules)
        sys.exit(code)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert "typer" in loaded
    assert not set(HEAVY) & set(loaded)
    assert not [name for name in loaded if name.startswith("tidegate.") and name.split(".")[1] not in ("cli", "core")]


def test_the_version_is_the_installed_one(cli: Cli) -> None:
    """One line that a bug report can quote."""
    from importlib.metadata import version

    assert cli("--version").stdout == f"tidegate {version('tidegate')}\n"


def test_usage_errors_of_typer_itself_keep_their_exit_code(cli: Cli, broken: Cli) -> None:
    """`typer.Exit` is how a command returns another code, `BadParameter` how it refuses a value."""

    def leave() -> None:
        """Leave."""
        raise typer.Exit(5)

    def refuse() -> None:
        """Refuse."""
        raise typer.BadParameter("not that one")

    broken(leave)
    assert cli("schema").exit_code == 5
    broken(refuse)
    assert cli("schema").exit_code == 2
    assert json.loads(cli("schema", "--json").stdout)["message"].endswith("not that one")
    assert main.COMMANDS
