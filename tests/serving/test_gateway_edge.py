"""What the gateway does for everybody: units without a header, forced arms, mirrors, keys and limits."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.assignment import assigned_arm
from tidegate.core.config import Config
from tidegate.core.errors import UsageError
from tidegate.serving.gateway import AccessLogReader, AccessRecord, Gateway, GatewaySettings, GatewayState, Upstream
from tidegate.serving.http_client import Answer, request_bytes

Make = Callable[..., Any]


@pytest.fixture
def arms(echo: Make) -> GatewayState:
    """A rollout at half of the traffic."""
    return GatewayState(echo("r-stable").upstream, echo("r-canary").upstream, rollout="ro-1", weight=50)


def arm(answer: Answer) -> str:
    return answer.header(b"x-tidegate-arm")


def minted(answer: Answer) -> str:
    cookies = SimpleCookie(answer.header(b"set-cookie"))
    return cookies["tg_uid"].value if "tg_uid" in cookies else ""


def logged(gateway: Gateway, count: int) -> list[AccessRecord]:
    reader, records, end = AccessLogReader(gateway.log), [], time.monotonic() + 10
    while len(records) < count and time.monotonic() < end:
        records += reader.read()
        time.sleep(0.05)
    return records


def test_a_client_without_a_header_gets_a_cookie_and_stays_on_its_arm(
    arms: GatewayState, new_gateway: Make, ask: Make
) -> None:
    """40 cookie clients: each minted id is unique, decides the arm at once, and keeps it."""
    gateway = new_gateway()
    gateway.start(arms)
    first = ask(gateway, [{}] * 40)
    ids = [minted(answer) for answer in first]
    assert len({*ids, ""}) == 41
    assert all(len(one) == 32 for one in ids)
    assert [arm(answer) for answer in first] == [assigned_arm("ro-1", one, 50) for one in ids]
    again = ask(gateway, [{"cookie": f"theme=dark; tg_uid={one}; lang=en"} for one in ids] * 3)
    assert [arm(answer) for answer in again] == [arm(answer) for answer in first] * 3
    assert {minted(answer) for answer in again} == {""}
    assert {record.unit for record in logged(gateway, 160)} == set(ids)


def test_the_header_wins_over_the_cookie(arms: GatewayState, new_gateway: Make, ask: Make) -> None:
    """A signed-in user is the same user on every device."""
    gateway = new_gateway()
    gateway.start(arms)
    headers = [{"x-user-id": "anna", "cookie": f"tg_uid=device-{device}"} for device in range(20)]
    assert {arm(answer) for answer in ask(gateway, headers)} == {assigned_arm("ro-1", "anna", 50)}


def test_other_names_of_header_and_cookie_work_the_same(arms: GatewayState, new_gateway: Make, ask: Make) -> None:
    """`rollout.unit` decides what names the user."""
    gateway = new_gateway(unit_header="X-Account", cookie="sid")
    gateway.start(arms)
    users = [f"user-{number}" for number in range(20)]
    expected = [assigned_arm("ro-1", user, 50) for user in users]
    assert [arm(answer) for answer in ask(gateway, [{"x-account": user} for user in users])] == expected
    assert [arm(answer) for answer in ask(gateway, [{"cookie": f"sid={user}"} for user in users])] == expected


@pytest.mark.parametrize("weight", [0, 100])
def test_a_forced_arm_works_at_any_weight_and_is_no_evidence(
    echo: Make, new_gateway: Make, ask: Make, weight: int
) -> None:
    """A person can look at either arm; the judge does not count it."""
    gateway = new_gateway()
    gateway.start(GatewayState(echo("r-stable").upstream, echo("r-canary").upstream, rollout="ro-1", weight=weight))
    answers = ask(gateway, [{"x-user-id": "me", "x-tidegate-force-arm": name} for name in ("canary", "stable")])
    assert [arm(answer) for answer in answers] == ["canary", "stable"]
    assert {(record.kind, record.counts) for record in logged(gateway, 2)} == {("forced", False)}


def test_forcing_what_is_not_there_is_refused(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Answering from the other arm would be a lie."""
    gateway = new_gateway()
    gateway.start(GatewayState(echo("r-stable").upstream))
    answers = ask(gateway, [{"x-tidegate-force-arm": "canary"}, {"x-tidegate-force-arm": "canry"}])
    assert [answer.status for answer in answers] == [409, 400]
    assert "no canary" in answers[0].json()["error"]


def test_the_service_is_told_its_arm_and_a_client_cannot_fake_it(echo: Make, new_gateway: Make, ask: Make) -> None:
    """x-tidegate-arm comes from the gateway alone."""
    stable = echo("r-stable")
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream))
    ask(gateway, [{"x-user-id": "mallory", "x-tidegate-arm": "canary"}])
    assert stable.heads[0].count(b"x-tidegate-arm") == 1
    assert b"x-tidegate-arm: stable" in stable.heads[0]


def test_a_shadow_sees_every_prediction_and_its_answers_are_dropped(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Mirroring costs the client nothing, even if the shadow fails."""
    stable, shadow = echo("r-stable"), echo("r-shadow")
    shadow.status = 500
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream, shadow=shadow.upstream))
    answers = ask(gateway, [{"x-user-id": f"user-{number}"} for number in range(100)])
    assert {(answer.status, answer.header(b"x-tidegate-version")) for answer in answers} == {(200, "r-stable")}
    end = time.monotonic() + 5
    while len(shadow.heads) < 100 and time.monotonic() < end:
        time.sleep(0.02)
    assert len(shadow.heads) == 100
    assert all(b"x-tidegate-arm: shadow" in head for head in shadow.heads)
    assert len(logged(gateway, 100)) == 100


def pair(head: bytes) -> list[str]:
    """Rollout, id and unit of the header that names a pair, if the request has one."""
    found = [line for line in head.split(b"\r\n") if line.startswith(b"x-tidegate-pair:")]
    assert len(found) <= 1
    return found[0].decode().split(" ")[1:] if found else []


def test_a_copy_and_its_original_carry_the_same_name_that_no_client_can_choose(
    echo: Make, new_gateway: Make, ask: Make
) -> None:
    """Also when a client sends one request id for everything; nobody is routed to the canary that gets the copies."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    shadowed = GatewayState(stable.upstream, canary.upstream, canary.upstream, rollout="ro-1", weight=0)
    gateway.start(shadowed)
    forged = {"x-request-id": "mine", "x-tidegate-pair": "ro-1 mine user"}
    ask(gateway, [{"x-user-id": f"user-{number}", **forged} for number in range(50)])
    end = time.monotonic() + 5
    while len(canary.heads) < 50 and time.monotonic() < end:
        time.sleep(0.02)
    originals, copies = ([pair(head) for head in one.heads] for one in (stable, canary))
    assert sorted(originals) == sorted(copies)
    assert {(rollout, unit) for rollout, _, unit in originals} == {("ro-1", f"user-{n}") for n in range(50)}
    assert len({name for _, name, _ in originals} | {"mine"}) == 51
    assert {(record.arm, record.weight) for record in logged(gateway, 50)} == {("stable", 0)}


def test_without_copies_no_request_is_marked(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Nor is what is never copied; a client's own header goes no further."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    forged = {"x-user-id": "anna", "x-tidegate-pair": "ro-1 mine user"}
    gateway.start(GatewayState(stable.upstream, canary.upstream, rollout="ro-1", weight=0))
    ask(gateway, [forged])
    gateway.apply(GatewayState(stable.upstream, canary.upstream, canary.upstream, rollout="ro-1", weight=0))
    ask(gateway, [forged], path="/docs")
    ask(gateway, [forged], method="GET", path="/healthz", body=b"")
    ask(gateway, [{**forged, "x-tidegate-force-arm": "canary"}])
    assert [pair(head) for head in stable.heads + canary.heads] == [[]] * 4


def test_only_predictions_are_evidence(arms: GatewayState, new_gateway: Make, ask: Make) -> None:
    """Health, metrics and documentation are fast and never fail: they would dilute an error rate."""
    gateway = new_gateway()
    gateway.start(arms)
    for path in ("/predict", "/v2/models/demand/infer", "/v2/models/demand", "/healthz", "/metrics", "/docs"):
        assert ask(gateway, [{"x-user-id": "anna"}], path=path)[0].status == 200
    counted = {record.path for record in logged(gateway, 6) if record.counts}
    assert counted == {"/predict", "/v2/models/demand/infer"}


def test_without_a_model_the_gateway_says_what_to_do(new_gateway: Make, ask: Make) -> None:
    """`up` before the first `ship` is no crash."""
    gateway = new_gateway()
    gateway.start(GatewayState(None))
    answer = ask(gateway, [{}])[0]
    assert (answer.status, answer.json()) == (503, {"error": "No model is deployed yet. Run `tidegate ship`."})


def test_api_keys_keep_strangers_out_and_stay_secret(echo: Make, new_gateway: Make, ask: Make) -> None:
    """401 without a key; health is open; the key reaches neither service, log, config dump nor other users."""
    stable = echo("r-stable")
    gateway = new_gateway(api_keys=("sesame-1", "sesame-2"))
    gateway.start(GatewayState(stable.upstream))
    headers = [{}, {"x-api-key": "wrong"}, {"x-api-key": "sesame-1"}, {"authorization": "Bearer sesame-2"}]
    assert [answer.status for answer in ask(gateway, headers)] == [401, 401, 200, 200]
    assert ask(gateway, [{}], method="GET", path="/healthz", body=b"")[0].status == 200
    assert all(b"sesame" not in head for head in stable.heads)
    assert len(logged(gateway, 5)) == 5
    assert "sesame" not in gateway.log.read_text() + (gateway.folder / "envoy.log").read_text()
    assert "sesame" not in gateway._connected()._ask("GET", "/config_dump")
    assert "sesame" not in repr(gateway.settings)
    assert (gateway.folder / "bootstrap.json").stat().st_mode & 0o077 == 0


def test_refusals_at_the_edge_are_not_held_against_an_arm(echo: Make, new_gateway: Make, ask: Make) -> None:
    """401, 413 and 429 are the gateway's own answers, as JSON, and no arm is asked."""
    stable = echo("r-stable")
    gateway = new_gateway(rate_limit=5, max_body=1000)
    gateway.start(GatewayState(stable.upstream))
    big = ask(gateway, [{"x-user-id": "big"}], body=b"x" * 1001)[0]
    assert (big.status, big.json()["error"]) == (413, "The body is larger than serve.max_body, 1,000 bytes.")
    answers = ask(gateway, [{"x-user-id": "eager"}] * 30)
    refused = [answer for answer in answers if answer.status == 429]
    assert 10 <= len(refused) <= 26
    assert refused[0].header(b"retry-after") == "1"
    assert "error" in json.loads(refused[0].body)
    assert sum(record.attempted for record in logged(gateway, 31)) == len(stable.heads) == 30 - len(refused)


@pytest.mark.parametrize("path", ["/docs.json", "/schema.json"])
def test_nobody_makes_a_model_import_bentoml_through_the_gateway(
    echo: Make, new_gateway: Make, ask: Make, path: str
) -> None:
    """Its documentation is the model's own port's to give: the first to ask would slow users for seconds."""
    stable = echo("r-stable")
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream))
    answer = ask(gateway, [{"x-tidegate-force-arm": "stable"}], method="GET", path=path, body=b"")[0]
    assert (answer.status, "tidegate ps" in answer.json()["error"]) == (404, True)
    assert stable.heads == []


def test_the_log_tells_which_answers_are_no_predictions(echo: Make, new_gateway: Make, ask: Make) -> None:
    """By the header that the service gives them."""
    stable = echo("r-stable")
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream))
    ask(gateway, [{"x-user-id": "anna"}])
    stable.more = "x-tidegate-invalid-output: 1\r\n"
    ask(gateway, [{"x-user-id": "ben"}])
    assert {record.unit: record.invalid for record in logged(gateway, 2)} == {"anna": False, "ben": True}


def test_a_service_that_hangs_is_a_failed_attempt(echo: Make, new_gateway: Make, ask: Make) -> None:
    """The gateway answers 504 a little after serve.timeout and blames the arm, once: there is no retry."""
    stable = echo("r-stable")
    stable.delay = 5.0
    gateway = new_gateway(timeout=0.2)
    gateway.start(GatewayState(stable.upstream))
    began = time.monotonic()
    assert ask(gateway, [{"x-user-id": "anna"}])[0].status == 504
    assert time.monotonic() - began < 4.5
    (record,) = logged(gateway, 1)
    assert (record.failed, record.counts, record.arm, record.flags) == (True, True, "stable", ("UT",))
    assert len(stable.heads) == 1


def test_a_client_that_gives_up_waiting_is_logged_as_such(echo: Make, new_gateway: Make) -> None:
    """Clients leave slow answers: the record keeps how long they waited, and for which arm."""
    stable = echo("r-stable")
    stable.delay = 5.0
    gateway = new_gateway(timeout=10.0)
    gateway.start(GatewayState(stable.upstream))
    with socket.create_connection((gateway.settings.host, gateway.settings.port)) as client:
        client.sendall(request_bytes("POST", "/predict", {"host": "test", "x-user-id": "anna"}, b"{}"))
        time.sleep(0.5)
    (record,) = logged(gateway, 1)
    assert (record.left, record.counts, record.failed, record.arm) == (True, True, False, "stable")
    assert 0.4 < record.seconds < 4.5


def test_the_settings_come_from_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys are resolved from their reference; an empty reference is an error, never an open door."""
    document = {
        "version": 1,
        "model": "m",
        "data": {"path": "d.csv", "target": "y"},
        "serve": {"auth": {"api_keys": "env:KEYS"}, "rate_limit": {"requests_per_second": 7}, "timeout": "2s"},
    }
    config = Config.model_validate(document)
    monkeypatch.setenv("KEYS", "a, b,\nc,a")
    settings = GatewaySettings.from_config(config, tmp_path)
    assert (settings.api_keys, settings.rate_limit, settings.timeout) == (("a", "b", "c"), 7, 2.0)
    monkeypatch.setenv("KEYS", ",")
    with pytest.raises(UsageError, match="no key"):
        GatewaySettings.from_config(config, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GatewayState(None, Upstream("r", 1)),
        lambda: GatewayState(Upstream("r", 1), weight=5),
        lambda: GatewayState(Upstream("r", 1), Upstream("s", 2), weight=101),
        lambda: GatewayState(Upstream("r", 1), rollout="a/b"),
        lambda: GatewayState(Upstream("r", 1), rollout=r"\1"),
        lambda: Upstream("r 1", 80),
        lambda: Upstream("r", 70000),
        lambda: GatewaySettings(port=1, cookie='x"; os.exit()'),
        lambda: GatewaySettings(port=1, api_keys=("",)),
    ],
)
def test_a_state_that_cannot_be_is_refused(make: Callable[[], object]) -> None:
    """Nothing half-legal reaches Envoy."""
    with pytest.raises(UsageError):
        make()
