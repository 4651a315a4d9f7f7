"""The workflows that users call, run line by line against a scratch repository as a runner would."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from journeys.journey import TRAIN, write_data
from journeys.runner import ROOT, Comments, Job, Runner, comments_api

from tidegate.cli.main import run

WORKFLOWS = ("pull-request", "release", "monitor", "rollback")
CONFIG = """
version: 1
model: demand
task: classification
data: {{path: data.csv, target: class, split: {{by: random}}}}
train: {{entrypoint: train.py:train, params: {{C: 1.0}}}}
gate: {{metric: roc_auc, tolerance: 0.02, latency_p99: 5s, slices: [{{column: city, tolerance: 0.5}}]}}
store: {store}
mlflow: sqlite:///{mlflow}
"""
CONTRACT = "expectations:\n- {type: expect_column_values_to_not_be_null, column: price}\n"


@dataclass
class Repository:
    """A repository whose data, MLflow and store are shared, as a remote and a server would be."""

    origin: Path
    work: Path
    shared: Path

    def tidegate(self, *arguments: str) -> dict[str, Any]:
        """Run a command in the author's folder; it must succeed."""
        printed = io.StringIO()
        with redirect_stdout(printed):
            assert run(["-C", str(self.work), *arguments, "--json"]) == 0, printed.getvalue()
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git."""
        return subprocess.run(
            ["git", *arguments], cwd=cwd or self.work, capture_output=True, text=True, check=True
        ).stdout

    def propose(self, branch: str, **files: str) -> None:
        """Push a branch with other files."""
        self.git("checkout", "-q", "-B", branch, "main")
        for name, text in files.items():
            (self.work / name.replace("__", ".")).write_text(text)
        self.git("commit", "-qam", f"Try {branch}")
        self.git("push", "-q", "origin", branch)

    def checkout(self, folder: Path, branch: str) -> Path:
        """What actions/checkout leaves with fetch-depth 0."""
        self.git("clone", "-q", "--branch", branch, str(self.origin), str(folder), cwd=self.shared)
        return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """Version 1 is the champion, its data and outputs are pushed."""
    top = tmp_path_factory.mktemp("hosted")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("TIDEGATE_", "MLFLOW_", "GIT_", "BENTOML_"))]:
            patch.delenv(name)
        (top / "home").mkdir()
        (top / "home" / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
        patch.setenv("HOME", str(top / "home"))
        patch.setenv("GIT_CONFIG_GLOBAL", str(top / "home" / ".gitconfig"))
        made = Repository(top / "origin.git", top / "work", top / "shared")
        for folder in (made.work, made.shared / "dvc"):
            folder.mkdir(parents=True)
        made.git("init", "-q", "--bare", "-b", "main", str(made.origin))
        made.git("init", "-q", "-b", "main", ".")
        texts = {"train.py": TRAIN, "contract.yaml": CONTRACT}
        config = CONFIG.format(store=made.shared / "store", mlflow=made.shared / "mlflow.db")
        for name, text in {**texts, "tidegate.yaml": config}.items():
            (made.work / name).write_text(text.lstrip())
        write_data(made.work / "data.csv", 2000)
        made.tidegate("init")
        remote = f"['remote \"shared\"']\n    url = {made.shared / 'dvc'}\n"
        (made.work / ".dvc" / "config").write_text(f"[core]\n    remote = shared\n{remote}")
        assert made.tidegate("ship")["rollout"]["decision"] == "deployed"
        made.git("add", "-A")
        made.git("commit", "-qm", "Begin")
        made.git("remote", "add", "origin", str(made.origin))
        made.git("push", "-q", "origin", "main")
        made.tidegate("data", "push")
        yield made


@pytest.fixture
def runner(tmp_path: Path, template: Repository) -> Runner:
    """A runner for pull request 7, with tidegate on PATH; tests set its workspace."""
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    temp = tmp_path / "temp"
    temp.mkdir()
    return Runner(
        tmp_path / "workspace",
        temp,
        {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GITHUB_BASE_REF": "main",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REPOSITORY": "ada/shop",
        },
        github={"token": "t0", "event": {"pull_request": {"head": {"repo": {"fork": ""}}}}},
        given={"plots": {"artifact-url": "https://github.com/ada/shop/artifacts/1"}},
    )


def commented(runner: Runner, comments: Comments) -> Job:
    """The second job, which gets the report as an artifact."""
    elsewhere = runner.temp.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    if (report := runner.temp / "report.md").exists():
        shutil.copy(report, elsewhere)
    other = Runner(
        elsewhere,
        runner.temp,
        {**runner.environ, "GITHUB_API_URL": comments.address},
        runner.github,
        needs=runner.needs,
    )
    return other.run("pull-request", "comment", model="demand")


@pytest.mark.long
@pytest.mark.timeout(600)  # a dozen processes, which a busy machine starts slowly
def test_a_worse_model_fails_its_pull_request_and_the_comment_says_why(runner: Runner, template: Repository) -> None:
    """The first two lines are the refusal and its reason; a push that mends it updates the same comment."""
    worse = TRAIN.replace("fit(X, y)", "fit(X, y[::-1])")
    template.propose("worse", train__py=worse.lstrip())
    template.checkout(runner.workspace, "worse")
    judged = runner.run("pull-request", "judge", model="demand")
    assert [one.code for one in judged.steps] == [0, 0, 3], judged.steps[-1].stderr
    assert (judged.failed, judged.outputs) == (True, {"passed": "false"})
    assert judged.steps[-1].outputs == {"passed": "false", "exit-code": "3"}
    with comments_api() as comments:
        comments.say("Looks good.\n<!-- tidegate report of demand in local -->", "mallory")
        assert not commented(runner, comments).failed
        first, second, *_ = comments.found[1]["body"].splitlines()
        assert first == "### demand: the gate refuses this model"
        assert re.match(r"\*\*roc&#95;auc .*is 0\.\d+, version 1 has 0\.\d+: worse by at most", second), second
        assert "set gate.tolerance in tidegate.yaml to" in comments.found[1]["body"]
        mended(runner, template)
        assert not commented(runner, comments).failed
        assert [one["user"]["login"] for one in comments.found] == ["mallory", "github-actions[bot]"]
        assert comments.found[0]["body"].startswith("Looks good.")
        assert comments.found[1]["body"].startswith("### demand: the gate passes\nroc&#95;auc is 0.")
        assert [method for method, _, _ in comments.requests] == ["GET", "POST", "GET", "PATCH"]
        assert comments.requests[1][1:] == ("/repos/ada/shop/issues/7/comments", "Bearer t0")
        assert comments.requests[3][1] == "/repos/ada/shop/issues/comments/2"


def mended(runner: Runner, template: Repository) -> None:
    """The next push is the champion's own training, restored from the run-cache, with newer data beside it."""
    shutil.rmtree(runner.workspace)
    template.checkout(runner.workspace, "main")
    judged = runner.run("pull-request", "judge", model="demand")
    assert (judged.failed, judged.outputs) == (False, {"passed": "true"})
    report = (runner.temp / "report.md").read_text()
    assert judged.summary.endswith(report + "\n")
    assert "The same data as in `origin/main`. 1 of 1 promises of the contract hold." in report
    assert "[confusion matrix](<https://github.com/ada/shop/artifacts/1>)" in report
    assert "| city = rome |" in report
    assert "#### Cost" in report


@pytest.mark.long
def test_data_that_breaks_its_contract_is_reported_although_nothing_was_trained(
    runner: Runner, template: Repository
) -> None:
    """Training fails the job at its contract, the report goes out all the same."""
    template.git("checkout", "-q", "-B", "broken", "main")
    lines = (template.work / "data.csv").read_text().splitlines()
    lines[1] = "," + lines[1].split(",", 1)[1]
    (template.work / "data.csv").write_text("\n".join([*lines, *lines[2:40]]) + "\n")
    template.tidegate("data", "add")
    template.tidegate("data", "push")
    template.git("commit", "-qam", "Newer data")
    template.git("push", "-qf", "origin", "broken")
    template.checkout(runner.workspace, "broken")
    judged = runner.run("pull-request", "judge", model="demand")
    assert [one.line.split()[1] for one in judged.steps] == ["data", "train", "report"]
    assert [one.code for one in judged.steps] == [0, 3, 3]
    first, second, *_ = judged.summary.splitlines()
    assert first == "### demand: the data breaks its contract"
    assert "price" in second
    assert re.search(r"data\.csv: 2,000 to 2,038 rows", judged.summary), judged.summary
    template.git("checkout", "-qf", "main")


@pytest.mark.long
def test_a_release_of_what_is_served_already_does_nothing(runner: Runner, template: Repository) -> None:
    """What CI pushed is found again: nothing is trained, no job follows a rollout."""
    template.checkout(runner.workspace, "main")
    shipped = runner.run("release", "ship", model="demand")
    assert [one.code for one in shipped.steps] == [0, 0], shipped.steps[-1].stderr
    assert shipped.outputs == {"decision": "none"}
    assert runner.run("release", "watch", model="demand").steps == []


@pytest.mark.long
def test_a_release_without_users_says_that_nobody_can_judge_it(runner: Runner, template: Repository) -> None:
    """The stack is not on the runner: exit code 5, the version is the challenger, and no job follows a rollout."""
    template.propose("better", tidegate__yaml=(template.work / "tidegate.yaml").read_text().replace("C: 1.0", "C: 2.0"))
    template.checkout(runner.workspace, "better")
    shipped = runner.run("release", "ship", model="demand")
    assert [one.code for one in shipped.steps] == [0, 5], shipped.steps[-1].stderr
    assert shipped.outputs == {"decision": "inconclusive"}
    assert shipped.steps[-1].outputs["release"].startswith("r-")
    assert runner.run("release", "watch", model="demand").steps == []


@pytest.mark.long
def test_a_rollback_names_its_reason_whatever_is_in_it(runner: Runner, template: Repository) -> None:
    """What somebody typed into the form is one argument, never a command."""
    template.checkout(runner.workspace, "main")
    reason = 'it lies"; touch owned; echo "'
    done = runner.run("rollback", "rollback", model="demand", reason=reason)
    assert [one.code for one in done.steps] == [2]
    assert "There is no earlier champion to go back to." in done.steps[0].stderr
    named = runner.run("rollback", "rollback", model="demand", reason=reason, release="--help")
    assert [(one.line, one.code) for one in named.steps] == [('tidegate rollback --reason "$REASON" -- "$RELEASE"', 2)]
    assert not list(runner.workspace.glob("owned"))


def test_every_line_that_a_workflow_of_users_runs_is_one_command_of_ours() -> None:
    """So that each can be typed at home; and each job has an end, no more rights than it uses, and actions by hash."""
    for name in WORKFLOWS:
        text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
        document = yaml.safe_load(text)
        assert document["permissions"] == {}, name
        for job in document["jobs"].values():
            assert job["timeout-minutes"] <= 360, name
            lines = [step["run"] for step in job["steps"] if "run" in step]
            assert lines, name
            assert [line for line in lines if not re.fullmatch(r"tidegate [^\n;|&`]+", line)] == [], name
            for step in job["steps"]:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}|\$/[\w./-]+", step.get("uses", "a/b@" + "0" * 40)), (
                    name
                )
    assert (ROOT / ".github" / "actions" / "setup" / "action.yml").is_file()
