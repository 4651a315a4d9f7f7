"""SIGKILL at every stage of `ship`: running it again completes, and nothing is there twice or by half."""

from __future__ import annotations

from collections import Counter

import pytest
from journeys.journey import Journey, aliases

pytestmark = pytest.mark.long

STAGES = ("fit ", "log the results", "register the version", "build the Bento")


def test_ship_killed_at_every_stage_completes_when_it_is_run_again(project: Journey) -> None:
    """One more version, one more release, and MLflow, ledger, store and Bentos agree."""
    project.cli("down")
    before = project.state
    project.change_params()
    for stage in STAGES:
        assert project.kill_when(stage, "ship"), f"ship ended before it said {stage!r}"
        assert set(project.state.versions) == set(before.versions)
    shipped = project.cli("ship", "--json")
    assert shipped.exit_code == 5, shipped
    _agree(project, before.versions.values())
    again = project.cli("ship", "--json")
    assert again.json["version"] == shipped.json["version"]
    assert list(project.state.versions) == [*before.versions, shipped.json["release"]]


def _agree(project: Journey, before: object) -> None:
    from tidegate.pipelines.bundles import bundle_of
    from tidegate.registry import releases

    environment, state = project.environment, project.state
    versions = environment.registry.list()
    # One version for each run, each of them released, each release whole.
    assert max(Counter(one.run_id for one in versions).values()) == 1
    assert {one.version for one in versions} == set(state.versions.values())
    for release in state.versions:
        found = releases.load(environment.store, release)
        assert releases.files_of(environment.store, found)
        assert bundle_of(environment.project, found).is_dir()
    assert set(releases.ids(environment.store)) == set(state.versions)
    assert aliases(project) == {
        "champion": state.versions[project.champion],
        "challenger": state.versions[str(state.challenger)],
    }
