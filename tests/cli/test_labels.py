"""`tidegate labels`: a file, a command and a status, with exit codes and words that a person can act on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.store import open_store
from tidegate.serving.telemetry import write_records

Cli = Callable[..., Any]
YAML = """version: 1
model: demand
data: {path: data/train.csv, target: churned}
serve: {id: order_id}
monitor: {labels: {command: "PYTHON labels.py", every: 30s}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with four recorded predictions, an hour old."""
    (tmp_path / "tidegate.yaml").write_text(YAML.replace("PYTHON", sys.executable))
    at = datetime.now(UTC) - timedelta(hours=1)
    records = [
        {"id": f"p{n}", "caller": f"order-{n}", "at": at, "arm": "stable", "status": 200, "version": 3, "label": "1"}
        for n in range(4)
    ]
    write_records(
        open_store(str(tmp_path / ".tidegate/store")), "demand.local", records, classes=[0, 1], task="classification"
    )
    return tmp_path


def test_a_file_with_the_projects_own_column_names_is_kept_and_its_matches_are_told(cli: Cli, root: Path) -> None:
    """order_id is serve.id and churned is data.target; the same file again changes nothing."""
    (root / "labels.csv").write_text("order_id,churned\norder-0,1\norder-1,0\norder-9,0\n")
    done = cli("-C", root, "labels", "ingest", root / "labels.csv", "--json")
    assert (done.exit_code, done.json) == (
        0,
        {
            "kind": "labels",
            "accepted": 3,
            "duplicates": 0,
            "rejected": [],
            "matched": 2,
            "unknown": 1,
            "strange": {},
        },
    )
    again = cli("-C", root, "labels", "ingest", root / "labels.csv")
    assert (again.exit_code, again.stdout) == (0, "labels: 0 new, 3 known already\n")


def test_lines_that_cannot_be_used_are_shown_and_the_exit_code_is_1(cli: Cli, root: Path) -> None:
    """The good ones are kept, and it is said."""
    (root / "labels.csv").write_text("prediction_id,label\np0,maybe\np1,\n")
    done = cli("-C", root, "labels", "ingest", root / "labels.csv")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "labels: 1 new, 0 known already",
        "recorded predictions named by them: 1; not recorded so far: 0",
        "no answer of the model: 'maybe' (1)",
        "line 3: the label is missing",
    ]
    assert "1 line of labels.csv cannot be used." in done.stderr
    assert "nothing counts twice" in done.stderr
    as_json = cli("-C", root, "labels", "ingest", root / "labels.csv", "--json")
    assert (as_json.exit_code, as_json.json["rejected"]) == (1, [{"line": 3, "why": "the label is missing"}])


def test_a_wrong_column_is_refused_with_what_was_meant(cli: Cli, root: Path) -> None:
    """Nothing of the file is kept."""
    (root / "labels.csv").write_text("prediction_id,lable\np0,1\n")
    done = cli("-C", root, "labels", "ingest", root / "labels.csv")
    assert done.exit_code == 1
    assert 'labels.csv: unknown column "lable", did you mean "label"?' in done.stderr
    assert not (root / ".tidegate/store/labels").exists()


def test_outcomes_are_another_file(cli: Cli, root: Path) -> None:
    """What users did, by the name of the user."""
    (root / "sold.jsonl").write_text('{"unit": "ada", "name": "conversion", "at": "2026-01-01"}\n')
    done = cli("-C", root, "labels", "ingest", root / "sold.jsonl", "--outcomes", "--json")
    assert (done.exit_code, done.json["kind"], done.json["accepted"], done.json["unknown"]) == (0, "outcomes", 1, 1)


@pytest.mark.parametrize(
    "code",
    [
        "print('order_id,churned'); print('order-0,1'); print('order-2,0')",
        (
            "import os, json\nwith open(os.environ['TIDEGATE_LABELS'], 'w') as out:\n"
            "    for name, label in (('order-0', 1), ('order-2', 0)):\n"
            "        print(json.dumps({'order_id': name, 'churned': label}), file=out)\nprint('2 labels')"
        ),
    ],
)
def test_a_command_prints_or_writes_labels_and_may_repeat_itself(cli: Cli, root: Path, code: str) -> None:
    """CSV on stdout, or any format in the file of TIDEGATE_LABELS."""
    (root / "labels.py").write_text(code)
    first = cli("-C", root, "labels", "refresh", "--json").json
    assert (first["accepted"], first["matched"]) == (2, 2)
    again = cli("-C", root, "labels", "refresh", "--json").json
    assert (again["accepted"], again["duplicates"]) == (0, 2)
    assert cli("-C", root, "labels", "status", "--json").json["labelled"] == 2


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [
        ("", 0, "labels: 0 new"),
        ("print('order_id,churned\\norder-0,1'); raise SystemExit(3)", 1, "ended with exit code 3; nothing was kept."),
        ("print('hello')", 1, 'unknown column "hello"'),
    ],
)
def test_a_command_that_fails_keeps_nothing_and_one_that_knows_nothing_is_no_error(
    cli: Cli, root: Path, code: str, exit_code: int, told: str
) -> None:
    """Half of its output could be taken for all of it."""
    (root / "labels.py").write_text(code)
    done = cli("-C", root, "labels", "refresh")
    assert done.exit_code == exit_code
    assert told in done.stdout + done.stderr
    assert not (root / ".tidegate/store/labels").exists()


def test_without_a_command_refresh_says_how_to_name_one(cli: Cli, root: Path) -> None:
    """Or how to do without."""
    (root / "tidegate.yaml").write_text(YAML.partition("monitor")[0])
    done = cli("-C", root, "labels", "refresh")
    assert done.exit_code == 2
    assert "tidegate labels ingest FILE" in done.stderr


def test_the_status_shows_shares_unknown_ids_and_how_long_labels_take(cli: Cli, root: Path) -> None:
    """From which monitor.labels.maturity is chosen."""
    at = datetime.now(UTC) - timedelta(hours=1)
    store = open_store(str(root / ".tidegate/store"))
    more = [{"id": f"q{n}", "at": at, "arm": "canary", "status": 200, "version": 4} for n in range(40)]
    write_records(store, "demand.local", more, classes=[0, 1], task="classification")
    lines = "".join(f"q{n},1\n" for n in range(39))
    (root / "labels.csv").write_text(f"prediction_id,label\n{lines}zzz,1\n")
    assert cli("-C", root, "labels", "ingest", root / "labels.csv").exit_code == 0
    shown = cli("-C", root, "labels", "status")
    assert shown.exit_code == 0
    assert [line.split() for line in shown.stdout.splitlines()[:3]] == [
        ["version", "arm", "predictions", "labelled", "share"],
        ["4", "canary", "40", "39", "97.5%"],
        ["3", "stable", "4", "0", "0.0%"],
    ]
    assert "ids with a label: 40; of no recorded prediction: 1" in shown.stdout
    document = cli("-C", root, "labels", "status", "--json", "--since", "2h").json
    assert (document["kind"], document["predictions"], document["maturity"]["configured"]) == ("label_status", 44, 1800)
    assert document["maturity"]["suggested"] in {3600, 3660, 3720}


def test_nothing_recorded_and_nothing_labelled_is_said(cli: Cli, root: Path, tmp_path: Path) -> None:
    """A new project has no error to show."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "tidegate.yaml").write_text(YAML)
    shown = cli("-C", other, "labels", "status")
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (0, "No predictions are recorded.")
