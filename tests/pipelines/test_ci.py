"""`tidegate ci init`: workflows of a few lines, refused while a runner would find nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
USES = f"acme/tidegate@{COMMIT}"
CONFIG = """
model: demand
data: {path: data.csv, target: class}
store: s3://acme/tidegate
mlflow: https://mlflow.example.org
environments: {prod: {kind: kubernetes}}
"""


@pytest.fixture
def shared(git_repo: Path) -> Path:
    """A project whose data, MLflow and store are where a runner can reach them."""
    from tidegate.pipelines import dvc_repo

    (git_repo / "tidegate.yaml").write_text(CONFIG.lstrip())
    dvc_repo.init(git_repo)
    remote(git_repo, "s3://acme/dvc")
    return git_repo


def remote(root: Path, url: str) -> None:
    (root / ".dvc" / "config").write_text(f"[core]\n    remote = main\n['remote \"main\"']\n    url = {url}\n")


def test_four_callers_are_written_and_fit_what_they_call(shared: Path, cli: Any) -> None:
    """Every input and right that a caller gives is one that the workflow takes, and none that it needs is missing."""
    done = cli("ci", "init", "--uses", USES, "--json", cwd=shared).json
    names = ["pull-request", "release", "monitor", "rollback"]
    assert done["written"] == [f".github/workflows/tidegate-{name}.yml" for name in names]
    for name in names:
        caller = yaml.safe_load((shared / f".github/workflows/tidegate-{name}.yml").read_text())
        called = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
        job = caller["jobs"][name]
        assert job["uses"] == f"acme/tidegate/.github/workflows/{name}.yml@{COMMIT}"
        inputs = called[True]["workflow_call"]["inputs"]
        assert set(job["with"]) <= set(inputs)
        assert {key for key, one in inputs.items() if one.get("required")} <= set(job["with"])
        wanted = {right for one in called["jobs"].values() for right in one["permissions"].items()}
        assert wanted <= set(job["permissions"].items())
        assert caller["permissions"] == {}
    rollback = yaml.safe_load((shared / ".github/workflows/tidegate-rollback.yml").read_text())
    assert rollback["jobs"]["rollback"]["with"]["reason"] == "${{ inputs.reason }}"


def test_the_callers_have_no_finding_of_the_tools_that_check_workflows(shared: Path, cli: Any) -> None:
    """As clean as our own."""
    assert cli("ci", "init", "--uses", USES, cwd=shared).exit_code == 0
    tools = Path(sys.executable).parent
    files = [str(file) for file in (shared / ".github" / "workflows").iterdir()]
    schema = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    style = ["yamllint", "--strict", "-c", str(ROOT / ".yamllint.yaml"), *files]
    for command in (["zizmor", "--offline", *files], schema, style):
        done = subprocess.run([tools / command[0], *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_exists_is_kept_and_another_environment_is_named(shared: Path, cli: Any) -> None:
    """A second call writes only what is missing."""
    mine = shared / ".github/workflows/tidegate-release.yml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n")
    done = cli("-e", "prod", "ci", "init", "--uses", "acme/tidegate@v1", "--json", cwd=shared).json
    assert (done["kept"], mine.read_text()) == ([".github/workflows/tidegate-release.yml"], "mine\n")
    assert "v1 can be moved to other code" in done["notes"][0]
    text = (shared / ".github/workflows/tidegate-monitor.yml").read_text()
    assert 'environment: "prod"' in text
    assert 'cron: "17 3 * * *"' in text


def test_a_project_in_a_folder_has_workflows_of_its_own(git_repo: Path, shared: Path, cli: Any) -> None:
    """Several models in one repository do not start each other's."""
    inner = shared / "models" / "demand"
    inner.mkdir(parents=True)
    for name in ("tidegate.yaml", ".dvc"):
        (shared / name).rename(inner / name)
    done = cli("ci", "init", "--uses", USES, "--json", cwd=inner).json
    assert done["written"][0] == ".github/workflows/tidegate-demand-pull-request.yml"
    caller = yaml.safe_load((shared / done["written"][0]).read_text())
    assert caller[True]["pull_request"]["paths"] == ["models/demand/**"]
    assert caller["jobs"]["pull-request"]["with"]["directory"] == "models/demand"


def test_what_only_this_machine_has_is_refused_all_at_once(shared: Path, cli: Any) -> None:
    """Data, MLflow and store, each with how to share it; nothing is written."""
    remote(shared, "/srv/dvc")
    local = CONFIG.replace("s3://acme/tidegate", ".tidegate/store").replace(
        "https://mlflow.example.org", "sqlite:///m.db"
    )
    (shared / "tidegate.yaml").write_text(local.lstrip())
    done = cli("ci", "init", "--uses", USES, "--json", cwd=shared)
    assert done.exit_code == 2
    assert [problem.split(" ")[0] for problem in done.json["problems"]] == ["the", "mlflow", "store"]
    assert "dvc remote add --default --force storage s3://" in done.json["problems"][0]
    assert not (shared / ".github").exists()


@pytest.mark.parametrize("address", ["http://localhost:5000", "http://127.0.0.1:5000"])
def test_a_server_on_this_machine_is_no_shared_one(shared: Path, cli: Any, address: str) -> None:
    """It has an address with a scheme, and the runner would ask itself."""
    text = (shared / "tidegate.yaml").read_text()
    (shared / "tidegate.yaml").write_text(text.replace("https://mlflow.example.org", address))
    assert cli("ci", "init", "--uses", USES, "--json", cwd=shared).json["problems"][0].startswith("mlflow is http")


def test_a_remote_that_git_does_not_carry_is_none(shared: Path, cli: Any) -> None:
    """`dvc remote add --local` is not in the checkout of a runner."""
    (shared / ".dvc" / "config").rename(shared / ".dvc" / "config.local")
    (shared / ".dvc" / "config").write_text("")
    problems = cli("ci", "init", "--uses", USES, "--json", cwd=shared).json["problems"]
    assert problems[0].startswith("DVC has no default remote in .dvc/config")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--uses", "tidegate"], "OWNER/REPOSITORY@COMMIT"),
        (["--uses", USES, "--cron", "daily"], "17 3 * * *"),
        (["--uses", USES, "--cron", "* * * *\n- x"], "17 3 * * *"),
    ],
)
def test_an_argument_that_is_none_says_what_one_is(shared: Path, cli: Any, arguments: list[str], said: str) -> None:
    """Before anything is written."""
    done = cli("ci", "init", *arguments, "--json", cwd=shared)
    assert (done.exit_code, said in done.json["hint"]) == (2, True)
    assert not (shared / ".github").exists()


def test_where_it_was_installed_from_is_what_is_called(monkeypatch: pytest.MonkeyPatch, shared: Path, cli: Any) -> None:
    """Pip keeps the repository and the commit beside the package; installed from elsewhere, one has to say it."""
    from importlib import metadata

    origin = {"url": "https://github.com/acme/tidegate.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    # Whoever has imported the backport of importlib.metadata finds distributions of its own kind.
    kind = type(metadata.distribution("tidegate"))
    real = kind.read_text
    told: list[dict[str, Any]] = [origin, {"url": "file:///srv/tidegate", "dir_info": {}}]

    def read_text(self: metadata.Distribution, name: str) -> str | None:
        return json.dumps(told[0]) if name == "direct_url.json" else real(self, name)

    monkeypatch.setattr(kind, "read_text", read_text)
    assert cli("ci", "init", "--json", cwd=shared).json["uses"] == USES
    told.pop(0)
    unknown = cli("ci", "init", "--json", cwd=shared)
    assert (unknown.exit_code, "--uses" in unknown.json["hint"]) == (2, True)
