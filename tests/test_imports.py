"""Importing us is cheap: what is heavy is loaded by the function that needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("api", "cli", "console", "core", "monitors", "pipelines", "registry", "rollouts", "serving")
# Seconds each; nobody may pay for them by importing a module.
HEAVY = {
    *("bentoml", "dvc", "evidently", "great_expectations", "hera", "kubernetes", "matplotlib", "mlflow", "onnx"),
    *("onnxruntime", "pandas", "pyarrow", "skl2onnx", "sklearn", "skops"),
}
# It is imported by the function that makes Workflow objects, and is made of hera's classes.
ONLY_TO_RUN = {"tidegate.pipelines.workflows.objects"}
# The judge's own process computes; no command and no page loads it.
JUDGE = {"tidegate.console.judge", "tidegate.console.judge_desk"}
# What the command line loads at every start, before it knows which command runs.
LIGHT = ("tidegate.api", "tidegate.cli.main", "tidegate.cli.terminal", "tidegate.core.errors", "tidegate.core.project")


def modules() -> list[str]:
    """Every module of ours, by its import name; running `__main__` is not importing."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__":
                found.append("tidegate." + ".".join(parts).removesuffix(".__init__"))
    return found


def loaded(names: list[str]) -> set[str]:
    """Top-level packages in a fresh process that imported `names`."""
    program = "import sys, importlib\n[importlib.import_module(name) for name in sys.argv[1:]]\nprint(*sys.modules)"
    command = [sys.executable, "-c", program, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_no_module_of_ours_imports_anything_heavy() -> None:
    """All of them together, in one process."""
    found = [name for name in modules() if name not in ONLY_TO_RUN]
    assert len(found) > 100
    assert loaded(found) & HEAVY == set()


@pytest.mark.parametrize("folder", ["cli", "core", "api", "console"])
def test_faces_and_core_do_without_numpy_too(folder: str) -> None:
    """Commands, config and errors need no arrays; neither does anything that they import at the top."""
    names = [name for name in modules() if name.split(".")[1] == folder and name not in JUDGE]
    assert loaded(names) & (HEAVY | {"numpy", "scipy", "httpx", "fsspec"}) == set()


def test_what_starts_every_command_needs_no_config_library() -> None:
    """pydantic, yaml and rich wait until a command reads the config or draws a table."""
    assert loaded(["tidegate.cli.main", "tidegate.cli.terminal"]) & {"pydantic", "yaml", "rich"} == set()
    assert loaded(list(LIGHT)) & HEAVY == set()


ASKED = """
import sys
from tidegate.cli.main import run
codes = [run(line.split()) for line in sys.argv[1:]]
print("ASKED", *codes)
print("LOADED", *sys.modules)
"""
# What people type while they look after a rollout; each is one small JSON file away from its answer.
LINES = (
    "release list", "release show r-1", "rollout status", "rollout history", "rollout watch --timeout 0s", "events",
    "why nothing", "ps", "logs", "rollout promote", "rollout abort", "freeze --reason x", "rollback r-1 --reason x",
)  # fmt: skip


def test_looking_after_a_rollout_loads_neither_arrays_nor_statistics(tmp_path: Path) -> None:
    """`rollout status` and its like answer from the ledger: numpy and scipy alone would take longer than they do."""
    from tidegate.core.project import open_project
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.ledger import Draft

    (tmp_path / "tidegate.yaml").write_text("model: demand\ndata: {path: train.csv, target: class}\n")
    environment = Environment(open_project(tmp_path))
    begun = {"rollout": "o-1", "stable": "r-1", "canary": "r-2", "steps": [10, 50], "plan": {}}
    registered = [("registered", {"release": f"r-{n}", "version": n, "run_id": f"run{n}"}) for n in (1, 2)]
    for kind, data in (*registered, ("deployed", {"release": "r-1"}), ("rollout_started", begun)):
        environment.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))
    command = [sys.executable, "-c", ASKED, *LINES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    codes = done.stdout.partition("ASKED ")[2].splitlines()[0].split()
    assert codes.count("0") > len(LINES) // 2, done.stderr
    found = {name.partition(".")[0] for name in done.stdout.rpartition("LOADED ")[2].split()}
    assert found & (HEAVY | {"numpy", "scipy"}) == set()
