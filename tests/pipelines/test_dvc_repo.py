"""DVC in-process: the same result as `dvc repro`, after failures and kills too. Real git, real DVC, a real remote."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.core.errors import ConfigError, Conflict, ContractFailed, Permanent, TidegateError, UsageError
from tidegate.core.progress import Silent
from tidegate.pipelines import dvc_repo
from tidegate.pipelines.dvc_repo import Own, StageOutcome

STAGES = """
stages:
  contract:
    cmd: tidegate step contract
    deps: [data/x.csv]
    outs: [out/contract.txt]
  train:
    cmd: tidegate step train
    deps: [data/x.csv, out/contract.txt]
    params: [{tidegate.yaml: [train]}]
    outs: [out/model, out/run.txt]
"""


class Notes(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Keep the line."""
        self.said.append(text)


@pytest.fixture
def root(git_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository with one data file and two stages."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    dvc_repo.init(git_repo)
    (git_repo / "data").mkdir()
    (git_repo / "data" / "x.csv").write_text("a,b\n1,2\n")
    dvc_repo.add(git_repo, Path("data/x.csv"))
    (git_repo / "tidegate.yaml").write_text("train: {depth: 1}\nrollout: {mode: test}\n")
    (git_repo / "dvc.yaml").write_text(STAGES)
    return git_repo


def work(root: Path, log: list[str] | None = None) -> dict[str, Callable[[], None]]:
    """Functions whose outputs depend on their inputs only."""
    said = [] if log is None else log

    def contract() -> None:
        said.append("contract")
        (root / "out").mkdir(exist_ok=True)
        (root / "out" / "contract.txt").write_text((root / "data" / "x.csv").read_text().upper())

    def train() -> None:
        said.append("train")
        (root / "out" / "model").mkdir(parents=True)
        (root / "out" / "model" / "m.txt").write_text((root / "tidegate.yaml").read_text().splitlines()[0])
        (root / "out" / "run.txt").write_text("run")

    return {"train": train, "contract": contract}


def how(outcomes: list[StageOutcome]) -> dict[str, str]:
    """Stage name -> unchanged, restored or ran."""
    return {one.name: one.how for one in outcomes}


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command line of DVC."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def commit(root: Path) -> None:
    """Commit everything."""
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), "commit", "-qm", "x"], check=True)


def corrupt_object(root: Path, path: str, content: str) -> None:
    """Overwrite the cached object of `path` and make it look protected, as a broken disk or a bad sync would."""
    md5 = dvc_repo.recorded_md5(root, path) or ""
    stored = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    stored.chmod(0o644)
    stored.write_text(content)
    stored.chmod(0o444)


def test_stages_run_in_graph_order_and_then_not_again(root: Path) -> None:
    """A stage runs after what it depends on; a second run finds nothing to do."""
    log: list[str] = []
    assert how(dvc_repo.run_stages(root, work(root, log), Silent())) == {"contract": "ran", "train": "ran"}
    assert log == ["contract", "train"]
    again = dvc_repo.run_stages(root, work(root, log), Silent())
    assert how(again) == {"contract": "unchanged", "train": "unchanged"}
    assert not any(one.changed for one in again)
    assert log == ["contract", "train"]


def test_dvc_repro_afterwards_is_a_no_op_with_the_same_lock(root: Path) -> None:
    """The real `dvc repro` agrees that everything is up to date and leaves dvc.lock as it is."""
    dvc_repo.run_stages(root, work(root), Silent())
    lock = (root / "dvc.lock").read_bytes()
    done = dvc(root, "repro")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout
    assert (root / "dvc.lock").read_bytes() == lock


def test_a_users_own_stage_gets_the_lock_that_dvc_repro_writes(root: Path) -> None:
    """A stage with a command of its own ends in the same dvc.lock as under `dvc repro`."""
    stage = "stages:\n  make:\n    cmd: sort data/x.csv > made.txt\n    deps: [data/x.csv]\n    outs: [made.txt]\n"
    (root / "dvc.yaml").write_text(stage)
    assert dvc(root, "repro").returncode == 0
    theirs = (root / "dvc.lock").read_bytes()
    (root / "dvc.lock").unlink()
    (root / "made.txt").unlink()
    (root / "dvc.yaml").write_text(stage + "  contract:\n    cmd: tidegate step contract\n    deps: [made.txt]\n")
    dvc_repo.run_stages(root, {"contract": lambda: None}, Silent())
    assert theirs.decode().partition("stages:")[2] in (root / "dvc.lock").read_text()


def test_a_stages_own_output_goes_to_stderr(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing but the result is on stdout, for `--json`."""
    own = Own("make", environ=lambda _: {"COLOUR": "green"}, known=lambda _: False)
    stages = "stages:\n  make:\n    cmd: [echo $COLOUR, touch made.txt]\n    deps: [data/x.csv]\n    outs: [made.txt]\n"
    last = "  contract:\n    cmd: tidegate step contract\n    deps: [made.txt]\n    outs: [c.txt]\n"
    (root / "dvc.yaml").write_text(stages + last)
    dvc_repo.run_stages(root, {"contract": (root / "c.txt").touch}, Silent(), own)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == "green"


FIT = """
stages:
  fit:
    cmd: echo $RUN >> runs.txt
    deps: [data/x.csv]
  train:
    cmd: tidegate step train
    deps: [data/x.csv]
    outs: [out/run.txt]
"""


def test_a_users_own_training_runs_until_its_execution_is_known(root: Path) -> None:
    """What `dvc repro` ran left no run that can be told apart; what a later look finds is not run again."""
    (root / "dvc.yaml").write_text(FIT)
    (root / "out").mkdir()
    found: set[str] = set()

    def environ(execution: str) -> dict[str, str]:
        found.add(execution)
        return {"RUN": execution}

    def train() -> None:
        assert dvc_repo.execution(root, "fit") in found
        (root / "out" / "run.txt").write_text("run")

    def go(notes: Notes) -> list[str]:
        return [
            one.how
            for one in dvc_repo.run_stages(root, {"train": train}, notes, Own("fit", environ, found.__contains__))
        ]

    assert dvc(root, "repro", "fit").returncode == 0
    notes = Notes()
    assert go(notes) == ["ran", "ran"]
    assert notes.said == ["The MLflow run of the stage fit is not known, so the stage runs again."]
    assert go(Notes()) == ["unchanged", "unchanged"]
    first = set(found)
    (root / "data" / "x.csv").write_text("a,b\n5,6\n")
    assert go(Notes()) == ["ran", "ran", "ran"]  # the data is recorded first
    assert len(found - first) == 1
    assert set((root / "runs.txt").read_text().split()) == found
    with pytest.raises(ConfigError, match=r"no stage fitt"):
        dvc_repo.run_stages(root, {"train": train}, Silent(), Own("fitt", environ, found.__contains__))


def test_a_failing_command_is_named_with_its_exit_code(root: Path) -> None:
    """A user's stage that fails stops the road."""
    first = "stages:\n  contract:\n    cmd: exit 7\n    deps: [data/x.csv]\n    outs: [c.txt]\n"
    (root / "dvc.yaml").write_text(first + "  t:\n    cmd: tidegate step t\n    deps: [c.txt]\n    outs: [t.txt]\n")
    with pytest.raises(TidegateError, match="Stage contract: `exit 7` ended with exit code 7"):
        dvc_repo.run_stages(root, {"t": lambda: None}, Silent())


def test_only_what_depends_on_a_change_runs(root: Path) -> None:
    """A change of the rollout section retrains nothing; a change of params trains but does not check again."""
    dvc_repo.run_stages(root, work(root), Silent())
    (root / "tidegate.yaml").write_text("train: {depth: 1}\nrollout: {mode: guard}\n")
    assert set(how(dvc_repo.run_stages(root, work(root), Silent())).values()) == {"unchanged"}
    (root / "tidegate.yaml").write_text("train: {depth: 2}\nrollout: {mode: guard}\n")
    assert how(dvc_repo.run_stages(root, work(root), Silent())) == {"contract": "unchanged", "train": "ran"}


def test_going_back_is_restored_from_the_run_cache(root: Path) -> None:
    """Params that were trained before give back the outputs of then."""
    dvc_repo.run_stages(root, work(root), Silent())
    first = (root / "out" / "model" / "m.txt").read_text()
    (root / "tidegate.yaml").write_text("train: {depth: 2}\n")
    dvc_repo.run_stages(root, work(root), Silent())
    assert (root / "out" / "model" / "m.txt").read_text() != first
    (root / "tidegate.yaml").write_text("train: {depth: 1}\n")
    assert how(dvc_repo.run_stages(root, work(root), Silent()))["train"] == "restored"
    assert (root / "out" / "model" / "m.txt").read_text() == first


def test_a_functions_own_error_leaves_as_it_is_and_the_next_run_completes(root: Path) -> None:
    """What the step raised is what the caller sees; no stage after it ran."""

    def broken() -> None:
        (root / "out" / "model").mkdir(parents=True)
        (root / "out" / "model" / "half.txt").write_text("half")
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        dvc_repo.run_stages(root, work(root) | {"train": broken}, Silent())
    assert how(dvc_repo.run_stages(root, work(root), Silent())) == {"contract": "unchanged", "train": "ran"}
    assert not (root / "out" / "model" / "half.txt").exists()


@pytest.mark.parametrize("what", ["params", "code", "both"])
def test_an_edit_while_a_stage_runs_never_passes_for_what_was_run(root: Path, what: str) -> None:
    """Neither the lock nor the run-cache says that the new text made the old result; the next run works anew."""
    (root / "fit.py").write_text("old")
    (root / "dvc.yaml").write_text(
        STAGES.replace("out/contract.txt]\n    params", "out/contract.txt, fit.py]\n    params")
    )
    edited = {"params": ["tidegate.yaml"], "code": ["fit.py"], "both": ["fit.py", "tidegate.yaml"]}[what]
    steps = work(root)

    def train() -> None:
        steps["train"]()
        for name in edited:
            (root / name).write_text({"fit.py": "new"}.get(name, "train: {depth: 2}\n"))

    with pytest.raises(Conflict, match=rf"{' and '.join(edited)} changed while the stage train ran") as caught:
        dvc_repo.run_stages(root, steps | {"train": train}, Silent())
    assert "Run it again" in caught.value.hint
    assert "train:" not in (root / "dvc.lock").read_text()
    assert how(dvc_repo.run_stages(root, steps, Silent())) == {"contract": "unchanged", "train": "ran"}
    depth = 1 if what == "code" else 2
    assert (root / "out" / "model" / "m.txt").read_text() == f"train: {{depth: {depth}}}"
    assert "up to date" in dvc(root, "repro").stdout


def test_bytecode_beside_imported_code_is_no_edit(root: Path) -> None:
    """A folder of code stays the same dependency when Python writes its cache into it."""
    (root / "features").mkdir()
    (root / "features" / "a.py").write_text("x = 1\n")
    (root / "dvc.yaml").write_text(
        STAGES.replace("out/contract.txt]\n    params", "out/contract.txt, features]\n    params")
    )
    steps = work(root)

    def train() -> None:
        steps["train"]()
        (root / "features" / "__pycache__").mkdir(exist_ok=True)
        (root / "features" / "__pycache__" / "a.cpython-311.pyc").write_bytes(os.urandom(8))

    notes = Notes()
    assert how(dvc_repo.run_stages(root, steps | {"train": train}, notes))["train"] == "ran"
    assert notes.said == [".dvcignore: __pycache__ is no input of a stage from now on."]
    assert set(how(dvc_repo.run_stages(root, steps, Notes())).values()) == {"unchanged"}


def test_after_a_kill_in_the_middle_the_next_run_completes_from_clean_outputs(root: Path) -> None:
    """SIGKILL leaves half an output; it is removed before the stage runs again."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from tidegate.core.progress import Silent
        from tidegate.pipelines import dvc_repo
        root = Path(sys.argv[1])
        def contract():
            (root / "out").mkdir(exist_ok=True)
            (root / "out/contract.txt").write_text("c")
        def train():
            (root / "out/model").mkdir(parents=True)
            (root / "out/model/half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        dvc_repo.run_stages(root, {"contract": contract, "train": train}, Silent())
    """)
    killed = subprocess.run([sys.executable, "-c", script, str(root)], check=False)
    assert killed.returncode == -9
    assert (root / "out" / "model" / "half.txt").exists()
    assert how(dvc_repo.run_stages(root, work(root), Silent())) == {"contract": "unchanged", "train": "ran"}
    assert sorted(one.name for one in (root / "out" / "model").iterdir()) == ["m.txt"]
    assert "up to date" in dvc(root, "repro").stdout


def test_a_torn_lock_file_is_made_again_without_running_anything(root: Path) -> None:
    """A dvc.lock cut off by a kill costs no training."""
    dvc_repo.run_stages(root, work(root), Silent())
    whole = (root / "dvc.lock").read_bytes()
    (root / "dvc.lock").write_bytes(b"schema: '2.0'\nstages:\n  train: {cmd: [")
    notes = Notes()
    assert set(how(dvc_repo.run_stages(root, work(root), notes)).values()) == {"restored"}
    assert notes.said == ["dvc.lock was half-written and is made again"]
    assert (root / "dvc.lock").read_bytes() == whole


def test_another_process_at_work_is_a_conflict_that_says_so(root: Path) -> None:
    """A lock that is held for longer than DVC waits becomes one clear error."""
    script = (
        "import sys, zc.lockfile; l = zc.lockfile.LockFile(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    lock = root / ".dvc" / "tmp" / "lock"
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Conflict, match="Another process"):
            dvc_repo.run_stages(root, work(root), Silent())
        holder.communicate("")
    assert how(dvc_repo.run_stages(root, work(root), Silent()))["train"] == "ran"


def test_a_name_without_a_stage_is_an_error(root: Path) -> None:
    """Nothing is skipped in silence."""
    with pytest.raises(ConfigError, match="`tidegate step evaluate`"):
        dvc_repo.run_stages(root, work(root) | {"evaluate": lambda: None}, Silent())


def test_data_changed_in_place_becomes_a_new_version_aloud(root: Path) -> None:
    """As under `dvc repro`, but the user is told."""
    dvc_repo.run_stages(root, work(root), Silent())
    (root / "data" / "x.csv").write_text("a,b\n3,4\n")
    notes = Notes()
    assert how(dvc_repo.run_stages(root, work(root), notes))["train"] == "ran"
    assert "data/x.csv changed since it was recorded" in notes.said[0]
    assert dvc_repo.verify(root, "data/x.csv").md5 == dvc_repo.file_md5(root / "data" / "x.csv")


def test_data_changed_in_place_is_recorded_only_if_it_is_accepted(root: Path) -> None:
    """Who refuses it finds the old version recorded, and can have it back."""
    dvc_repo.run_stages(root, work(root), Silent())
    before, old = dvc_repo.recorded_md5(root, "data/x.csv"), (root / "data" / "x.csv").read_bytes()
    (root / "data" / "x.csv").write_text("a,b\n3,4\n")

    def refuse(path: str) -> None:
        raise ContractFailed(f"{path} is bad", "Repair it.")

    for _ in range(2):
        with pytest.raises(ContractFailed, match=r"data/x\.csv is bad"):
            dvc_repo.run_stages(root, work(root), Silent(), accept=refuse)
    assert dvc_repo.recorded_md5(root, "data/x.csv") == before
    dvc_repo.pull(root, force=True)
    assert (root / "data" / "x.csv").read_bytes() == old
    assert set(how(dvc_repo.run_stages(root, work(root), Silent(), accept=refuse)).values()) == {"unchanged"}


def test_pull_replaces_what_our_steps_made_and_nothing_else(root: Path) -> None:
    """A result can be made again; a file of the user's that is kept nowhere cannot."""
    dvc_repo.run_stages(root, work(root), Silent())
    made = root / "out" / "model" / "m.txt"
    before = made.read_bytes()
    made.unlink()
    made.write_text("half")
    dvc_repo.pull(root)
    assert made.read_bytes() == before
    made.unlink()
    made.write_text("half")
    (root / "data" / "x.csv").write_text("a,b\n3,4\n")
    with pytest.raises(TidegateError, match=r"kept nowhere else: data/x\.csv\. Nothing") as caught:
        dvc_repo.pull(root)
    assert "--force" in caught.value.hint


def test_a_second_push_finds_nothing_new(root: Path) -> None:
    """The records of the run-cache are no objects."""
    dvc_repo.run_stages(root, work(root), Silent())
    assert dvc_repo.push(root) >= 3
    assert dvc_repo.push(root) == 0
    assert list((root / ".tidegate" / "dvc-remote" / "runs").rglob("*"))


def test_a_missing_data_file_is_named_with_the_command_that_fetches_it(root: Path) -> None:
    """Neither a stack trace nor an empty training."""
    (root / "data" / "x.csv").unlink()
    with pytest.raises(UsageError, match=r"data/x\.csv is missing") as caught:
        dvc_repo.run_stages(root, work(root), Silent())
    assert "tidegate data pull" in caught.value.hint


def test_a_missing_dependency_is_named_and_the_old_outputs_stay(root: Path) -> None:
    """Code that was deleted stops the stage before anything is removed."""
    dvc_repo.run_stages(root, work(root), Silent())
    (root / "dvc.yaml").write_text(
        STAGES.replace("out/contract.txt]\n    params", "out/contract.txt, gone.py]\n    params")
    )
    with pytest.raises(UsageError, match=r"train of dvc\.yaml depends on gone\.py"):
        dvc_repo.run_stages(root, work(root), Silent())
    assert (root / "out" / "model").exists()


def test_a_corrupted_object_is_found_although_dvc_believes_it(root: Path) -> None:
    """`dvc status` stays clean; our own hash does not."""
    corrupt_object(root, "data/x.csv", "a,b\n9,9\n")
    (root / "data" / "x.csv").unlink()
    dvc_repo.pull(root)
    assert dvc(root, "status", "data/x.csv.dvc").stdout.strip() == "Data and pipelines are up to date."
    with pytest.raises(Permanent, match=r"data/x\.csv does not have the content that DVC recorded") as caught:
        dvc_repo.verify(root, "data/x.csv")
    assert ".dvc/cache/files/md5/" in caught.value.hint


def test_following_the_advice_after_a_corruption_repairs_it(root: Path) -> None:
    """Deleting object and file, then pull, gives back the true content from the remote."""
    dvc_repo.push(root)
    good = (root / "data" / "x.csv").read_text()
    corrupt_object(root, "data/x.csv", "a,b\n9,9\n")
    md5 = dvc_repo.recorded_md5(root, "data/x.csv") or ""
    (root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    (root / "data" / "x.csv").unlink()
    assert dvc_repo.pull(root) == 1
    assert (root / "data" / "x.csv").read_text() == good
    assert dvc_repo.verify(root, "data/x.csv").md5 == md5


def test_content_at_a_revision_needs_no_checkout(root: Path) -> None:
    """Old bytes, their md5, and the difference to now."""
    commit(root)
    old = dvc_repo.recorded_md5(root, "data/x.csv")
    (root / "data" / "x.csv").write_text("a,b\n5,6\n")
    new = dvc_repo.add(root, Path("data/x.csv")).md5
    assert dvc_repo.md5_at(root, "data/x.csv", "HEAD") == old
    assert dvc_repo.read_at(root, "data/x.csv", "HEAD") == b"a,b\n1,2\n"
    change = dvc_repo.diff(root, "data/x.csv", "HEAD")
    assert (change.before, change.after, change.changed) == (old, new, True)
    with pytest.raises(UsageError, match="git knows no revision nowhere"):
        dvc_repo.md5_at(root, "data/x.csv", "nowhere")


def test_an_old_version_that_is_corrupted_is_refused(root: Path) -> None:
    """read_at hashes too."""
    commit(root)
    corrupt_object(root, "data/x.csv", "a,b\n9,9\n")
    with pytest.raises(Permanent):
        dvc_repo.read_at(root, "data/x.csv", "HEAD")


def test_the_md5_of_a_file_in_a_tracked_folder_and_of_an_output_is_known(root: Path) -> None:
    """Data need not have a .dvc file of its own."""
    folder = root / "more"
    folder.mkdir()
    (folder / "y.csv").write_text("a\n1\n")
    assert dvc(root, "add", "more").returncode == 0
    assert dvc_repo.verify(root, "more/y.csv").md5 == dvc_repo.file_md5(folder / "y.csv")
    dvc_repo.run_stages(root, work(root), Silent())
    assert dvc_repo.verify(root, "out/run.txt").md5 == dvc_repo.file_md5(root / "out" / "run.txt")


def test_init_keeps_a_remote_that_is_there(git_repo: Path) -> None:
    """A repository with its own storage stays as it is."""
    assert dvc(git_repo, "init").returncode == 0
    assert dvc(git_repo, "remote", "add", "-d", "mine", "s3://bucket/x").returncode == 0
    before = (git_repo / ".dvc" / "config").read_bytes()
    assert dvc_repo.init(git_repo) == []
    assert (git_repo / ".dvc" / "config").read_bytes() == before


def test_a_project_in_a_subfolder_of_a_git_repository_gets_its_own_dvc(git_repo: Path) -> None:
    """Several models in one repository: a folder each."""
    sub = git_repo / "models" / "a"
    sub.mkdir(parents=True)
    dvc_repo.init(sub)
    (sub / "x.csv").write_text("a\n1\n")
    assert dvc_repo.add(sub, Path("x.csv")).path == "x.csv"
    (sub / "dvc.yaml").write_text("stages:\n  t:\n    cmd: tidegate step t\n    deps: [x.csv]\n    outs: [t.txt]\n")
    assert how(dvc_repo.run_stages(sub, {"t": (sub / "t.txt").touch}, Silent())) == {"t": "ran"}
    assert dvc_repo.push(sub) > 0
    assert (sub / ".tidegate" / "dvc-remote").is_dir()


def test_outside_git_and_dvc_errors_say_what_to_type(tmp_path: Path) -> None:
    """No repository is a usage error."""
    with pytest.raises(UsageError) as caught:
        dvc_repo.run_stages(tmp_path, {}, Silent())
    assert "tidegate init" in caught.value.hint


def test_data_that_git_tracks_is_refused_with_the_way_out(root: Path) -> None:
    """DVC and git must not both own a file."""
    (root / "big.csv").write_text("a\n1\n")
    subprocess.run(["git", "-C", str(root), "add", "-f", "big.csv"], check=True)
    commit(root)
    with pytest.raises(UsageError) as caught:
        dvc_repo.add(root, Path("big.csv"))
    assert "git rm --cached" in caught.value.hint


def test_the_working_folder_is_as_before(root: Path) -> None:
    """DVC needs its own working folder for a while; the caller's comes back, after errors too."""
    here = Path.cwd()
    dvc_repo.run_stages(root, work(root), Silent())
    with pytest.raises(ConfigError):
        dvc_repo.run_stages(root, {"nothing": lambda: None}, Silent())
    assert Path.cwd() == here
    assert os.environ["DVC_NO_ANALYTICS"] == "1"


def test_a_second_working_copy_gets_the_data_from_the_first_ones_cache(root: Path, tmp_path: Path) -> None:
    """Data and outputs come in without a remote and without a second download."""
    dvc_repo.run_stages(root, work(root), Silent())
    commit(root)
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "--quiet", str(root), str(copy)], check=True)
    dvc_repo.bring_in(copy, root)
    assert (copy / "data" / "x.csv").read_text() == (root / "data" / "x.csv").read_text()
    assert (copy / "out" / "run.txt").exists()


def test_dvc_draws_nothing_on_a_terminal() -> None:
    """It has a bar for every look at its lock, which is a stray line in what somebody reads."""
    from dvc.progress import Tqdm

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    dvc_repo._quiet()
    with Tqdm(bar_format="{desc}", desc="Waiting to acquire lock.", file=screen) as bar:
        bar.update()
    assert (bar.disable, screen.getvalue()) == (True, "")
