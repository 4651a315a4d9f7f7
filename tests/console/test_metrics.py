"""/metrics is what Prometheus reads, and the dashboard asks for nothing that is not there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from happened import HOSTILE, fill, watch
from prometheus_client.parser import text_string_to_metric_families

from tidegate.console import metrics
from tidegate.console.known import Known
from tidegate.console.traffic import parse, served
from tidegate.pipelines.environment import Environment
from tidegate.serving.service.metrics import Metrics

if TYPE_CHECKING:
    import pytest

DASHBOARD = Path(metrics.__file__).parent / "grafana" / "tidegate.json"


def rendered(known: Known) -> dict[str, list[Any]]:
    """Samples by name, as Prometheus' own parser reads them."""
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(metrics.render(known).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


@contextmanager
def service() -> Iterator[int]:
    """The /metrics page of a serving process that has answered, on a real port."""
    counted = Metrics()
    for number in range(200):
        counted.record(500 if number % 50 == 0 else 200, "stable", 0.2 if number < 3 else 0.004)
    counters = {"tidegate_capture_dropped_total": 3.0, "tidegate_capture_written_total": 197.0}
    page = counted.render({"release": "r-1"}, {"tidegate_capture_queue_rows": 5.0}, counters)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def up(known: Known, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """As if `tidegate up` ran with one service, and one that does not answer."""
    rows = [
        {"name": "stable", "release": "r-1", "version": 1, "pid": 1, "port": port, "ready": True},
        {"name": "warm", "release": "r-9", "version": 9, "pid": 2, "port": 1, "ready": False},
    ]
    monkeypatch.setattr(known, "stack", lambda: {"kind": "stack", "processes": rows, "gateway": "", "console": ""})


def test_it_says_what_the_judge_the_monitor_and_the_services_know(
    busy: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the labels that tell releases, arms, metrics and columns apart."""
    known = Known(busy)
    with service() as port:
        up(known, monkeypatch, port)
        found = rendered(known)
    values = {
        name: {tuple(sorted(one.labels.items())): one.value for one in samples} for name, samples in found.items()
    }
    assert values["tidegate_rollout_weight"] == {(("rollout", "o-1a2b"),): 0.05}
    assert len(found["tidegate_rollout_log_e_safe"]) == 4
    assert sum(one.value for one in found["tidegate_rollout_state"]) == 1
    assert values["tidegate_window_outcome"][(("outcome", "drift"),)] == 1
    assert values["tidegate_drift_drifted"][("column", "price"), ("of", "input")] == 1
    assert (("column", "score"), ("of", "answer")) in values["tidegate_drift_value"]
    assert values["tidegate_quality_lost"][("arm", ""), ("metric", "accuracy"), ("version", "1")] == 1
    assert values["tidegate_requests_total"][("arm", "stable"), ("release", "r-1"), ("status", "500")] == 4
    assert values["tidegate_capture_dropped_total"] == {(("release", "r-1"),): 3}
    assert values["tidegate_retrains_total"] == {(("outcome", "registered"),): 1}
    assert values["tidegate_predictions"][()] == 400
    assert 200 < values["tidegate_predictions_labelled"][()] < 400
    assert values["tidegate_ledger_events_total"][()] == busy.state().length
    assert values["tidegate_process_ready"] == {(("name", "stable"),): 1, (("name", "warm"),): 0}


def test_the_dashboard_asks_for_nothing_that_is_not_there(busy: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every metric and every label of its queries."""
    known = Known(busy)
    with service() as port:
        up(known, monkeypatch, port)
        found = rendered(known)
    document = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in document["templating"]["list"] if isinstance(one["query"], dict)]
    asked = {name for query in queries for name in re.findall(r"tidegate_\w+", query)}
    assert len(asked) > 25
    assert asked - set(found) == set()
    for panel in document["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"tidegate_\w+", target["expr"])
            known_labels = {label for name in names for sample in found[name] for label in sample.labels}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known_labels, panel["title"]


def test_names_from_data_are_escaped_and_columns_are_bounded(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quote, a backslash or a new line in a name stays in its label; a wide table does not fill a database."""
    fill(environment, HOSTILE + '\\"\n')
    monkeypatch.setattr(metrics, "MOST_COLUMNS", 5)
    found = rendered(Known(environment))
    columns = {one.labels["column"] for one in found["tidegate_drift_value"]}
    assert HOSTILE + '\\"\nprice' in columns
    assert len(found["tidegate_drift_drifted"]) == 5
    assert found["tidegate_drift_columns_left_out"][0].value == 6


def test_an_empty_project_has_metrics_too(environment: Environment) -> None:
    """Nothing is made up: what is not known is not there."""
    found = rendered(Known(environment))
    assert found["tidegate_up"][0].value == 0
    assert found["tidegate_ledger_events_total"][0].value == 0
    assert not [name for name in found if name.startswith(("tidegate_rollout_", "tidegate_drift_", "tidegate_quality"))]
    watch(environment, 1)
    assert rendered(Known(environment))["tidegate_window_rows"][0].value > 0


def test_a_service_is_summed_up_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, failures, and the bucket in which the slowest hundredth begins; a silent one is left out."""
    with service() as port:
        rows = [{"release": "r-1", "port": port}, {"release": "r-2", "port": 1}, {"name": "gateway", "port": 8400}]
        found = served({"processes": rows})
    assert list(found) == ["r-1"]
    assert (found["r-1"].requests, found["r-1"].failed, found["r-1"].slow) == (200, 4, 0.25)
    assert served(None) == {}
    assert list(parse('# HELP x\nx{a="b\\"c"} 1\nbroken line here\nx 2 3 4\ny nan')) != []
