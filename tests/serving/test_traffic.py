"""The load generator and the route check, against real servers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tidegate.core.errors import TidegateError, UsageError
from tidegate.serving.gateway import GatewayState
from tidegate.serving.route_check import binomial_bounds, check_route
from tidegate.serving.traffic import TrafficPlan, TrafficReport, make_traffic

Make = Callable[..., Any]
BODIES = [b'{"rows":[{"a":1}]}', b'{"rows":[{"a":2}]}']


def test_load_is_steady_and_users_arrive_and_come_back(echo: Make, new_gateway: Make) -> None:
    """200 requests a second by 600 new users a minute: the rates are kept, returning users stay on their arm."""
    gateway = new_gateway()
    gateway.start(GatewayState(echo("r-1").upstream, echo("r-2").upstream, rollout="ro-1", weight=50))
    seen: list[int] = []
    plan = TrafficPlan(gateway.address, BODIES, rps=200, users_per_minute=600, seconds=2.5)
    report = make_traffic(plan, lambda so_far: seen.append(so_far.answered))
    assert report.sent + report.unsent == pytest.approx(500, abs=20)
    assert report.users == pytest.approx(26, abs=2)
    assert (report.answered, report.failed) == (report.sent, 0)
    assert (report.to_canary, report.to_stable) == (0, 0)
    assert sum(report.arms.values()) == report.answered
    assert set(report.versions) == {"r-1", "r-2"}
    assert 0 < report.percentile(0.5) <= report.percentile(0.99) < 5
    assert 1 <= len(seen) <= 2
    assert report.to_json()["kind"] == "traffic"


def test_a_slow_server_does_not_slow_the_load_down(echo: Make) -> None:
    """Open loop: what no connection is free for is counted as unsent at once."""
    server = echo("r-1")
    server.delay = 0.5
    address = f"http://127.0.0.1:{server.port}"
    report = make_traffic(TrafficPlan(address, BODIES, rps=100, seconds=1.0, concurrency=5))
    assert 5 <= report.sent <= 20
    assert report.sent + report.unsent == pytest.approx(100, abs=5)
    assert report.percentile(0.5) == pytest.approx(0.5, rel=0.6)


def test_a_server_that_never_answers_times_out(echo: Make) -> None:
    """A request that hangs is a failure, and the load still ends."""
    server = echo("r-1")
    server.delay = 60.0
    began = time.monotonic()
    report = make_traffic(
        TrafficPlan(f"http://127.0.0.1:{server.port}", BODIES, rps=20, seconds=1.0, concurrency=4, timeout=0.3)
    )
    assert time.monotonic() - began < 3
    assert report.answered == 0
    assert report.failed == report.sent > 3


def test_a_server_that_dies_and_one_that_never_was_do_not_block_the_load(echo: Make) -> None:
    """Nothing is queued for the dead; the run ends on time."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()[1]
    began = time.monotonic()
    report = make_traffic(TrafficPlan(f"http://127.0.0.1:{nobody}", BODIES, rps=100, seconds=0.7))
    assert time.monotonic() - began < 2
    assert (report.sent, report.answered) == (0, 0)
    assert report.unsent > 50

    server = echo("r-1")

    def die(so_far: TrafficReport) -> None:
        assert so_far.failed == 0
        server.kill()

    plan = TrafficPlan(f"http://127.0.0.1:{server.port}", BODIES, rps=100, seconds=1.6)
    report = make_traffic(plan, die)
    assert report.answered == pytest.approx(100, abs=40)
    assert report.unsent > 20


@pytest.mark.parametrize("changes", [{"bodies": []}, {"rps": 0}, {"users_per_minute": 0}, {"address": "localhost:80"}])
def test_an_impossible_load_is_refused(changes: dict[str, Any]) -> None:
    """A usage error says so before anything is sent."""
    with pytest.raises(UsageError):
        TrafficPlan(**({"address": "http://127.0.0.1:1", "bodies": BODIES} | changes))


def test_the_route_check_passes_a_sound_gateway_and_leaves_no_evidence(echo: Make, new_gateway: Make) -> None:
    """300 users x 3 requests: no switches, share as promised, and every arm as in the formula."""
    gateway = new_gateway()
    gateway.start(GatewayState(echo("r-1").upstream, echo("r-2").upstream, rollout="ro-1", weight=30))
    result = check_route(gateway.address, "ro-1", 30, users=300)
    assert result.problems() == ()
    assert result.low <= result.canary <= result.high
    time.sleep(0.4)
    text = gateway.log.read_text()
    assert text.count("rest/ro-1/30") == result.requests == 900
    assert "split/" not in text


def test_the_route_check_finds_a_wrong_salt_a_wrong_weight_and_a_plain_server(echo: Make, new_gateway: Make) -> None:
    """Each broken promise is one sentence."""
    server = echo("r-1")
    gateway = new_gateway()
    gateway.start(GatewayState(server.upstream, echo("r-2").upstream, rollout="ro-1", weight=30))
    assert "formula" in check_route(gateway.address, "ro-2", 30, users=200).problems()[0]
    assert any("70 %" in problem for problem in check_route(gateway.address, "ro-1", 70, users=200).problems())
    plain = check_route(f"http://127.0.0.1:{server.port}", "ro-1", 30, users=20)
    assert "do not say which arm" in plain.problems()[0]
    with pytest.raises(TidegateError, match="does not answer"):
        check_route("http://127.0.0.1:1", "ro-1", 30, users=1)


def test_binomial_bounds_are_exact_at_the_ends_and_symmetric() -> None:
    """Compared with the quantiles of scipy.stats.binom."""
    from scipy import stats

    for trials, share in ((1000, 0.05), (300, 0.5), (20, 0.01)):
        low, high = binomial_bounds(trials, share)
        tails = stats.binom.cdf(low - 1, trials, share), stats.binom.sf(high, trials, share)
        assert max(tails) <= 5e-7
        assert stats.binom.cdf(low, trials, share) > 5e-7
    assert binomial_bounds(1000, 0.0) == (0, 0)
    assert binomial_bounds(1000, 1.0) == (1000, 1000)
