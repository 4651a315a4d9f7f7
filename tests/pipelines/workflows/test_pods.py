"""The containers of our Workflows, run in order as processes: from a commit to a release, and every other end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from argo import Argo, Ran

from tidegate.pipelines import dvc_repo
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def happened(ran: Ran) -> Any:
    """What a failing test shows."""
    return {name: (node.phase, node.exit_codes, node.printed[-1500:]) for name, node in ran.nodes.items()}


def test_a_commit_becomes_a_release_that_another_machine_can_serve(
    build_site: Any, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers in checkouts of their own know each other's work by references; one is tried again; a gate refuses."""
    site = build_site(s3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.secret["MLFLOW_TRACKING_URI"])
    dvc_repo.push(site.project.root)

    def once_away(task: str, attempt: int, environ: dict[str, str]) -> None:
        if (task, attempt) == ("contract", 0):
            environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
            environ["GIT_SSH_COMMAND"] = "false"
            environ["GIT_CONFIG_COUNT"] = "1"
            environ["GIT_CONFIG_KEY_0"] = f"url.{tmp_path}/nowhere.insteadOf"
            environ["GIT_CONFIG_VALUE_0"] = str(site.remote)

    argo = Argo(tmp_path / "pods", site.secret, once_away)
    ran = argo.run(site.documents()["release"], "release-1", revision=site.revision)
    assert ran.phase == "Succeeded", happened(ran)
    assert ran.nodes["contract"].exit_codes == [1, 0]
    environment = Environment(site.project)
    release, state = releases.load(environment.store, ran.outputs["release"]), environment.state()
    assert (release.git_commit, release.git_dirty, release.version) == (site.revision, False, 1)
    assert state.runs[release.id] == ran.outputs["run_id"] == release.run_id
    assert {one.actor.partition("@")[0] for one in environment.ledger.events()} == {"release-1"}
    assert bundle_of(site.project, release).is_dir()
    assert "flow_ended" not in {one.kind for one in environment.ledger.events()}, ran.closed.printed

    file = site.project.root / "tidegate.yaml"
    file.write_text(file.read_text().replace("metric: roc_auc", "metric: roc_auc, required: 0.999"))
    site.commit("Ask for more")
    ran = argo.run(site.documents()["release"], "release-2", revision=site.revision)
    assert ran.phase == "Succeeded", happened(ran)
    phases = {name: node.phase for name, node in ran.nodes.items()}
    assert (ran.outputs["gate"], phases["gate"], phases["register"], phases["package"]) == (
        "refused", "Succeeded", "Skipped", "Omitted",
    )  # fmt: skip
    assert ran.outputs["run_id"] == release.run_id, "only the gate changed, so nothing was trained again"
    assert environment.ledger.events()[-1].kind == "gate_refused"


def test_what_cannot_be_helped_is_not_tried_again_and_the_exit_hook_says_so(build_site: Any, tmp_path: Path) -> None:
    """Exit code 78 ends the Workflow at once; the ledger gets one event, with the reason that Argo had."""
    site = build_site(f"file://{tmp_path}/store")
    (site.project.root / "contract.yaml").write_text("expectations: []\n")
    site.commit("Promise nothing")
    dvc_repo.push(site.project.root)
    argo = Argo(tmp_path / "pods", site.secret)
    ran = argo.run(site.documents()["release"], "release-1", revision=site.revision)
    assert (ran.phase, ran.nodes["contract"].exit_codes) == ("Failed", [78]), happened(ran)
    assert {node.phase for name, node in ran.nodes.items() if name != "contract"} == {"Omitted"}
    ended = [one for one in Environment(site.project).ledger.events() if one.kind == "flow_ended"]
    assert [(one.data["workflow"], one.data["outcome"], one.data["reasons"]) for one in ended] == [
        ("release-1", "failed", ["contract: Error (exit code 78)"])
    ], ran.closed.printed
