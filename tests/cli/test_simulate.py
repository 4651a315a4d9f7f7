"""`tidegate rollout simulate`: a policy under test, without a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate.rollouts.simulation.scenario import names

Cli = Callable[..., Any]

OWN = """\
about: Ten times the errors.
runs: 20
duration: 30m
effect: {error_rate: 10}
rollout:
  steps: [25]
  guardrails:
    - {metric: error_rate, harm: {ratio: 1.1, margin: 0.001}, safe: {ratio: 1.5, margin: 0.002}}
"""


def own(folder: Path, expect: str = "") -> Path:
    file = folder / "own.yaml"
    file.write_text(OWN + expect, encoding="utf-8")
    return file


def test_the_built_in_scenarios_are_listed(cli: Cli) -> None:
    """Each with a sentence."""
    document = cli("rollout", "simulate", "--list", "--json").json
    assert [one["name"] for one in document["scenarios"]] == list(names())
    assert all(one["about"] for one in document["scenarios"])
    assert "late-regression" in cli("rollout", "simulate", "--list").stdout


def test_a_scenario_of_your_own_is_played_for_every_policy(cli: Cli, tmp_path: Path) -> None:
    """A table for a person, one document for a script; the same seed says the same, another one does not."""
    file = own(tmp_path, "expect: {power: {min: 0.9}, median_minutes: {max: 10}}\n")
    shown = cli("rollout", "simulate", file)
    assert shown.exit_code == 0
    assert "beyond the harm line, so to roll it back is power" in shown.stdout
    one, same, other = (cli("rollout", "simulate", file, "--json", "--seed", seed) for seed in ("7", "7", "8"))
    assert one.stdout == same.stdout
    assert one.json["rows"] != other.json["rows"]
    assert (one.json["kind"], one.json["rollback_means"], one.json["broken"]) == ("simulation", "power", [])
    rows = {row["policy"]: row for row in one.json["rows"]}
    assert rows["tidegate"]["rolled_back"] == 1
    assert rows["tidegate"]["standard_error"]["rolled_back"] == 0
    assert (rows["tidegate"]["counts"], rows["Kayenta, Mann-Whitney"]["counts"]) == ("users", "requests")
    assert cli("rollout", "simulate", file, "--runs", "5", "--json").json["runs"] == 5


def test_an_expectation_that_does_not_hold_is_exit_3(cli: Cli, tmp_path: Path) -> None:
    """It is said which bound broke, and by how much."""
    file = own(tmp_path, "expect: {power: {max: 0.5}, promoted: {min: 0.2}}\n")
    shown = cli("rollout", "simulate", file)
    assert shown.exit_code == 3
    assert "does not hold: expect.power: 1, more than 0.5." in shown.stdout
    document = cli("rollout", "simulate", file, "--json")
    assert document.exit_code == 3
    assert document.json["broken"] == ["expect.power: 1, more than 0.5.", "expect.promoted: 0, less than 0.2."]


def test_what_cannot_be_played_is_one_error(cli: Cli, tmp_path: Path) -> None:
    """Exit code 2 and what to type next: unknown name, broken file, missing file, no scenario, impossible numbers."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("runs: many\n", encoding="utf-8")
    for arguments, said in (
        (["tenfold-error"], 'did you mean "tenfold-errors"?'),
        ([broken], "broken.yaml:1"),
        ([tmp_path / "absent.yaml"], "does not exist"),
        ([], "Which scenario?"),
        (["same", "--runs", "0"], "0 runs cannot be drawn"),
        (["same", "--seed", "-1"], "-1 is no seed"),
    ):
        done = cli("rollout", "simulate", *arguments)
        assert (done.exit_code, done.stdout) == (2, ""), arguments
        assert said in done.stderr
        assert (
            "simulate --list" in done.stderr
            or "--list" in done.stderr
            or "--seed" in done.stderr
            or "--runs" in done.stderr
        )
