"""The judge over HTTP: who may ask, what is answered, and that neither a kill nor a broken store changes a verdict."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from cluster_gateway import cluster, envoy, gateway_config, patched, pods
from fakes import MemoryStore

from tidegate.console.judge import MAX_BODY, Tokens, create_judge
from tidegate.console.judge_desk import Desk
from tidegate.core.errors import UsageError
from tidegate.core.store import Store, StoreError, open_store
from tidegate.registry.ledger import Draft, Ledger
from tidegate.registry.state import deciding, fold, start
from tidegate.rollouts.inline_plan import inline_plan
from tidegate.serving.deploy.local import free_port
from tidegate.serving.gateway.sticky import StickyRoute, otlp_access_log, sticky_documents

SECRET = "judge-token-0123456789"
LOG_SECRET = "log-token-0123456789"
ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}
PLAN: dict[str, Any] = {"unit": "request", "steps": [10, 50], "step": {"min": "2m"}, "guardrails": [ERRORS]}
CASE: dict[str, Any] = {"rollout": "fraud", "experiment": "u-1", "stable": "s1", "canary": "c1"}
ASK: dict[str, Any] = {**CASE, "weight": "10", "plan": PLAN}
KEY = "u-1.c1"


@contextlib.contextmanager
def judging(store: Store, *, secret: str = SECRET) -> Iterator[httpx.Client]:
    """The app on a real port, and who asks it."""
    tokens = Tokens({"TIDEGATE_JUDGE_TOKEN": SECRET, "TIDEGATE_JUDGE_LOG_TOKEN": LOG_SECRET})
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_judge(Desk(store), tokens), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "it does not start"
            time.sleep(0.01)
        headers = {"authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


def counts(minute: int, bad: float = 1.0, weight: int = 10, key: str = KEY) -> list[dict[str, Any]]:
    """A block of 6,000 users, of whom 0.5 % fail on the stable arm."""
    rng, n1 = np.random.default_rng(minute), 60 * weight
    made = []
    for arm, n, rate in (("canary", n1, 0.005 * bad), ("stable", 6000 - n1, 0.005)):
        line = {"rollout": key, "minute": minute, "arm": arm, "metric": "error_rate", "n": n, "weight": weight}
        made.append({**line, "x": int(rng.binomial(n, rate))})
    return made


def verdict(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/verdicts", json=ASK | changes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["verdict"]
    return found


def test_argo_gets_its_three_words_as_a_small_map() -> None:
    """`continue` without data, `promote` and `rollback` with it; what an AnalysisTemplate compares is `decision`."""
    with judging(MemoryStore()) as client:
        first = verdict(client)
        assert set(first) == {"decision", "reason", "log_e", "n_stable", "n_canary", "ci_low", "ci_high"}
        assert first["decision"] == "continue"
        for minute in range(10):
            assert client.post("/v1/blocks", json=counts(minute)).json() == {"kind": "blocks", "new": 2, "known": 0}
        assert verdict(client)["decision"] == "promote"
        harmed = {"canary": "c2"}
        assert verdict(client, **harmed)["n_canary"] == 0
        lines = "".join(json.dumps(one) + "\n" for minute in range(10) for one in counts(minute, 5, key="u-1.c2"))
        sent = client.post("/v1/blocks", content=lines, headers={"content-type": "application/x-ndjson"})
        assert sent.json()["new"] == 20
        assert verdict(client, **harmed)["decision"] == "rollback"
        guard = client.post("/v1/guard", json=CASE | harmed | {"plan": PLAN}).json()["verdict"]
        assert (guard["decision"], len(json.dumps(guard)) < 1000) == ("rollback", True)


def test_nothing_is_answered_without_the_token_and_no_answer_repeats_what_was_sent() -> None:
    """Argo stores answers in the cluster, where others read them."""
    secret = "leak-me-0123456789abcdef"
    with judging(MemoryStore(), secret=secret) as client:
        answers = [client.post(path, json=ASK) for path in ("/v1/verdicts", "/v1/guard", "/v1/blocks", "/v1/logs")]
        answers += [client.get("/openapi.json"), client.post("/nothing", headers={"authorization": secret})]
        assert {one.status_code for one in answers} == {401}
        assert {one.headers["www-authenticate"] for one in answers} == {"Bearer"}
    with judging(MemoryStore()) as client:
        wrong = {"x-more": secret, "cookie": secret}
        answers += [
            client.post("/v1/verdicts", json=ASK | {"weight": secret}, headers=wrong),
            client.post("/v1/verdicts", content=secret, headers=wrong),
            client.post("/v1/verdicts", json=ASK | {"plan": {secret: 1}}, headers=wrong),
            client.post("/v1/blocks", content=secret, headers=wrong | {"content-type": "application/json"}),
            client.post("/v1/logs", content=secret, headers=wrong | {"content-type": "application/x-protobuf"}),
            client.post("/v1/logs", content=secret, headers=wrong | {"content-type": "text/plain"}),
        ]
        assert [one.status_code for one in answers[6:]] == [422, 422, 422, 422, 422, 415]
    assert not [one.text for one in answers if secret in one.text and "plan" not in one.text]
    assert not [one for one in answers if secret in str(one.headers)]


def test_the_logs_token_opens_the_log_and_nothing_else() -> None:
    """A gateway's configuration is read by more people than a secret is."""
    with judging(MemoryStore(), secret=LOG_SECRET) as client:
        sent = client.post("/v1/logs", json={})
        assert (sent.status_code, sent.json()) == (200, {})
        assert client.post("/v1/verdicts", json=ASK).status_code == 401


def test_a_token_comes_from_a_file_that_may_be_replaced(tmp_path: Path) -> None:
    """As a mounted secret is, when it is rotated; none, or a short one, is no token."""
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    tokens = Tokens({"TIDEGATE_JUDGE_TOKEN_FILE": str(file)})
    assert tokens.allows(f"Bearer {SECRET}", "/v1/verdicts")
    file.write_text("another-token-0123456789")
    os.utime(file, ns=(1, 1))
    assert tokens.allows("bearer another-token-0123456789", "/v1/verdicts")
    assert not tokens.allows(f"Bearer {SECRET}", "/v1/verdicts")
    file.unlink()
    assert not tokens.allows("Bearer ", "/v1/verdicts")
    for variables in ({}, {"TIDEGATE_JUDGE_TOKEN": "short"}):
        with pytest.raises(UsageError):
            Tokens(variables)


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """Also one that is only large when it is unpacked."""
    with judging(MemoryStore()) as client:
        assert client.post("/v1/verdicts", content=b"x" * 70_000).status_code == 413
        assert client.post("/v1/blocks", content=b"x" * (MAX_BODY["/v1/blocks"] + 1)).status_code == 413
        bomb = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
        packed = gzip.compress(bytes(MAX_BODY["/v1/logs"] + 1))
        assert client.post("/v1/logs", content=packed, headers=bomb).status_code == 422


def test_a_contradiction_names_its_line_and_lines_of_nobody_are_to_be_sent_again() -> None:
    """409 and 422, and what was taken stays as it was."""
    with judging(MemoryStore()) as client:
        assert client.post("/v1/blocks", json=counts(0)).status_code == 422
        verdict(client)
        client.post("/v1/blocks", json=counts(0))
        before = verdict(client)
        assert client.post("/v1/blocks", json=counts(0)).json()["known"] == 2
        other = client.post("/v1/blocks", json=[counts(0)[0], {**counts(0)[1], "x": 4000}])
        assert (other.status_code, "Line 2" in other.json()["message"]) == (409, True)
        assert verdict(client) == before


class Broken(MemoryStore):
    """A store that nobody can read for a while."""

    down = False

    def read(self, path: str) -> bytes:
        if self.down:
            raise StoreError("Cannot read.")
        return super().read(path)

    def write(self, path: str, content: bytes) -> None:
        if self.down:
            raise OSError("disk")
        super().write(path, content)

    def exists(self, path: str) -> bool:
        if self.down:
            raise StoreError("Cannot read.")
        return super().exists(path)


def test_only_a_store_that_cannot_be_used_is_503() -> None:
    """Then nothing was decided, and the next answer is what it would have been."""
    store = Broken()
    with judging(store) as client:
        verdict(client)
        store.down = True
        assert client.post("/v1/blocks", json=counts(0)).status_code == 503
        assert client.post("/v1/verdicts", json=ASK | {"canary": "c9"}).status_code == 503
        assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)
        store.down = False
        assert client.post("/v1/blocks", json=counts(0)).json()["new"] == 2
        assert verdict(client)["n_canary"] == 600
        assert client.get("/readyz").status_code == 200
        assert 'what="verdict continue"' in client.get("/metrics").text


def with_ledger(store: Store, plan: dict[str, Any] = PLAN) -> Ledger:
    """A champion, a challenger, and the rollout o-1 of it."""
    ledger = Ledger(store, "fraud.prod")
    for release, version in (("r-1", 1), ("r-2", 2)):
        data = {"release": release, "version": version, "run_id": "x"}
        ledger.append(lambda _, data=data: Draft("registered", data))
    ledger.append(lambda _: Draft("deployed", {"release": "r-1"}))
    ledger.append(deciding(start("r-2", inline_plan(plan, "o-1").to_dict(), 60.0, by_hand=False)))
    return ledger


OURS: dict[str, Any] = {**CASE, "model": "fraud", "environment": "prod", "id": "o-1", "weight": 10}


def test_with_a_ledger_the_plan_is_the_ledgers_and_steps_are_written_into_it() -> None:
    """A plan in the request is then nobody's; another canary under the same id is never promoted."""
    store = MemoryStore()
    ledger = with_ledger(store)
    with judging(store) as client:
        for minute in range(10):
            client.post("/v1/verdicts", json=OURS | {"plan": {"nonsense": 1}})
            client.post("/v1/blocks", json=counts(minute, key="o-1"))
        assert client.post("/v1/verdicts", json=OURS).json()["verdict"]["decision"] == "promote"
        rollout = fold(ledger.events()).rollout
        assert rollout is not None
        assert (rollout.step, ledger.events()[-1].actor) == (1, "judge")
        third = client.post("/v1/verdicts", json=OURS | {"canary": "c3"}).json()["verdict"]
        assert (third["decision"], "another one was deployed" in third["reason"]) == ("continue", True)
        ledger.append(lambda _: Draft("aborted", {"rollout": "o-1", "reasons": ["no"]}))
        time.sleep(1.1)
        ended = client.post("/v1/verdicts", json=OURS).json()["verdict"]
        assert (ended["decision"], "aborted" in ended["reason"]) == ("rollback", True)
        assert client.post("/v1/verdicts", json=OURS | {"id": "o-9"}).status_code == 422


@pytest.mark.slow
def test_killed_in_the_middle_of_a_rollout_the_next_process_says_the_same(tmp_path: Path) -> None:
    """`kill -9` between a block and its verdict; the same words in the same minutes as one that was left alone."""
    said = []
    for kills in (set(), {2, 3, 6}):
        store = tmp_path / str(len(kills))
        with contextlib.ExitStack() as running:
            client = running.enter_context(process(store))
            words = [verdict(client)]
            for minute in range(8):
                assert client.post("/v1/blocks", json=counts(minute, 1.5)).status_code == 200
                if minute in kills:
                    running.close()
                    client = running.enter_context(process(store))
                    assert client.post("/v1/blocks", json=counts(minute, 1.5)).json()["known"] == 2
                words.append(verdict(client))
        said.append(words)
    assert said[0] == said[1]
    assert said[0][-1]["n_canary"] == 8 * 600


@contextlib.contextmanager
def process(store: Path) -> Iterator[httpx.Client]:
    """`tidegate serve judge`, killed when it is done with."""
    port, code = free_port(), "from tidegate.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "judge", "--store", str(store), "--port", str(port)]
    running = subprocess.Popen(command, env={**os.environ, "TIDEGATE_JUDGE_TOKEN": SECRET}, stdout=subprocess.DEVNULL)
    try:
        headers = {"authorization": f"Bearer {SECRET}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            for _ in range(1200):
                assert running.poll() is None, "it ended"
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/readyz").is_success:
                        break
                time.sleep(0.05)
            yield client
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait(10)


@pytest.mark.long
@pytest.mark.parametrize(
    ("canary", "decision", "told"),
    [
        (("2", 200), "promote", "The canary fails"),
        (("2", 500), "rollback", "to the canary failed"),
        (("1", 200), "continue", "answered by the other arm"),
    ],
)
def test_envoys_own_log_is_evidence(tmp_path: Path, canary: tuple[str, int], decision: str, told: str) -> None:
    """A real Envoy sends OTLP over HTTP to the judge; users, failures and a wrong arm's answers are found in it."""
    store = open_store(str(tmp_path / "store"))
    wide = ERRORS | {"harm": {"ratio": 1.1, "margin": 0.1}, "safe": {"ratio": 1.5, "margin": 0.3}}
    with_ledger(store, {"steps": [50], "step": {"min": "0s", "max": "2h"}, "block": "1s", "guardrails": [wide]})
    ours = OURS | {"weight": 50}
    with pods(*canary) as new, pods("1") as old, judging(store) as client:
        port = client.base_url.port or 0
        config = gateway_config(50, new, old)
        (_, sticky) = sticky_documents(StickyRoute("fraud", "prod", "tidegate", "o-1"))
        config["routes"] = patched(config["routes"], sticky["spec"]["jsonPatches"])
        config["clusters"].append(cluster("tidegate-judge", port))
        log = otlp_access_log("127.0.0.1", port, LOG_SECRET)
        assert client.post("/v1/guard", json=ours).json()["verdict"]["decision"] == "continue"
        with envoy(tmp_path, config, log=log) as at, httpx.Client(base_url=at) as users:
            for number in range(200):
                if number % 40 == 0:
                    client.post("/v1/verdicts", json=ours)
                for path in ("/predict", "/docs"):
                    users.get(path, headers={"x-user-id": f"user-{number}"})
            time.sleep(2)
            found: dict[str, Any] = {}
            for _ in range(100):
                found = client.post("/v1/verdicts", json=ours).json()["verdict"]
                if told in found["reason"]:
                    break
                time.sleep(0.2)
    assert (found["decision"], told in found["reason"]) == (decision, True), found
    if decision == "promote":
        assert 0 < found["n_canary"] + found["n_stable"] <= 200


@pytest.mark.slow
def test_no_generated_request_breaks_it() -> None:
    """Schemathesis makes requests of the description, good and bad ones: never a 500, never an undescribed answer."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import status_code_conformance

    quick = settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seen: Counter[int] = Counter()
    with judging(MemoryStore()) as client:
        verdict(client)
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())

        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=str(client.base_url), headers={"authorization": f"Bearer {SECRET}"})
            seen[answer.status_code] += 1
            case.validate_response(answer, checks=[not_a_server_error, status_code_conformance])

        for found in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                quick(given(case=found.ok().as_strategy(generation_mode=mode))(check))()
        assert verdict(client)["decision"] == "continue"
    assert seen[422] > 50, seen
    assert not [code for code in seen if code >= 500], seen
