"""The split through a real Envoy: sticky, monotone, as the offline formula says, and never at the cost of a request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tidegate.core.assignment import assigned_arm
from tidegate.serving.gateway import AccessLogReader, AccessRecord, Gateway, GatewayState
from tidegate.serving.http_client import Answer
from tidegate.serving.route_check import binomial_bounds
from tidegate.serving.traffic import TrafficGenerator, TrafficPlan

Make = Callable[..., Any]
USERS = [f"user-{number}" for number in range(1000)]


def arm(answer: Answer) -> str:
    return answer.header(b"x-tidegate-arm")


def test_a_ramp_never_switches_a_user_and_only_grows_the_canary(echo: Make, new_gateway: Make, ask: Make) -> None:
    """1,000 users x 3 requests at each weight: sticky, monotone, within binomial bounds, equal to the formula."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream))
    before: set[str] = set()
    for weight in (0, 1, 5, 10, 25, 50, 100):
        gateway.apply(GatewayState(stable.upstream, canary.upstream, rollout="ro-1", weight=weight))
        answers = ask(gateway, [{"x-user-id": user} for user in USERS * 3])
        met: dict[str, set[str]] = {}
        for user, answer in zip(USERS * 3, answers, strict=True):
            met.setdefault(user, set()).add(arm(answer))
            assert answer.header(b"x-tidegate-version") == f"r-{arm(answer)}"
        assert met == {user: {assigned_arm("ro-1", user, weight)} for user in USERS}
        now = {user for user, arms in met.items() if arms == {"canary"}}
        assert before <= now
        low, high = binomial_bounds(len(USERS), weight / 100)
        assert low <= len(now) <= high
        before = now


def test_another_rollout_deals_the_users_anew(echo: Make, new_gateway: Make, ask: Make) -> None:
    """The salt changes who is first, so the same users do not carry every experiment."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    canaries = []
    for rollout in ("ro-1", "ro-2"):
        gateway.start(GatewayState(stable.upstream, canary.upstream, rollout=rollout, weight=20))
        answers = ask(gateway, [{"x-user-id": user} for user in USERS])
        canaries.append({user for user, answer in zip(USERS, answers, strict=True) if arm(answer) == "canary"})
    low, high = binomial_bounds(len(USERS), 0.04)
    assert low <= len(canaries[0] & canaries[1]) <= high


def test_a_user_name_of_any_alphabet_follows_the_formula(echo: Make, new_gateway: Make, ask: Make) -> None:
    """The hash is over the bytes that the client sent, and the log carries them unharmed."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    gateway.start(GatewayState(stable.upstream, canary.upstream, rollout="ro-1", weight=50))
    names = ["Zoë", "名前", 'quo"te', "back\\slash", "with space", "a,b", "x" * 3000]
    answers = ask(gateway, [{"x-user-id": name} for name in names])
    assert [arm(answer) for answer in answers] == [assigned_arm("ro-1", name, 50) for name in names]
    assert sorted(record.unit or "" for record in read_all(gateway, len(names))) == sorted(names)


def test_a_promote_and_a_rollback_under_load_drop_no_request(echo: Make, new_gateway: Make) -> None:
    """20,000 requests, 50 weight changes, a promote, a rollback, log rotations: no failure, each logged once."""
    first, second, third = echo("r-1"), echo("r-2"), echo("r-3")
    gateway = new_gateway(timeout=5.0)
    gateway.start(GatewayState(first.upstream))
    plan = TrafficPlan(gateway.address, [b'{"rows":[{}]}'], rps=2500, users_per_minute=20_000, requests=20_000)
    load = TrafficGenerator(plan)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    reader, records = AccessLogReader(gateway.log), []
    steps = [GatewayState(first.upstream, second.upstream, rollout="ro-1", weight=2 * step) for step in range(26)]
    steps.append(GatewayState(second.upstream, first.upstream, rollout="none", weight=0))  # promoted, the old one warm
    steps += [GatewayState(second.upstream, third.upstream, rollout="ro-2", weight=2 * step) for step in range(25)]
    steps.append(GatewayState(second.upstream, third.upstream, rollout="ro-2", weight=0))  # rolled back
    for number, state in enumerate(steps):
        gateway.apply(state)
        if number % 10 == 5:
            gateway.rotate(unread_from=reader.position.sequence, max_bytes=1000, keep=2)
        records += reader.read()
        while load.report.sent < 20_000 * (number + 1) / (len(steps) + 1):
            time.sleep(0.01)
    thread.join()
    report = load.report
    records += read_all(gateway, report.answered - len(records), reader)
    assert (report.answered, report.failed, dict(report.statuses)) == (20_000, 0, {200: 20_000})
    assert len(records) == len({record.prediction for record in records}) == report.answered
    assert reader.torn == 0
    wrong = [r for r in records if r.arm != assigned_arm(r.rollout or "", r.unit or "", r.weight or 0)]
    assert wrong == []
    assert Counter(record.version == record.release for record in records) == {True: report.answered}


def test_requests_in_flight_survive_a_promote(echo: Make, new_gateway: Make, ask: Make) -> None:
    """A slow answer that began on the old arm arrives although the routes moved on twice."""
    stable, canary = echo("r-1"), echo("r-2")
    stable.delay = 1.0
    gateway = new_gateway(timeout=3.0)
    gateway.start(GatewayState(stable.upstream))
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.extend(ask(gateway, [{}])))
    asking.start()
    time.sleep(0.3)
    gateway.apply(GatewayState(canary.upstream))
    gateway.apply(GatewayState(canary.upstream, rollout="later"))
    assert asking.is_alive()
    asking.join()
    assert [(answer.status, answer.header(b"x-tidegate-version")) for answer in answers] == [(200, "r-1")]


def test_a_dead_canary_fails_only_its_own_users_and_weight_zero_heals(echo: Make, new_gateway: Make, ask: Make) -> None:
    """The log blames the canary, stable users notice nothing, and weight 0 ends it at once."""
    stable, canary = echo("r-stable"), echo("r-canary")
    gateway = new_gateway()
    state = GatewayState(stable.upstream, canary.upstream, rollout="ro-1", weight=50)
    gateway.start(state)
    canary.kill()
    headers = [{"x-user-id": user} for user in USERS[:200]]
    answers = ask(gateway, headers)
    assert {(arm(answer), answer.status) for answer in answers} == {("stable", 200), ("canary", 503)}
    records = read_all(gateway, 200)
    assert {(record.arm, record.failed, record.counts) for record in records} == {
        ("stable", False, True),
        ("canary", True, True),
    }
    gateway.apply(GatewayState(stable.upstream, canary.upstream, rollout="ro-1", weight=0))
    assert {answer.status for answer in ask(gateway, headers)} == {200}


def read_all(gateway: Gateway, count: int, reader: AccessLogReader | None = None) -> list[AccessRecord]:
    """Read until `count` records are there, then once more: there must not be more."""
    reader = reader or AccessLogReader(gateway.log)
    records: list[AccessRecord] = []
    end = time.monotonic() + 10
    while len(records) < count and time.monotonic() < end:
        records += reader.read()
        time.sleep(0.05)
    time.sleep(0.4)
    return records + reader.read()
