"""What a pull request is told: gathered from a small real project, and as Markdown."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tidegate.core.artifacts import GateResult
from tidegate.core.project import Project
from tidegate.pipelines.gate import Comparison, Facts
from tidegate.pipelines.report import Cost, Report
from tidegate.pipelines.report_markdown import marker_of, plain, render

GATE = GateResult(passed=True, reasons=("passed: roc_auc is 0.8",))
FACTS = Facts("roc_auc", 0.8, "higher", metrics={"roc_auc": 0.8, "brier": 0.2})
GOOD = Report("demand", "local", contract=3, failed=(), facts=FACTS, gate=GATE, run_id="abc")


def compared(**changes: Any) -> Facts:
    one = Comparison("roc_auc", 0.8, 0.79, 0.002, 0.005, rows=400, advantage_high=0.02)
    return replace(FACTS, champion=3, comparisons=(replace(one, **changes),))


def test_the_first_two_lines_are_the_answer_and_its_reason() -> None:
    """A reviewer reads no further; the marker is last, so that it is in nobody's way."""
    assert render(GOOD).splitlines()[:2] == [
        "### demand: the gate passes",
        "roc&#95;auc is 0.8 on the holdout; there is no champion to compare with.",
    ]
    better = render(replace(GOOD, facts=compared()))
    assert "0.8, version 3 has 0.79 (difference +0.002 to +0.02; 0.005 worse is tolerated)." in better.splitlines()[1]
    refused = GateResult(passed=False, reasons=("refused: roc_auc fell", "passed: the rest"))
    text = render(replace(GOOD, gate=refused, advice="Try more rows."))
    assert text.splitlines()[:2] == ["### demand: the gate refuses this model", "**roc&#95;auc fell**"]
    assert "- passed: the rest\n\nWhat to do next:\n\n- Try more rows." in text
    assert marker_of(text) == text.splitlines()[-1] == "<!-- tidegate report of demand in local -->"


def test_what_could_not_be_judged_does_not_pass() -> None:
    """A broken contract refuses with 3, a problem is an error, and neither is a pass."""
    broken = replace(GOOD, failed=("column price has 3 missing values",))
    unknown = replace(GOOD, problem="The project is not trained as it is.", gate=None)
    assert [(one.passed, int(one.exit_code)) for one in (GOOD, broken, unknown)] == [(True, 0), (False, 3), (False, 1)]
    assert render(broken).startswith("### demand: the data breaks its contract\n**column price has 3 missing values**")
    assert render(unknown).startswith("### demand: cannot be judged\n**The project is not trained as it is.**")


def test_text_from_data_is_shown_and_never_obeyed() -> None:
    """No mark-up, no mention, no row of a table begins in somebody's cell."""
    cell = "a|b\n<img src=x> `c` @ada [d](e) #1 ~~f~~"
    assert not set("|\n<>`@[]~") & set(plain(cell))
    slices = compared(slice=f"city = {cell}", metric="roc_auc")
    lines = [line for line in render(replace(GOOD, facts=slices)).splitlines() if "city" in line]
    assert [line.count("|") for line in lines] == [8]


def test_slices_are_listed_from_the_worst_and_a_long_list_ends() -> None:
    """One that could not be judged is among the worst."""
    one = compared().comparisons[0]
    parts = [replace(one, slice=f"hour = {k}", advantage_low=k / 100) for k in range(20)]
    parts.append(replace(one, slice="hour is missing", advantage_low=math.nan))
    text = render(replace(GOOD, facts=replace(FACTS, champion=3, comparisons=tuple(parts))))
    shown = [line for line in text.splitlines() if line.startswith("| hour")]
    assert [line.split("|")[1].strip() for line in shown[:2]] == ["hour is missing", "hour = 0"]
    assert "too few rows | 0.005 | **worse** |" in shown[0]
    assert (len(shown), "and 9 more" in text) == (12, True)


def test_data_cost_and_plots_each_have_their_place() -> None:
    """What changed in the data, what the model takes, and where to look."""
    sides = {"before": {"revision": "main", "md5": "1", "rows": 900}, "after": {"md5": "2", "rows": 950}}
    column = {"column": "city", "change": "values", "before": "", "after": "bern"}
    data = {"path": "data.csv", "changed": True, **sides, "columns": [column]}
    cost = Cost(seconds=2.5, processors=4, rows=800, size=1_500_000, latency_p99=0.0021)
    text = render(replace(GOOD, data=data, cost=cost, plots={"calibration": "https://example.org/<1>"}))
    assert "data.csv: 900 to 950 rows. 3 of 3 promises of the contract hold." in text
    assert "| city | values |  | bern |" in text
    assert "| training | 800 rows in 2.5 s on 4 processors |" in text
    assert "| one row, 99th percentile | 2.1 ms |" in text
    assert "Plots: [calibration](<https://example.org/%3C1%3E>) · MLflow run `abc`" in text


@pytest.mark.slow
def test_a_report_is_of_the_files_as_they_are(project: Project, rewrite: Any, cli: Any) -> None:
    """Trained: it passes and nothing is registered. Changed since: it says so and fails."""
    done = cli("report", "--json", cwd=project.root)
    assert (done.exit_code, done.json["passed"]) == (0, True)
    assert "The same data as in `HEAD`." in done.json["text"]
    assert cli("model", "list", "--json", cwd=project.root).json["versions"] == []
    rewrite(project, "tidegate.yaml", "C: 1.0", "C: 2.0")
    stale = cli("report", "--to", project.root / "report.md", cwd=project.root)
    assert stale.exit_code == 1
    assert "**The project is not trained as it is (" in stale.stdout
    assert (project.root / "report.md").read_text() == stale.stdout


def test_a_file_that_is_no_report_is_not_posted(cli: Any, tmp_path: Any) -> None:
    """The bot's comment is for reports only."""
    (tmp_path / "x.md").write_text("hello")
    said = cli("report", "--from", tmp_path / "x.md", "--comment", cwd=tmp_path)
    assert (said.exit_code, "no report of tidegate's" in said.stderr) == (2, True)
    missing = cli("report", "--from", tmp_path / "y.md", cwd=tmp_path)
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)


@pytest.mark.slow
def test_what_a_notebook_reads_of_a_trained_project(project: Project) -> None:
    """A training that finds nothing to do, no version, no release, no event, and a question that nobody can answer."""
    from tidegate import api

    trained = api.train(project.root)
    assert (trained.changed, trained.metric) == (False, "roc_auc")
    assert (api.versions(project.root), api.releases(project.root), api.events(project.root)) == ((), (), ())
    with pytest.raises(api.TidegateError, match="nope"):
        api.why("release:nope", project.root)
    with pytest.raises(api.TidegateError, match="no earlier champion"):
        api.rollback("it lies", project.root)
