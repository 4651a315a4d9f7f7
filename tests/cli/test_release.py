"""Releases as a person reads, copies and types them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.artifacts import DatasetRef
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft

Cli = Callable[..., Any]
CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"
# More than there are hexadecimal digits, so two releases begin alike.
_MANY = 18


@pytest.fixture
def project(git_repo: Path) -> Path:
    """A project with many releases, the first of which is champion; odd ones come from a dirty tree."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    environment = Environment(open_project(git_repo))
    data = (DatasetRef("data/train.csv", "badaf31b05bd3f1a7744ef02854ad17c", 100),)
    for version in range(1, _MANY + 1):
        dirty, commit = bool(version % 2), f"{version:040x}"
        release = releases.Release(
            "demand", version, f"{version:032x}", "demand:1", "00", commit, dirty, data, {}, {}, {}
        )
        releases.save(environment.store, release, {})
        registered = {"release": release.id, "version": version, "run_id": release.run_id}
        environment.ledger.append(lambda _, data=registered: Draft("registered", data))
        if version == 1:
            environment.ledger.append(lambda _, one=release.id: Draft("deployed", {"release": one}))
    return git_repo


@pytest.fixture
def known(project: Path) -> dict[int, str]:
    """Version -> release."""
    return {number: one for one, number in Environment(open_project(project)).state().versions.items()}


def shortest(known: dict[int, str], version: int) -> str:
    """As little of a release's id as tells it from the others."""
    whole = known[version]
    return next(
        whole[:length]
        for length in range(3, len(whole) + 1)
        if sum(one.startswith(whole[:length]) for one in known.values()) == 1
    )


def test_a_damaged_release_hides_no_other(cli: Cli, project: Path, known: dict[int, str]) -> None:
    """Its row says so, with what the ledger knows of it, and the command fails."""
    (Path(open_project(project).store_url) / "releases" / known[1] / "release.json").unlink()
    listed = cli("release", "list", "--json", cwd=project)
    rows = listed.json["releases"]
    assert (listed.exit_code, f"There is no release {known[1]}" in listed.stderr) == (2, True)
    assert {row["release"]: row["status"] == "damaged" for row in rows} == {
        one: number == 1 for number, one in known.items()
    }


@pytest.mark.parametrize("columns", [0, 60, 80])
def test_ids_are_whole_on_any_terminal(cli: Cli, project: Path, known: dict[int, str], columns: int) -> None:
    """One line a release, with an id that can be copied, and a mark where the tree was dirty."""
    shown = cli("release", "list", cwd=project, columns=columns).stdout
    lines = [line.split() for line in shown.splitlines() if line.startswith("r-")]
    assert [line[0] for line in lines] == list(known.values())
    assert all(len(line) == 5 for line in lines), shown
    assert (lines[0][2], lines[1][2]) == ("champion", "registered")
    assert [line[3].endswith("+") for line in lines[:2]] == [True, False]
    assert "+ made with uncommitted changes" in shown


def test_a_long_value_is_not_wrapped_by_us(cli: Cli, project: Path, known: dict[int, str]) -> None:
    """A terminal wraps it itself, and copying gives one line."""
    shown = cli("release", "show", known[2], cwd=project, columns=40).stdout
    assert f"git_commit: {2:040x}" in shown


def test_a_beginning_is_enough_wherever_a_release_is_asked_for(
    cli: Cli, project: Path, known: dict[int, str], tmp_path: Path
) -> None:
    """`show`, `checkout`, `why`, `ship --release`, `rollout start` and `rollback` take the same."""
    typed = shortest(known, 2)
    assert len(typed) < len(known[2])
    assert cli("release", "show", typed, "--json", cwd=project).json["release"] == known[2]
    assert cli("why", f"release:{typed}", "--json", cwd=project).json["release"] == known[2]
    champion = shortest(known, 1)
    again = f"Release {known[1]} is the champion already"
    assert again in cli("rollout", "start", champion, cwd=project).stderr
    assert again in cli("rollback", champion, "--reason", "x", cwd=project).stderr
    assert cli("ship", "--release", champion, "--json", cwd=project).json["release"] == known[1]
    # The commit of this release is made up, so git says no: but about the release that was meant.
    assert f"{2:040x}" in cli("release", "checkout", typed, "--to", tmp_path / "there", cwd=project).stderr


LINES = ["release show", "release checkout", "rollout start", "rollback --reason x", "ship --release"]


@pytest.mark.parametrize("line", LINES)
def test_an_ambiguous_beginning_is_refused_with_what_fits(
    cli: Cli, project: Path, known: dict[int, str], line: str
) -> None:
    """Exit code 2, and every release that it could be; nothing is done."""
    typed, count = Counter(one[:3] for one in known.values()).most_common(1)[0]
    before = Environment(open_project(project)).ledger.events()
    result = cli(*line.split(), typed, cwd=project)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{count} releases begin with {typed}" in result.stderr
    assert all(one in result.stderr for one in known.values() if one.startswith(typed))
    assert Environment(open_project(project)).ledger.events() == before


def test_a_rollout_is_found_by_its_beginning_too(cli: Cli, project: Path, known: dict[int, str]) -> None:
    """And two that begin alike are named."""
    environment = Environment(open_project(project))
    for number, name in enumerate(("o-aa11", "o-aa22", "o-bb33"), 2):
        begun = {"rollout": name, "stable": known[1], "canary": known[number], "steps": [50], "plan": {}}
        environment.ledger.append(lambda _, data=begun: Draft("rollout_started", data))
        environment.ledger.append(lambda _, one=name: Draft("aborted", {"rollout": one, "reasons": ["too slow"]}))
    assert cli("rollout", "status", "o-b", "--json", cwd=project).json["id"] == "o-bb33"
    assert "2 rollouts begin with o-a: o-aa11, o-aa22" in cli("rollout", "status", "o-a", cwd=project).stderr
    assert "There is no such rollout" in cli("rollout", "status", "o-c", cwd=project).stderr
