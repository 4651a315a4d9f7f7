"""What every test may use: a machine of its own, a git repository, and the command line."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tidegate.cli.main import run
from tidegate.core.optouts import opt_out
from tidegate.core.threads import share_processors

ROOT = Path(__file__).resolve().parent.parent

# Where `make helm` puts it; found before tests get a home of their own.
HELM = shutil.which("helm") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tidegate/bin/helm")

# `nohup make test &` starts with Ctrl-C ignored, which every command under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
share_processors()  # before anything loads OpenMP: tests run beside each other


@dataclass(frozen=True)
class Result:
    """What one command line answered."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.stdout.splitlines()]


Cli = Callable[..., Result]


class Screen(io.StringIO):
    """What a person would see on a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture(autouse=True)
def own_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no git identity, MLflow address, TIDEGATE_* or GITHUB_* reaches a test."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        # TIDEGATE_ENVOY stays: on some platforms it is the only way to a new enough Envoy.
        if (
            name.startswith(("TIDEGATE_", "MLFLOW_", "GIT_", "GITHUB_", "BENTOML_", "DVC_"))
            and name != "TIDEGATE_ENVOY"
        ):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "BENTOML_HOME": str(home / "bentoml"),
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Ada Example\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    opt_out()
    return home


@pytest.fixture
def git_repo(tmp_path: Path) -> Path:
    """An empty git repository."""
    folder = tmp_path / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("config", "--json", cwd=folder)` runs a command line in this process, as the console script would."""

    def call(
        *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, columns: int = 0
    ) -> Result:
        """`columns` is the width of the terminal that stdout is; 0: it is none. Its colours are left out."""
        out, err = Screen() if columns else io.StringIO(), io.StringIO()
        env = {**(env or {}), **({"COLUMNS": str(columns), "TERM": "xterm"} if columns else {})}
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            if cwd is not None:
                patch.chdir(cwd)
            for name, value in env.items():
                patch.setenv(name, value)
            code = run([str(argument) for argument in arguments])
        shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()) if columns else out.getvalue()
        return Result(int(code), shown, err.getvalue())

    return call


@pytest.fixture
def cli_process() -> Cli:
    """The same in a process of its own: for signals, pipes, imports and start-up."""

    def call(
        *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120
    ) -> Result:
        command = [sys.executable, "-m", "tidegate.cli", *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real server that speaks S3, moto's, which lives as long as the tests."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store in a bucket; the credentials are made up, and only this test has them."""
    import s3fs

    made_up = {"AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": "example", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**made_up, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    bucket = f"tidegate-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/prefix"


@pytest.fixture(scope="session")
def helm() -> Iterator[Path]:
    """Helm, on PATH for as long as the tests live."""
    if not Path(HELM).is_file():
        pytest.skip("helm is not on this machine (`make helm` gets it with the Go toolchain)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(HELM).parent}{os.pathsep}{os.environ['PATH']}")
        yield Path(HELM)


@pytest.fixture
def elec() -> Path:
    """The electricity data, where the machine has it."""
    path = ROOT.parent / "shared" / "data" / "elec.csv"
    if not path.exists():
        pytest.skip("elec.csv is not on this machine (../shared/data/elec.csv)")
    return path
