"""From a request to its truth: made-up traffic through the real gateway, recorded, labelled, joined, measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from journeys.journey import Journey, wait_until

from tidegate.monitors.quality import window_quality
from tidegate.serving.labels import joined

pytestmark = pytest.mark.long


def test_the_truth_of_every_answered_row_meets_the_arm_and_version_that_answered_it(stack: Journey) -> None:
    """`dev traffic --labels` labels what it sends; the quality in use is about that of the holdout it came from."""
    began = datetime.now(UTC)
    traffic = stack.must("dev", "traffic", "--rps", "80", "--for", "4s", "--labels", "--json").json
    assert traffic["labels"] == traffic["statuses"]["200"] > 100

    def found() -> int:
        with duckdb.connect() as connection:
            rows = joined(
                connection, stack.environment.store, stack.environment.stream, began, began + timedelta(minutes=5)
            )
            ((count,),) = rows.aggregate("count(truth)").fetchall()
        return int(count)

    wait_until(
        lambda: found() == traffic["labels"], lambda: f"{found()} of {traffic['labels']} labels met a prediction"
    )
    status = stack.must("labels", "status", "--since", "5m", "--json").json
    (share,) = (one for one in status["versions"] if one["labelled"])
    assert (share["arm"], share["release"]) == ("stable", stack.champion)
    assert status["labelled"] >= traffic["labels"]
    with duckdb.connect() as connection:
        quality = window_quality(
            connection,
            stack.environment.store,
            stack.environment.stream,
            began,
            datetime.now(UTC),
            metric="accuracy",
            tolerance=0.2,
            maturity=0.0,
            references={stack.champion: {"accuracy": 0.8}},
            now=datetime.now(UTC) + timedelta(seconds=1),
        )
    assert quality.versions[0].labelled == traffic["labels"]
    assert quality.versions[0].value is not None
    assert quality.versions[0].value > 0.55
