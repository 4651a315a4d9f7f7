"""A retrain on a small real project: recorded rows with labels, DVC, MLflow, gate, contest and ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.errors import ConfigError, Conflict
from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.pipelines import captured, contest, retrain
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.registry.ledger import Draft
from tidegate.serving.labels import ingest_labels
from tidegate.serving.telemetry import Hidden, write_records

pytestmark = pytest.mark.slow

TELEMETRY = """\
monitor: {labels: {maturity: 1m}}
retrain: {data: telemetry}
"""


@pytest.fixture(scope="module")
def shipped(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained project with a deployed first version, which learns from telemetry."""
    import shutil

    root = tmp_path_factory.mktemp("shipped") / "project"
    shutil.copytree(trained, root, symlinks=True)
    config = (root / "tidegate.yaml").read_text().replace("{metric: roc_auc}", "{metric: roc_auc, tolerance: 0.1}")
    (root / "tidegate.yaml").write_text(config + TELEMETRY)
    done = subprocess.run(tidegate(root, "ship", "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def root(shipped: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(shipped, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def tidegate(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate.cli", "-C", str(root), *arguments]


def environment(root: Path) -> Environment:
    return environment_for(open_project(root))


def record(
    root: Path,
    rows: int,
    *,
    flipped: bool,
    seed: int = 1,
    minutes_ago: float = 120.0,
    hidden: Hidden | None = None,
) -> None:
    """Requests of the last hours with labels; in a flipped world a high price means class 0."""
    random = np.random.default_rng(seed)
    begin = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=minutes_ago)
    price, volume = random.normal(size=rows), random.integers(0, 50, rows)
    city = random.choice(["oslo", "rome", "lima"], rows)
    chance = 1 / (1 + np.exp(-(1.5 * price + 0.6 * (city == "rome")) * (-1 if flipped else 1)))
    truth = (random.random(rows) < chance) * 1
    where = environment(root)
    served = str(where.state().champion)
    records, labels = [], []
    for k in range(rows):
        name = f"p{seed}-{k}"
        at = begin + timedelta(minutes=0.9 * minutes_ago * k / rows)
        town = f"{k % 3}{'0' * 31}" if hidden is not None and hidden.hash else str(city[k])
        inputs = {"input.price": float(price[k]), "input.volume": int(volume[k]), "input.city": town}
        fixed = {"arm": "stable", "release": served, "version": 1, "status": 200, "seconds": 0.01, "label": "1"}
        records.append({"id": name, "at": at, **fixed, **inputs})
        labels.append({"prediction_id": name, "label": str(truth[k])})
    said: dict[str, Any] = {"classes": [0, 1], "task": "classification", "writer": f"w{seed}", "hidden": hidden}
    write_records(where.store, where.stream, records, **said)
    ingested = ingest_labels(where.store, where.stream, labels, datetime.now(UTC))
    assert ingested.accepted == rows


def data(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "data" / "train.csv", float_precision="round_trip")


def outcomes(root: Path) -> list[str | None]:
    return [one.outcome for one in environment(root).state().retrains]


def change(root: Path, old: str, new: str) -> Project:
    file = root / "tidegate.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return open_project(root)


def test_recorded_rows_with_labels_become_a_version_that_wins_and_waits_for_a_person(root: Path, cli: Any) -> None:
    """The world flipped: the new version is better beyond doubt, and `ask` leaves its rollout to somebody."""
    before = data(root)
    record(root, 2_000, flipped=True)
    done = cli("retrain", "--reason", "prices flipped", "--json", cwd=root)
    assert done.exit_code == 0, done
    assert (done.json["outcome"], done.json["version"], done.json["reason"]) == ("registered", 2, "prices flipped")
    assert "better by at least" in done.json["reasons"][0]
    assert f"tidegate rollout start {done.json['release']}" in done.json["hint"]
    after = data(root)
    assert (len(after), list(after.columns)) == (len(before), list(before.columns))
    assert not after["price"].isin(before["price"]).any()
    (told,) = environment(root).state().retrains
    assert (told.outcome, told.release, told.data) == ("registered", done.json["release"], done.json["data"])
    again = cli("retrain", "--json", cwd=root)
    assert (again.json["outcome"], data(root).equals(after)) == ("nothing_new", True)


def test_a_world_that_did_not_change_keeps_its_champion(root: Path, cli: Any) -> None:
    """The new version is no better on matured labels: it is registered, and nobody is offered it."""
    record(root, 2_000, flipped=False)
    done = cli("retrain", cwd=root)
    assert done.exit_code == 0, done
    assert "the champion stays" in done.stdout
    assert "not better beyond doubt" in done.stdout
    assert outcomes(root) == ["kept"]


def test_without_labels_nobody_knows_and_a_person_is_asked(root: Path, cli: Any) -> None:
    """New data from a command, and no label to compare by."""
    change(root, "retrain: {data: telemetry}", "retrain: {data: refresh}")
    change(root, "data: {path", f"data: {{command: {sys.executable} more.py, path")
    (root / "more.py").write_text(
        "import os, pandas as pd\np = os.environ['TIDEGATE_DATA']\nf = pd.read_csv(p)\n"
        "f.iloc[100:].to_csv(p, index=False)\n"
    )
    done = cli("retrain", "--json", cwd=root)
    assert (done.json["outcome"], len(data(root))) == ("registered", 800), done
    assert done.json["reasons"] == ["no matured label to compare by", "so nobody knows whether it is better"]


def test_a_command_that_gives_the_same_data_trains_nothing(root: Path, cli: Any) -> None:
    """Dedupe by the hash of the data."""
    change(root, "retrain: {data: telemetry}", "retrain: {data: refresh}")
    change(root, "data: {path", f"data: {{command: {sys.executable} -V, path")
    done = cli("retrain", "--json", cwd=root)
    assert (done.exit_code, done.json["outcome"], done.json["version"]) == (0, "nothing_new", None), done
    assert list(environment(root).state().versions.values()) == [1]


def test_a_former_champion_that_is_better_is_offered_without_a_training(root: Path, cli: Any) -> None:
    """The flipped world came, its version was promoted, and the old world is back."""
    record(root, 2_000, flipped=True, minutes_ago=600)
    second = cli("retrain", "--json", cwd=root).json
    assert second["outcome"] == "registered", second
    first = environment(root).state().champion
    environment(root).ledger.append(lambda _: Draft("deployed", {"release": second["release"]}))
    record(root, 1_000, flipped=False, seed=2, minutes_ago=50)
    csv = data(root)
    back = cli("retrain", "--json", cwd=root).json
    assert (back["outcome"], back["release"], back["version"]) == ("former", first, 1), back
    assert "version 1 has accuracy" in back["reasons"][0]
    assert csv.equals(data(root))


def test_auto_starts_the_rollout_and_a_freeze_stops_it(root: Path, cli: Any) -> None:
    """Whoever asked for the retrain, its rollout is nobody's own: frozen means that it waits."""
    change(root, "retrain: {data: telemetry}", "retrain: {data: telemetry, release: auto}")
    assert cli("freeze", "--reason", "launch day", cwd=root).exit_code == 0
    record(root, 2_000, flipped=True)
    done = cli("retrain", "--json", cwd=root)
    assert done.json["outcome"] == "registered", done
    assert "Rollouts are frozen: launch day" in done.json["reasons"]
    assert environment(root).state().rollouts == ()


def test_data_that_was_changed_and_not_recorded_is_left_alone(root: Path, cli: Any) -> None:
    """A retrain would overwrite somebody's work."""
    record(root, 500, flipped=True)
    file = root / "data" / "train.csv"
    file.unlink()  # a link to the cache, perhaps
    file.write_text("price,volume,city,class\n1,2,oslo,1\n")
    done = cli("retrain", cwd=root)
    assert done.exit_code == 1
    assert "data/train.csv was changed and is not recorded" in done.stderr
    assert "tidegate data add data/train.csv" in done.stderr
    assert file.read_text().startswith("price,volume")
    assert outcomes(root) == ["failed"]


def test_conflicts_of_git_are_solved_first(root: Path) -> None:
    """Half-merged code is nobody's intention."""
    project = open_project(root)
    git(root, "checkout", "-q", "-b", "other")
    for branch, text in (("other", "C = 1\n"), ("main", "C = 2\n")):
        git(root, "checkout", "-q", branch)
        (root / "note.py").write_text(text)
        git(root, "add", "note.py")
        git(root, "commit", "-q", "-m", text)
    subprocess.run(["git", "-C", str(root), "merge", "-q", "other"], check=False, capture_output=True)
    with pytest.raises(Conflict, match=r"conflicts to be solved in note.py"):
        retrain.require_safe(project)


@pytest.mark.parametrize("key", ["exclude", "hash"])
def test_columns_that_are_kept_out_of_the_records_cannot_be_learnt_from(root: Path, key: str) -> None:
    """The refusal names the column and the key."""
    change(root, "retrain:", f"serve: {{capture: {{{key}: [city]}}}}\nretrain:")
    with pytest.raises(ConfigError, match=rf"serve.capture.{key} keeps 'city' out of the records"):
        captured.extend(environment(root), None, datetime.now(UTC), Silent())


def test_only_rows_from_since_the_world_changed_are_kept_where_that_is_known(root: Path) -> None:
    """Older rows of the data and of the records are left out, and the next call takes only what is newer."""
    record(root, 400, flipped=False, seed=1, minutes_ago=600)
    record(root, 1_200, flipped=True, seed=2, minutes_ago=120)
    now = datetime.now(UTC)
    where = environment(root)
    since = (now - timedelta(minutes=121)).isoformat()
    taken = captured.extend(where, since, now, Silent())
    assert taken.rows == 900  # never more than there were
    assert captured.extend(where, since, now, Silent()).md5 == taken.md5
    record(root, 50, flipped=True, seed=3, minutes_ago=0.5)
    later = captured.extend(where, None, now + timedelta(minutes=5), Silent())
    assert (later.rows, later.md5 != taken.md5) == (900, True)
    assert len(pd.concat([data(root)]).drop_duplicates()) == 900


def test_rows_are_taken_once_whoever_edits_the_file_in_between(root: Path) -> None:
    """Neither those that are still in it nor those that a person deleted come again; whoever goes back gets all."""
    where, now = environment(root), datetime.now(UTC)
    first = data(root)
    record(root, 400, flipped=False, seed=1, minutes_ago=600)
    captured.extend(where, None, now, Silent())
    extended = data(root)
    recorded = extended[~extended["price"].isin(first["price"])]
    assert len(recorded) == 400
    deleted = recorded.iloc[:30]
    edit(root, extended[~extended["price"].isin(deleted["price"])])
    assert captured.extend(where, None, now, Silent()).rows == 870
    record(root, 50, flipped=False, seed=3, minutes_ago=0.5)
    notes: list[str] = []
    again = captured.extend(where, None, now + timedelta(minutes=5), Noting(notes))
    after = data(root)
    assert (again.rows, after["price"].is_unique) == (900, True)
    assert not after["price"].isin(deleted["price"]).any()
    assert after["price"].isin(recorded["price"]).sum() == 370
    assert "was changed by hand" in notes[0]
    edit(root, first)
    captured.extend(where, None, now + timedelta(minutes=5), Silent())
    assert (data(root)["price"].isin(recorded["price"]).sum(), data(root)["price"].is_unique) == (400, True)


def test_rows_that_were_recorded_as_hashes_are_neither_learnt_from_nor_asked_about(root: Path) -> None:
    """`serve.capture.hash` was in force for a while: what came as it was since then counts."""
    record(root, 300, flipped=False, seed=1, minutes_ago=600, hidden=Hidden.of([], ["city"]))
    record(root, 200, flipped=False, seed=2, minutes_ago=50, hidden=Hidden())
    rows = contest.matured(environment(root), None, datetime.now(UTC))
    assert len(rows.truth) == 200
    assert {row["city"] for row in rows.inputs} == {"oslo", "rome", "lima"}
    captured.extend(environment(root), None, datetime.now(UTC), Silent())
    assert set(data(root)["city"].dropna()) == {"oslo", "rome", "lima"}


class Noting(Silent):
    """Keeps what is said."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, text: str) -> None:
        """Keep the line."""
        self.notes.append(text)


def edit(root: Path, frame: pd.DataFrame) -> None:
    """A person writes the file anew and records it with DVC itself."""
    from tidegate.pipelines import dvc_repo

    file = root / "data" / "train.csv"
    file.unlink()
    frame.to_csv(file, index=False)
    dvc_repo.add(root, file)


def test_rows_that_a_model_learnt_from_are_not_asked_about(root: Path) -> None:
    """The champion's own training rows come back as requests: nothing is left to compare on."""
    rows = data(root)
    held = contest.Matured(
        [{"price": row.price, "volume": int(row.volume), "city": row.city} for row in rows.itertuples()],
        [str(one) for one in rows["class"]],
        [datetime.now(UTC)] * len(rows),
    )
    where = environment(root)
    choice = contest.contest(where, held, [str(where.state().champion)], Silent())
    assert choice is not None
    holdout = pd.read_parquet(root / "out" / "evaluation" / "predictions.parquet")
    assert choice.contests[0].rows == len(holdout) < 200


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_branch_is_pushed_and_the_users_own_is_left_alone(root: Path, tmp_path: Path) -> None:
    """`tidegate/retrain-<id>` holds the new pointer; HEAD, index and main are as they were."""
    from tidegate.pipelines import retrain_branch

    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    git(root, "remote", "add", "origin", str(remote))
    record(root, 1_200, flipped=True)
    pointer = (root / "data" / "train.csv.dvc").read_text()
    captured.extend(environment(root), None, datetime.now(UTC), Silent())
    before = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain"), git(root, "branch", "--show-current")
    said = retrain_branch.push(open_project(root), "t-12345678", "prices flipped")
    assert said == "pushed the branch tidegate/retrain-t-12345678"
    after = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain"), git(root, "branch", "--show-current")
    assert after == before
    assert git(remote, "for-each-ref", "--format=%(refname)") == "refs/heads/tidegate/retrain-t-12345678"
    shown = git(remote, "show", "tidegate/retrain-t-12345678:data/train.csv.dvc")
    assert shown.strip() == (root / "data" / "train.csv.dvc").read_text().strip() != pointer.strip()


def killed_when(root: Path, said: str) -> bool:
    """Run `tidegate retrain` and kill it with SIGKILL once it says so."""
    process = subprocess.Popen(
        tidegate(root, "retrain", "--reason", "prices flipped"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = False
    for line in process.stderr:
        if said in line:
            seen = True
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    process.wait()
    return seen


def test_a_killed_retrain_is_taken_up_again_and_counts_nothing_twice(root: Path, cli: Any) -> None:
    """Killed while it takes the rows, and while it compares: one retrain, one version, every row once."""
    record(root, 1_300, flipped=True)
    for stage in ("take 900 rows", "compare on matured labels"):
        assert killed_when(root, stage), f"it ended before it said {stage!r}"
    done = cli("retrain", "--json", cwd=root)
    state = environment(root).state()
    assert done.json["outcome"] == "registered", done
    assert [(one.id, one.reason) for one in state.retrains] == [(done.json["retrain"], "prices flipped")]
    assert sorted(state.versions.values()) == [1, 2]
    assert len(data(root)) == len(data(root).drop_duplicates()) == 900


def test_a_retrain_that_is_killed_again_and_again_is_given_up(root: Path, cli: Any) -> None:
    """Out of memory every time: it must not stand in the way for ever."""
    record(root, 1_300, flipped=True)
    for _ in range(3):
        assert killed_when(root, "look at former champions")
    given_up = cli("retrain", "--json", cwd=root)
    assert (given_up.exit_code, given_up.json["outcome"]) == (1, "failed"), given_up
    assert "was killed 3 times" in given_up.json["reasons"][0]


def test_a_window_that_asked_is_answered_by_itself_once(root: Path, cli: Any) -> None:
    """`step retrain` is what the schedule runs; a second one finds nothing to do."""
    record(root, 1_300, flipped=True)
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    watched = {"window": since.isoformat(), "until": (since + timedelta(hours=1)).isoformat(), "outcome": "no_drift"}
    asked = {"lost": True, "retrain": {"asked": True, "reason": "accuracy was lost"}}
    environment(root).ledger.append(lambda _: Draft("watched", {**watched, **asked}))
    for _ in range(2):
        assert cli("step", "retrain", cwd=root).exit_code == 0
    (one,) = environment(root).state().retrains
    assert (one.reason, one.by, one.window, one.outcome) == (
        "accuracy was lost",
        "monitor",
        since.isoformat(),
        "registered",
    )


def test_going_back_that_comes_too_late_is_no_leave_to_train(root: Path, cli: Any) -> None:
    """A former champion was better when the window asked, and is not any more: the cooldown holds."""
    where = environment(root)
    for kind, data in (
        ("retrain_started", {"retrain": "t-1", "reason": "x"}),
        ("retrain_ended", {"retrain": "t-1", "outcome": "kept", "reasons": []}),
    ):
        where.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))
    watched = {"window": datetime.now(UTC).isoformat(), "until": datetime.now(UTC).isoformat(), "outcome": "no_drift"}
    asked = {"lost": None, "retrain": {"asked": True, "reason": "version 1, a former champion, is better"}}
    where.ledger.append(lambda _: Draft("watched", {**watched, **asked}))
    assert cli("step", "retrain", cwd=root).exit_code == 0
    one = environment(root).state().retrains[-1]
    assert (one.outcome, one.release) == ("nothing_new", None)
    assert "retrain.cooldown is 6h" in one.reasons[0]


def test_a_former_champion_that_stops_winning_leads_to_no_training(root: Path, cli: Any) -> None:
    """The window asked for it alone, and labels that came since say otherwise: the ledger tells both."""
    record(root, 2_000, flipped=True, minutes_ago=600)
    second = cli("retrain", "--json", cwd=root).json
    assert second["outcome"] == "registered", second
    environment(root).ledger.append(lambda _: Draft("deployed", {"release": second["release"]}))
    record(root, 1_000, flipped=True, seed=2, minutes_ago=50)
    now = datetime.now(UTC).isoformat()
    better = {"asked": True, "reason": "version 1 is better", "former": True, "trains": False}
    watched = {"window": now, "until": now, "outcome": "no_drift", "lost": None, "retrain": better}
    environment(root).ledger.append(lambda _: Draft("watched", watched))
    csv = data(root)
    assert cli("step", "retrain", cwd=root).exit_code == 0
    state = environment(root).state()
    one = state.retrains[-1]
    assert (one.outcome, one.release, one.data, one.trained) == ("nothing_new", None, None, False)
    assert one.reasons[0] == "no former champion is better any more, and nothing else asked for a training"
    assert "version 1 has accuracy" in one.reasons[1]
    assert (state.champion, sorted(state.versions.values())) == (second["release"], [1, 2])
    assert csv.equals(data(root))
    assert cli("step", "retrain", cwd=root).exit_code == 0
    assert len(environment(root).state().retrains) == len(state.retrains)


def test_lost_quality_is_seen_asked_about_and_answered(root: Path, cli: Any) -> None:
    """The whole loop by the two acts that `up` starts: windows of a flipped world, then the retrain they ask for."""
    change(root, "monitor: {", "monitor: {window: 10m, drift: {windows: 2}, ")
    record(root, 2_400, flipped=True, minutes_ago=45)
    assert cli("step", "monitor", cwd=root).exit_code == 0
    seen = environment(root).state().watched
    assert seen is not None
    assert (seen.lost, seen.asked) == (True, True), seen
    assert "accuracy is 0." in seen.reason
    assert cli("step", "retrain", cwd=root).exit_code == 0
    (one,) = environment(root).state().retrains
    assert (one.window, one.outcome, one.reason) == (seen.since, "registered", seen.reason)
    assert cli("step", "monitor", cwd=root).exit_code == 0
    assert len(environment(root).state().retrains) == 1


def test_two_retrains_at_once_are_one(root: Path) -> None:
    """The second is told to wait."""
    where = environment(root)
    with retrain._alone(where), pytest.raises(Conflict, match="runs in another process"):
        retrain.by_hand(where, "me too", Silent())
