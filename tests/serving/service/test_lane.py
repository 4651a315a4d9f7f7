"""The HTTP face of a model, without a socket: what callers send and what they get."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.serving.service.batch import Batcher
from tidegate.serving.service.lane import Lane, prediction_id
from tidegate.serving.service.model import Answer


def test_served_predictions_are_those_of_the_python_model(served: Any, odd: Any, maker: Any) -> None:
    """All 600 rows in one request, and each of the first 50 alone: same labels, same probabilities."""
    native = odd.estimator.predict_proba(maker.inputs(odd.columns, odd.frame))
    whole = served.predict(*served.rows).json
    assert np.allclose(whole["probabilities"], native, atol=1e-5)
    assert whole["predictions"] == odd.estimator.predict(maker.inputs(odd.columns, odd.frame)).tolist()
    for index, row in enumerate(served.rows[:50]):
        alone = served.predict(row).json
        assert alone["predictions"] == whole["predictions"][index : index + 1]
        assert np.allclose(alone["probabilities"], whole["probabilities"][index : index + 1], atol=1e-6)


def test_batched_and_single_answers_are_equal_under_load(served: Any, ask: Any) -> None:
    """200 concurrent requests get exactly what each gets alone, each with an id of its own."""

    async def load() -> list[Any]:
        bodies = [json.dumps({"rows": [row]}).encode() for row in served.rows[:60]]
        return await asyncio.gather(*(ask(served.lane, "POST", "/predict", body) for body in bodies))

    before = served.lane._batcher.counts.inline
    replies = served.run(load())
    assert served.lane._batcher.counts.inline - before < 10
    assert [reply.json for reply in replies] == [served.predict(row).json for row in served.rows[:60]]
    assert len({reply.headers["x-tidegate-prediction-id"] for reply in replies}) == 60


def test_the_headers_name_prediction_version_release_arm_and_request(served: Any) -> None:
    """The id is a UUID of the server's own; the caller's request id comes back."""
    reply = served.predict(served.rows[0], x_tidegate_arm="canary", x_request_id="abc", x_tidegate_prediction_id="mine")
    assert reply.status == 200
    assert uuid.UUID(reply.headers["x-tidegate-prediction-id"]).version == 4
    assert reply.headers["x-tidegate-version"] == "3"
    assert reply.headers["x-tidegate-release"] == "r-1234567890"
    assert reply.headers["x-tidegate-arm"] == "canary"
    assert reply.headers["x-request-id"] == "abc"


@pytest.mark.parametrize(
    "answer",
    [
        Answer([None], None),
        Answer([float("nan")], None),
        Answer([1.0, float("inf")], None),
        Answer([1], [[0.5, float("nan")]]),
    ],
)
def test_an_answer_without_a_prediction_says_so_to_the_gateway(
    served: Any, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """JSON shows null where there is no number, with status 200; the judge can count it by the header."""

    async def submit(_rows: Any, _shadow: bool) -> Answer:
        return answer

    assert "x-tidegate-invalid-output" not in served.predict(served.rows[0]).headers
    monkeypatch.setattr(served.lane._batcher, "submit", submit)
    reply = served.predict(served.rows[0])
    assert (reply.status, reply.headers["x-tidegate-invalid-output"]) == (200, "1")


def test_prediction_ids_are_random_uuids() -> None:
    """Version 4, as the standard library reads them."""
    made = [uuid.UUID(prediction_id().decode()) for _ in range(1000)]
    assert {one.version for one in made} == {4}
    assert {one.variant for one in made} == {uuid.RFC_4122}
    assert len(set(made)) == 1000


def test_bad_rows_get_422_with_every_path(served: Any) -> None:
    """And an id, so that the request can be found in the log."""
    reply = served.predict(served.rows[0], {**served.rows[1], "class": "x", "2nd": None})
    assert reply.status == 422
    assert {error["path"] for error in reply.json["errors"]} == {"rows[1].class", 'rows[1]["2nd"]'}
    assert "x-tidegate-prediction-id" in reply.headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b'{"rows":[]}', {}, 422),
        (b"x" * 1_000_001, {}, 413),
        (b"{}", {"content_length": "99999999"}, 413),
        (b"{}", {"content_type": "text/plain"}, 415),
        (b"{}", {"content_encoding": "gzip"}, 415),
    ],
)
def test_bad_requests_have_their_status(served: Any, body: bytes, headers: dict[str, str], status: int) -> None:
    """Each with a JSON body that says what to change."""
    for path in ("/predict", "/v2/models/demand/infer"):
        reply = served("POST", path, body, **headers)
        assert reply.status == status, path
        assert reply.json["errors"][0]["message"]


def test_the_open_inference_protocol_gives_the_same_answers(served: Any) -> None:
    """Columns in, columns out."""
    rows = served.rows[:7]
    answer, plain = served.infer(rows).json, served.predict(*rows).json
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("demand", "3", "seven")
    labels, scores = answer["outputs"]
    assert (labels["datatype"], labels["shape"], labels["data"]) == ("BOOL", [7], plain["predictions"])
    assert scores["shape"] == [7, 2]
    assert np.allclose(np.reshape(scores["data"], (7, 2)), plain["probabilities"])
    described = served("GET", "/v2/models/demand").json
    assert [entry["name"] for entry in described["inputs"]] == list(rows[0])
    assert served("GET", "/v2/models/demand/ready").json == {"ready": True}
    assert served("GET", "/v2/health/live").json == {"live": True}


def test_wrong_paths_and_methods_are_told_so(served: Any) -> None:
    """404 and 405, not BentoML's page."""
    assert served("POST", "/v2/models/other/infer").status == 404
    assert served("GET", "/predict").status == 405
    assert served("GET", "/nothing").status == 404


def test_a_server_that_is_not_ready_says_so_and_answers_nothing(ask: Any) -> None:
    """Live, not ready, 503 with Retry-After; after a failed load the reason is told."""

    async def story() -> None:
        lane = Lane()
        assert (await ask(lane, "GET", "/healthz")).status == 200
        assert (await ask(lane, "GET", "/readyz")).json == {"status": "loading"}
        early = await ask(lane, "POST", "/predict", b"{}")
        assert (early.status, early.headers["retry-after"]) == (503, "1")
        lane.failure = "The model answers [1] where packaging recorded [0]."
        assert (await ask(lane, "GET", "/readyz")).json == {"status": lane.failure}

    asyncio.run(story())


def test_more_requests_than_allowed_are_turned_away(served: Any, ask: Any) -> None:
    """65 at once with a limit of 64: one gets 503 and Retry-After, nobody else notices."""

    async def flood() -> list[Any]:
        body = json.dumps({"rows": served.rows[:1]}).encode()
        return await asyncio.gather(*(ask(served.lane, "POST", "/predict", body) for _ in range(65)))

    replies = served.run(flood())
    assert sorted(reply.status for reply in replies) == [200] * 64 + [503]


def test_a_model_that_is_too_slow_gets_504(served: Any, ask: Any) -> None:
    """After serve.timeout, not after the model."""

    async def story() -> Any:
        lane = Lane()

        def slow(rows: Any, _shadow: bool) -> Any:
            import time

            time.sleep(0.3)
            return served.model.predict(rows)

        batcher = Batcher(slow, 0.05)
        lane.serve(served.model, batcher)
        reply = await ask(lane, "POST", "/predict", json.dumps({"rows": served.rows[:1]}).encode())
        batcher.close()
        return reply

    assert asyncio.run(story()).status == 504


def test_a_model_that_raises_gets_500_without_its_inside(
    served: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller reads a sentence, the log has the traceback."""

    async def story() -> Any:
        lane = Lane()

        def broken(_rows: Any, _shadow: bool) -> Any:
            raise RuntimeError("secret: /home/ada")

        lane.serve(served.model, Batcher(broken, 1.0))
        return await ask(lane, "POST", "/predict", json.dumps({"rows": served.rows[:1]}).encode())

    reply = asyncio.run(story())
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert "secret" in caplog.text


def test_an_answer_that_is_no_json_is_a_failure_like_any_other(served: Any, ask: Any) -> None:
    """A hook returned numpy's integers: 500 with a reason, and counted as such."""
    lane = Lane()

    async def story() -> Any:
        lane.serve(served.model, Batcher(lambda rows, _: Answer([np.int64(1)] * len(rows)), 1.0))
        return await ask(lane, "POST", "/predict", json.dumps({"rows": served.rows[:1]}).encode())

    assert asyncio.run(story()).status == 500
    assert lane.metrics.requests == {(500, ""): 1}


def test_metrics_count_requests_by_status_and_arm(served: Any) -> None:
    """In Prometheus' text format, with rows and the histogram's total."""
    served.predict(served.rows[0], x_tidegate_arm="stable")
    served.predict({}, x_tidegate_arm="stable")
    served.predict(served.rows[0], x_tidegate_arm="an invented arm")
    page = served("GET", "/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert int(values['tidegate_requests_total{status="200",arm="stable"}']) >= 1
    assert int(values['tidegate_requests_total{status="422",arm="stable"}']) >= 1
    assert "invented" not in page
    total = sum(int(value) for name, value in values.items() if name.startswith("tidegate_requests_total"))
    assert int(values["tidegate_request_seconds_count"]) == total
    assert values["tidegate_in_flight"] == "0"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(["class", "a b.c", "città", "2nd", "label", "probabilities", "", "clas"])
_bodies = (
    st.binary(max_size=60)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.lists(st.dictionaries(_names, _json, max_size=8), max_size=3).map(
        lambda rows: json.dumps({"rows": rows}).encode()
    )
    | st.lists(
        st.fixed_dictionaries({"name": _names, "shape": _json, "datatype": st.just("FP64"), "data": _json}), max_size=7
    ).map(lambda inputs: json.dumps({"inputs": inputs}).encode())
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_bodies, path=st.sampled_from(["/predict", "/v2/models/demand/infer"]))
def test_no_body_makes_a_500(served: Any, body: bytes, path: str) -> None:
    """Fuzzed: every answer is 200 or says what is wrong with the request."""
    reply = served("POST", path, body)
    assert reply.status in {200, 400, 413, 415, 422}, body
    json.loads(reply.body)


_right = st.fixed_dictionaries(
    {
        "class": st.floats(-3.4e38, 3.4e38),
        "a b.c": st.integers(-(2**63), 2**63 - 1),
        "città": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "2nd": st.booleans(),
        "label": st.floats(-3.4e38, 3.4e38),
        "probabilities": st.none() | st.floats(-3.4e38, 3.4e38),
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_right, min_size=1, max_size=4))
def test_every_right_row_gets_a_finite_probability(served: Any, rows: list[dict[str, Any]]) -> None:
    """The largest numbers and any text included."""
    reply = served.predict(*rows)
    assert reply.status == 200, reply.body
    assert np.isfinite(reply.json["probabilities"]).all()
