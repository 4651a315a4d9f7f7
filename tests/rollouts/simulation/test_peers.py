"""The rules of other tools, one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import mannwhitneyu, norm

from tidegate.rollouts.simulation.peers import Clock, Kayenta, PeekedZ, Peer, SuccessRate, high
from tidegate.rollouts.simulation.traffic import Shown

HOUR = Clock((20, 50), 60, 60.0, 1)
GOOD, BAD = (100, 0, 400, 2), (100, 2, 400, 2)


def rolled_back_after(peer: Peer, minutes: list[tuple[int, ...]]) -> int | None:
    """After how many minutes of these counts the rule said no."""
    for index, counts in enumerate(minutes):
        table = np.array([[counts]])
        peer.see(Shown(index, {"requests": table}, {"requests": table[:, 0, 0]}))
        if peer.weight[0] == 0:
            return index + 1
    return None


def argo(clock: Clock = HOUR) -> SuccessRate:
    return SuccessRate("argo", clock, least=0.99, minutes=5, failures=4)


def flagger(clock: Clock = HOUR) -> SuccessRate:
    return SuccessRate("flagger", clock, least=0.99, minutes=1, failures=5)


def test_argo_fails_at_the_fourth_bad_measurement() -> None:
    """Every five minutes; three failures are allowed, wherever they lie; 99 % itself is enough."""
    assert rolled_back_after(argo(), [BAD] * 60) == 20
    assert rolled_back_after(argo(), ([BAD] * 5 + [GOOD] * 5) * 6) == 35
    assert rolled_back_after(argo(), [(100, 1, 400, 2)] * 60) is None


def test_flagger_fails_at_the_fifth_bad_check_and_counts_silence_as_bad() -> None:
    """Good checks in between do not clear the count."""
    assert rolled_back_after(flagger(), [BAD] * 60) == 5
    assert rolled_back_after(flagger(), [BAD, GOOD] * 30) == 9
    assert rolled_back_after(flagger(), [(0, 0, 500, 2)] * 60) == 5


def test_a_rule_that_never_says_no_is_moved_on_by_the_clock() -> None:
    """Half of the time at each of two weights, then everything."""
    peer, weights = argo(), []
    for index in range(60):
        weights.append(int(peer.weight[0]))
        peer.see(Shown(index, {"requests": np.array([[GOOD]])}, {"requests": np.array([100])}))
    assert weights == [20] * 30 + [50] * 30
    assert peer.weight[0] == 100


def test_a_peeked_z_test_is_the_textbooks() -> None:
    """It stops in the minute in which the one-sided p-value of everything so far is below 5 %."""
    rng = np.random.default_rng(6)
    minutes = [(100, int(rng.binomial(100, 0.04)), 400, int(rng.binomial(400, 0.02))) for _ in range(60)]
    n1, x1, n0, x0 = np.cumsum(minutes, axis=0).T
    pooled = (x1 + x0) / (n1 + n0)
    p = norm.sf((x1 / n1 - x0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0)))
    assert rolled_back_after(PeekedZ("z", HOUR), minutes) == int(np.flatnonzero(p < 0.05)[0]) + 1


def drawn(shift: float) -> npt.NDArray[np.float64]:
    """30 minutes of 400 runs of rates without ties."""
    rates = np.random.default_rng(7).normal(0.05, 0.01, (400, 2, 30))
    rates[:, 0] += shift
    return rates


def test_kayentas_interval_is_that_of_the_mann_whitney_test() -> None:
    """Without its tolerance it says High where the one-sided test at 1 % rejects; the tolerance only takes away."""
    rates = drawn(0.004)
    p = mannwhitneyu(rates[:, 0], rates[:, 1], alternative="greater", axis=-1, method="asymptotic").pvalue
    rejected = high(rates, tolerance=0.0)
    assert 20 < rejected.sum() < 200
    assert (rejected != (p < 0.01)).mean() <= 0.01, "the continuity correction aside"
    assert not (high(rates) & ~rejected).any()
    assert high(rates).sum() < rejected.sum()
    assert high(drawn(0.03)).all()


def test_kayenta_looks_every_ten_minutes_at_the_step_so_far() -> None:
    """Ten times the errors are called High at the first look; five good minutes before them need one more."""
    steady = [(100, 1 + index % 3, 400, 4 + index % 5) for index in range(60)]
    worse = [(100, 20 + index % 3, 400, 4 + index % 5) for index in range(60)]
    assert rolled_back_after(Kayenta("k", HOUR), worse) == 10
    assert rolled_back_after(Kayenta("k", HOUR), steady[:35] + worse[35:]) == 50
    assert rolled_back_after(Kayenta("k", HOUR), steady) is None


@pytest.mark.parametrize("rule", [argo, flagger])
def test_blocks_may_be_shorter_than_a_minute(rule: object) -> None:
    """Thirty-second blocks give the same verdict at the same time."""
    half = Clock(HOUR.steps, 120, 30.0, 1)
    blocks = [(50, 1, 200, 1)] * 120
    assert rolled_back_after(rule(half), blocks) == 2 * (rolled_back_after(rule(), [BAD] * 60) or 0)  # type: ignore[operator]
