"""A release keeps what its live data is compared with: the rows that its model learnt from, and its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.monitors import reference
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.pipelines.reference import Measured, store_reference
from tidegate.pipelines.steps.evaluate import holdout
from tidegate.pipelines.steps.train import MODEL_FOLDER, prepare_data
from tidegate.serving import package

pytestmark = pytest.mark.slow


class Told(Silent):
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def bundle_of(project: Project) -> Iterator[Path]:
    """What would be served of the trained project."""
    prepared = prepare_data(project)
    frame = holdout(prepared)
    source = package.Source(project.out_dir / MODEL_FOLDER, "demand", task="classification")
    truth = prepared.table.target.loc[frame.index]
    with package.drafted(source, frame, truth, serve=project.config.serve) as draft:
        yield draft.bundle


def stored(project: Project, metric: str = "roc_auc") -> tuple[Environment, reference.Reference, Any, list[str]]:
    """Store the reference of the trained project; the facts, the rows, and what was noted."""
    environment, told = environment_for(project), Told()
    with bundle_of(project) as bundle:
        name = store_reference(environment, bundle, prepare_data(project), Measured({"roc_auc": 0.8}, metric), told)
        assert name == store_reference(
            environment, bundle, prepare_data(project), Measured({"roc_auc": 0.8}, metric), told
        )
    rows = pq.read_table(environment.store.location(f"references/{name}/reference.parquet"))
    return environment, reference.load(environment.store, name), rows, told.notes


def test_it_holds_the_rows_the_answers_and_what_the_model_decides_by(project: Project) -> None:
    """In the order of the request's columns; the same content has the same name."""
    _, found, rows, _ = stored(project)
    prepared = prepare_data(project)
    assert list(found.columns) == ["price", "volume", "city"]
    assert found.rows == {"train": len(prepared.split.train), "holdout": len(prepared.split.holdout)}
    assert rows["input.price"].to_pylist()[: found.rows["train"]] == pytest.approx(
        prepared.table.frame["price"].to_numpy()[prepared.split.train]
    )
    price, volume = (found.columns[name].importance or 0.0 for name in ("price", "volume"))
    assert price > 10 * volume
    assert set(found.predictions) == {"label", "score"}
    # Measured on what is served, not what training said.
    assert found.metrics["roc_auc"] != 0.8
    assert {"accuracy", "brier"} <= set(found.metrics)


def test_what_is_not_recorded_is_not_kept_and_what_is_hashed_is_kept_hashed(project: Project) -> None:
    """Otherwise the reference would hold in the open what the records must not."""
    config = project.root / "tidegate.yaml"
    config.write_text(config.read_text() + "serve: {capture: {exclude: [volume], hash: [city]}}\n")
    _, found, rows, _ = stored(open_project(project.root))
    assert list(found.columns) == ["price", "city"]
    assert {len(city) for city in rows["input.city"].to_pylist()} == {32}
    assert found.columns["city"].distinct == 3


def test_a_metric_that_the_bundle_cannot_give_leaves_all_columns_alike(project: Project) -> None:
    """A ship does not fail for it, and it is said."""
    _, found, _, notes = stored(project, "no_such_metric")
    assert {one.importance for one in found.columns.values()} == {None}
    assert any("count alike" in note for note in notes)
