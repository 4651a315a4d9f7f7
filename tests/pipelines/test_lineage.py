"""Finding one prediction in the gateway's log, wherever it was rotated to and whatever lies beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.artifacts import DatasetRef, Release
from tidegate.core.errors import UsageError
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.lineage import find_prediction, why
from tidegate.registry import releases
from tidegate.serving.gateway.access_log import rotated_path
from tidegate.serving.telemetry import write_records

ID = "0b2f6d9e-6f2d-4c2e-9d62-000000000001"


def line(prediction: str | None, **changes: object) -> bytes:
    """One line as Envoy writes it."""
    known = {"cluster": "canary/r-2/127.0.0.1:8500", "route": "split/o-1/25", "prediction": prediction}
    return log_line(**(known | changes))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


@pytest.mark.parametrize("where", [None, 1, 7])
def test_a_prediction_is_found_in_the_live_and_in_rotated_logs(log: Path, where: int | None) -> None:
    """The file that holds it does not matter."""
    for sequence in (1, 7):
        rotated_path(log, sequence).write_bytes(line(f"other-{sequence}") * 3)
    log.write_bytes(line("other") * 3)
    with (log if where is None else rotated_path(log, where)).open("ab") as file:
        file.write(line(ID) + line(None))
    record = find_prediction(log, ID)
    assert record is not None
    assert (record.prediction, record.release, record.arm, record.rollout) == (ID, "r-2", "canary", "o-1")


def test_a_row_of_a_batch_leads_to_its_request(log: Path) -> None:
    """`<id>.<k>` names the row; the gateway only knows the request."""
    log.write_bytes(line(ID))
    record = find_prediction(log, f"{ID}.12")
    assert record is not None
    assert record.prediction == ID


@pytest.mark.parametrize("asked", [ID[:-1], "ada", "r-2", "", ".", ".1", "predict", f"{ID}.x", ID.upper()])
def test_only_the_whole_id_finds(log: Path, asked: str) -> None:
    """A part of an id, a user, a release or nothing is no prediction."""
    log.write_bytes(line(ID))
    assert find_prediction(log, asked) is None


def test_without_a_log_there_is_no_prediction(log: Path) -> None:
    """Nothing was ever served."""
    assert find_prediction(log, ID) is None


def test_torn_and_foreign_lines_are_passed_over(log: Path) -> None:
    """A line that a killed Envoy left half-written may hold the id; the whole line further on is found."""
    torn = line(ID)[: line(ID).index(b"version")] + b"\n"
    log.write_bytes(torn + b'{"prediction": "' + ID.encode() + b'"}\n' + b"\xff" + ID.encode() + b"\n" + line(ID))
    record = find_prediction(log, ID)
    assert record is not None
    assert record.release == "r-2"


def test_a_line_that_is_still_being_written_is_not_read(log: Path) -> None:
    """Without its newline a line may lack its end."""
    log.write_bytes(line(ID)[:-1])
    assert find_prediction(log, ID) is None


@given(st.text(max_size=40))
def test_no_question_is_an_accident(tmp_path_factory: pytest.TempPathFactory, asked: str) -> None:
    """Any text is answered with a record of that id or with nothing."""
    log = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    log.write_bytes(line(ID) + line("7") + line(None))
    record = find_prediction(log, asked)
    assert record is None or record.prediction == asked or asked.startswith(f"{record.prediction}.")


RECORD = {
    "id": ID,
    "at": datetime(2026, 11, 25, 12, tzinfo=UTC),
    "unit": 5,
    "caller": "order-7",
    "arm": "canary",
    "status": 200,
    "label": "up",
    "score": 0.75,
    "input.price": 1.5,
}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A project with one release and no gateway's log."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    return Environment(open_project(tmp_path, "local"))


def released(environment: Environment, version: int = 1) -> str:
    data = (DatasetRef("train.csv", "aaaa", 100),)
    named = {"model": "demand", "version": version, "run_id": "run", "bento": "demand:1", "bundle": "0" * 64}
    found = Release(**named, git_commit="c0ffee", git_dirty=False, data=data, files={}, config={}, contract={})
    releases.save(environment.store, found, {})
    return found.id


def recorded(environment: Environment, **changes: Any) -> None:
    rows = [{**RECORD, **changes}]
    write_records(environment.store, environment.stream, rows, classes=["up"], task="classification")


def test_a_prediction_that_the_log_has_lost_is_found_among_the_recorded_ones(environment: Environment) -> None:
    """With what was asked and answered; the user is only a hash there."""
    release = released(environment)
    recorded(environment, release=release)
    document = why(environment, ID)
    assert (document["prediction"], document["arm"], document["release"]) == (ID, "canary", release)
    assert (document["at"], document["data"][0]["md5"]) == ("2026-11-25T12:00:00+00:00", "aaaa")
    assert (document["unit_hash"], document["caller"], document["answer"], document["score"]) == (
        5,
        "order-7",
        "up",
        0.75,
    )
    assert document["inputs"] == {"price": 1.5}
    assert "unit" not in document


def test_log_and_record_tell_together(environment: Environment) -> None:
    """The log knows the user and the rollout, the record the row."""
    release = released(environment)
    recorded(environment, release=release)
    log = environment.gateway_dir / "access.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(line(ID, cluster=f"canary/{release}/127.0.0.1:8500"))
    document = why(environment, ID)
    assert (document["unit"], document["rollout"], document["answer"]) == ("ada", "o-1", "up")
    assert document["inputs"] == {"price": 1.5}


def test_a_release_tells_how_many_predictions_it_made(environment: Environment) -> None:
    """Asked by release, by version or by the data that it learnt from."""
    one, two = released(environment), released(environment, 2)
    for number in range(3):
        recorded(environment, id=f"p{number}", release=one)
    recorded(environment, id="copy", release=two, arm="shadow")
    assert why(environment, f"release:{one}")["predictions"] == 3
    assert why(environment, "version:2")["predictions"] == 0
    found = {lineage["release"]: lineage["predictions"] for lineage in why(environment, "data:aaaa")["releases"]}
    assert found == {one: 3, two: 0}


CONFIG = "model: demand\ndata: {path: train.csv, target: class}\n"


@pytest.mark.parametrize("auth", ["", "serve: {auth: {api_keys: env:KEYS_OF_SOMEBODY_ELSE}}\n"])
def test_an_unknown_prediction_is_a_usage_error(tmp_path: Path, auth: str) -> None:
    """It says where ids come from; the gateway's keys are not needed to read its log."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG + auth)
    with pytest.raises(UsageError, match="No prediction nonsense") as caught:
        why(Environment(open_project(tmp_path, "local")), "nonsense")
    assert "x-tidegate-prediction-id" in caught.value.hint


@pytest.mark.parametrize("cluster", [None, "-"])
def test_a_request_that_reached_no_release_has_no_lineage(tmp_path: Path, cluster: str | None) -> None:
    """The gateway answered by itself, so no model is to blame."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    environment = Environment(open_project(tmp_path, "local"))
    log = environment.run_dir / "gateway" / "access.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(line(ID, cluster=cluster))
    with pytest.raises(UsageError, match="No prediction"):
        why(environment, ID)
