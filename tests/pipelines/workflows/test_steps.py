"""Steps as pods run them, in this process and in order: each in a checkout of its own, nothing else shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import Permanent, Temporary, TidegateError, UsageError
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines import checkout, dvc_repo, pod
from tidegate.pipelines.dag import FLOWS, REFUSED, References, Work, walk
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft

EXTRACT = """
import os
from pathlib import Path

file = Path(os.environ["TIDEGATE_DATA"])
lines = file.read_text().splitlines()
file.write_text("\\n".join([*lines, *lines[1:200]]) + "\\n")
"""
Pods = Callable[..., dict[str, str]]


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    """`pods(site, flow, **given)` walks a flow, each step on a fresh checkout of the site's commit."""
    count = iter(range(1000))

    def run(site: Any, flow: str, **given: str) -> dict[str, str]:
        def work(step: str) -> Work:
            def done(taken: References) -> References:
                place = checkout.Place(str(site.remote), site.revision)
                root = checkout.check_out(place, tmp_path / f"pod-{next(count)}")
                return pod.run(Environment(open_project(root, "prod")), flow, step, taken, Silent())

            return done

        return walk(FLOWS[flow], {one.name: work(one.name) for one in FLOWS[flow].steps}, given)

    return run


@pytest.fixture
def site(build_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A site whose store is a folder."""
    made = build_site(f"file://{tmp_path}/store")
    for name, value in made.secret.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.slow
def test_a_commit_becomes_a_release_once(site: Any, pods: Pods) -> None:
    """Asked again, every step finds what was done, and gives the same."""
    dvc_repo.push(site.project.root)
    made = pods(site, "release")
    environment = Environment(site.project)
    release = releases.load(environment.store, made["release"])
    assert (release.run_id, release.version, release.git_commit) == (made["run_id"], 1, site.revision)
    before = environment.state().length
    assert pods(site, "release") == made
    assert environment.state().length == before
    work = {"run_id": "another", "version": "1"}
    with pytest.raises(Permanent, match="are those of run"):
        pod.run(Environment(site.project), "release", "register", work, Silent())


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_retrain_goes_from_new_data_to_a_version_that_waits(site: Any, pods: Pods) -> None:
    """Its data is named by its md5 from the second step on; without labels a person decides."""
    root = site.project.root
    (root / "extract.py").write_text(EXTRACT)
    file = root / "tidegate.yaml"
    text = file.read_text().replace("path: data/train.csv,", "path: data/train.csv, command: python extract.py,")
    file.write_text(text.replace("gate: {metric: roc_auc}", "gate: {metric: roc_auc}\nretrain: {git: branch}"))
    site.commit("Extract the data")
    dvc_repo.push(root)
    first = pods(site, "release")
    environment = Environment(site.project)
    environment.ledger.append(lambda _: Draft("deployed", {"release": first["release"]}))
    made = pods(site, "retrain", reason="asked for by hand", window="")
    assert (made["goes_on"], made["fresh"], made["outcome"]) == ("yes", "yes", "registered")
    retrain = environment.state().retrains[-1]
    assert (retrain.outcome, retrain.release, retrain.data) == ("registered", made["release"], made["data"])
    release = releases.load(environment.store, made["release"])
    assert [one.md5 for one in release.data] == [made["data"]]
    assert made["data"] != dvc_repo.recorded_md5(root, "data/train.csv")
    branch = f"tidegate/retrain-{retrain.id}"
    assert f"pushed the branch {branch}" in retrain.reasons
    assert made["data"] in _git(site.remote, "show", f"{branch}:data/train.csv.dvc")
    assert site.revision == _git(site.remote, "rev-parse", "main").strip(), "nothing was pushed to main"
    again = pods(site, "retrain", reason="asked for by hand", window="")
    assert (again["fresh"], environment.state().retrains[-1].outcome) == ("no", "nothing_new")


def _git(remote: Path, *arguments: str) -> str:
    from tidegate.core.git import git

    return git(remote, *arguments).decode()


@pytest.mark.slow
def test_data_that_breaks_its_contract_is_an_answer(site: Any, pods: Pods) -> None:
    """The step did its work: nothing after it runs, and nothing is tried again."""
    (site.project.root / "contract.yaml").write_text(
        "expectations:\n- {type: expect_column_values_to_be_between, column: volume, max_value: 3}\n"
    )
    site.commit("Promise too much")
    dvc_repo.push(site.project.root)
    assert pods(site, "release") == {"contract": REFUSED}


def test_a_step_without_its_reference_does_not_begin(site: Any) -> None:
    """The name of what is missing is said; so is a step or flow that there is none of."""
    environment = Environment(site.project)
    with pytest.raises(UsageError, match="needs the reference run_id"):
        pod.run(environment, "release", "gate", {}, Silent())
    with pytest.raises(UsageError, match="has no step trian"):
        pod.run(environment, "release", "trian", {}, Silent())
    with pytest.raises(UsageError, match="no flow ship"):
        pod.run(environment, "ship", "train", {}, Silent())


def test_a_commit_that_is_not_there_yet_may_come(site: Any, tmp_path: Path) -> None:
    """So the pod is tried again; a folder that the commit lacks will never come."""
    with pytest.raises(Temporary, match="Was it pushed"):
        checkout.check_out(checkout.Place(str(site.remote), "0" * 40), tmp_path / "a")
    with pytest.raises(Permanent, match=r"no tidegate.yaml in the folder models/none"):
        checkout.check_out(checkout.Place(str(site.remote), "HEAD", "models/none"), tmp_path / "b")


@pytest.mark.parametrize(
    "place", [("--upload-pack=x", "HEAD", "."), ("r", "--detach", "."), ("r", "HEAD", "../x"), ("r", "HEAD", "/x")]
)
def test_what_git_would_take_for_an_option_is_refused(place: tuple[str, str, str]) -> None:
    """Parameters of a Workflow come from whoever may submit one."""
    with pytest.raises(UsageError):
        checkout.Place(*place)


def test_git_logs_in_with_a_token_that_is_in_no_file(tmp_path: Path) -> None:
    """It is read from the environment each time; a user of the token may be named."""
    import os
    import subprocess

    environ = {**os.environ, checkout.TOKEN: "s3cret"}
    checkout.use_token(environ)
    asked = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=github.com\n\n",
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.splitlines()[-2:] == ["username=x-access-token", "password=s3cret"]
    assert "s3cret" not in environ["GIT_CONFIG_VALUE_0"]


def test_a_pinned_pointer_names_other_data(site: Any) -> None:
    """As the retrain that made it left it; data without a pointer cannot be named."""
    root = site.project.root
    checkout.pin_data(root, "data/train.csv", "0" * 32)
    assert dvc_repo.recorded_md5(root, "data/train.csv") == "0" * 32
    with pytest.raises(TidegateError, match="has no pointer"):
        checkout.pin_data(root, "data/other.csv", "0" * 32)
