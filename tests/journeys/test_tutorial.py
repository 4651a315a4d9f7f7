"""docs/tutorial.md, pasted line by line as a reader would; minutes, so `make stories`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.serving.deploy.local import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A rollout that two minutes do not decide is no mistake of the page's, which says so.
UNDECIDED = 5

pytestmark = pytest.mark.long


def lines() -> list[str]:
    """What is pasted after `make setup`, which is how this test came to run."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    found = [line for block in FENCE.findall(text) for line in block.splitlines()]
    assert found[:2] == ["make setup", 'export PATH="$PWD/.venv/bin:$PATH"']
    return found[2:]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What `&` left running; ended with the test."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for one in found:
        os.killpg(one.pid, signal.SIGINT)
        one.wait(30)


@pytest.mark.timeout(900)
def test_every_line_of_the_tutorial_works(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """From a CSV to a judged canary and back, with nothing typed that the page does not show but free ports."""
    here, environ = tmp_path, {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        for line in lines():
            if line.startswith("cd "):
                here /= line.removeprefix("cd ")
                with (here / "tidegate.yaml").open("a", encoding="utf-8") as file:
                    file.write(f"\nadvanced: {{gateway_port: {free_port()}, console_port: {free_port()}}}\n")
            elif line.endswith("&"):
                command = ["bash", "-c", f"exec {line.removesuffix('&')}"]
                started.append(subprocess.Popen(command, cwd=here, env=environ, start_new_session=True))
            else:
                command = ["bash", "-c", line]
                done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=False)
                allowed = {0, UNDECIDED} if line.startswith("tidegate ship --timeout") else {0}
                assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
                if line == "tidegate up -d":
                    assert re.search(r"^curl .*predict", done.stdout, re.MULTILINE), done.stdout
    finally:
        subprocess.run(["tidegate", "down"], cwd=here, env=environ, capture_output=True, check=False)
