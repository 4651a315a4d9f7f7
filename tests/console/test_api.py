"""The JSON API: the documents of the commands, actions by an operator, and no request that breaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from happened import OPERATOR, PREDICTION, RELEASE, client, served

from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    import httpx

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/api/rollouts", "rollout history"),
        ("/api/rollouts/o-1a", "rollout status o-1a"),
        ("/api/rollouts/o-0bad", "rollout status o-0bad"),
        ("/api/releases/" + RELEASE.id, f"release show {RELEASE.id}"),
        (f"/api/lineage/{PREDICTION}", f"why {PREDICTION}"),
        ("/api/lineage/version:3", "why version:3"),
    ],
)
def test_it_answers_what_the_command_prints(
    operator: httpx.Client, busy: Environment, cli: Cli, path: str, command: str
) -> None:
    """The same document, so a script may ask either."""
    assert operator.get(path).json() == cli(*command.split(), "--json", cwd=busy.project.root).json


def test_events_are_those_of_the_command_and_go_on_where_one_stopped(
    operator: httpx.Client, busy: Environment, cli: Cli
) -> None:
    """A page at a time, or one kind."""
    lines = cli("events", "--json", cwd=busy.project.root).lines
    found: list[Any] = []
    since = 0
    while len(found) < len(lines):
        page = operator.get("/api/events", params={"since": since, "most": 20}).json()
        found, since = found + page["events"], page["next"]
    assert found == lines
    assert operator.get("/api/events", params={"since": since}).json()["events"] == []
    frozen = operator.get("/api/events", params={"kind": "frozen"}).json()["events"]
    assert [one["kind"] for one in frozen] == ["frozen"]


def test_status_says_where_everything_stands(operator: httpx.Client) -> None:
    """In one document."""
    document = operator.get("/api/status").json()
    assert (document["kind"], document["model"], document["champion"]["version"]) == ("status", "demand", 1)
    assert (document["rollout"]["id"], document["window"]["lost"], document["up"]) == ("o-1a2b", True, False)
    windows = operator.get("/api/windows", params={"most": 3}).json()["windows"]
    assert len(windows) == 3
    assert windows[-1] == {**document["window"], "report": windows[-1]["report"]}
    assert windows[-1]["report"]["kind"] == "drift"
    assert operator.get("/api/rollouts/o-1a/report").json()["kind"] == "report"
    assert [one["version"] for one in operator.get("/api/releases").json()["releases"]] == [1, 2, 3]


def test_promote_and_abort_by_a_program(operator: httpx.Client, busy: Environment) -> None:
    """With the actor in the ledger; a step that has passed, or a rollout that is over, is a conflict."""
    passed = operator.post("/api/rollouts/o-1a2b/promote", json={"reason": "looks good", "step": 0})
    assert (passed.status_code, passed.json()["weight"]) == (200, 20)
    late = operator.post("/api/rollouts/o-1a2b/promote", json={"reason": "looks good", "step": 0})
    assert (late.status_code, "went on to 20 %" in late.json()["message"]) == (409, True)
    full = operator.post("/api/rollouts/o-1a2b/promote", json={"reason": "a rush", "full": True})
    assert (full.json()["state"], busy.state().champion) == ("promoted", "r-2")
    over = operator.post("/api/rollouts/o-1a2b/abort", json={"reason": "too late"})
    assert (over.status_code, "is over" in over.json()["message"]) == (409, True)
    kinds = [(one.kind, one.actor) for one in busy.ledger.events()[-2:]]
    assert kinds == [("step_passed", "operator@console"), ("promoted", "operator@console")]


def test_an_older_rollout_is_not_confused_with_the_one_that_runs(operator: httpx.Client, busy: Environment) -> None:
    """Whoever aborts what is over must not hit what runs."""
    answer = operator.post("/api/rollouts/o-0bad/abort", json={"reason": "again"})
    assert (answer.status_code, "o-0bad is over" in answer.json()["message"]) == (409, True)
    assert busy.state().open_rollout is not None


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/rollouts/o-9", 404),
        ("/api/rollouts/o-", 404),
        ("/api/releases/r-nothing", 404),
        ("/api/lineage/nothing", 404),
        ("/api/lineage/planet:9", 404),
        ("/api/windows?most=0", 422),
        ("/api/events?since=-1", 422),
        ("/api/nothing", 404),
    ],
)
def test_what_is_not_there_is_told_in_json(operator: httpx.Client, path: str, status: int) -> None:
    """With what to do about it."""
    answer = operator.get(path)
    assert (answer.status_code, answer.json()["kind"]) == (status, "error")
    assert answer.json()["message"]


def test_what_is_no_number_is_null(operator: httpx.Client, busy: Environment) -> None:
    """A verdict may hold infinity and a report NaN; JSON holds neither."""
    newest = busy.state().windows[-1].report
    busy.store.write(
        f"{newest}/drift.json", b'{"kind": "drift", "share": NaN, "columns": [{"name": "a", "value": Infinity}]}'
    )
    report = operator.get("/api/windows").json()["windows"][-1]["report"]
    assert (report["share"], report["columns"][0]["value"]) == (None, None)
    assert operator.get("/drift").status_code == 200
    assert "Infinity" not in operator.get("/metrics").text


def test_the_description_names_every_request_and_how_to_log_in(operator: httpx.Client) -> None:
    """For client generators, and for people without a library from elsewhere."""
    schema = operator.get("/api/openapi.json").json()
    assert {"/api/status", "/api/rollouts/{rollout}/promote", "/labels", "/outcomes"} <= set(schema["paths"])
    assert "HTTPBearer" in schema["components"]["securitySchemes"]
    assert all(
        "description" in one for methods in schema["paths"].values() for one in methods.values() if "tags" in one
    )
    page = operator.get("/api/docs").text
    assert all(path in page for path in schema["paths"])


@pytest.mark.slow
def test_no_generated_request_breaks_it(busy: Environment) -> None:
    """Schemathesis makes requests of the description, good and bad ones: never a 500, never an undescribed answer."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import status_code_conformance

    quick = settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seen: Counter[int] = Counter()
    with served(busy) as address, client(address, OPERATOR) as asking:
        schema = schemathesis.openapi.from_dict(asking.get("/api/openapi.json").json())

        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=address, headers={"authorization": f"Bearer {OPERATOR}"})
            seen[answer.status_code] += 1
            case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])

        for found in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                requests = found.ok().as_strategy(generation_mode=mode)
                quick(given(case=requests)(check))()
        assert asking.get("/healthz").status_code == 200
    assert seen[200] > 20, seen
    assert seen[404] + seen[422] > 20, seen
