"""Ids as people type them."""

from __future__ import annotations

import pytest

from tidegate.core.errors import UsageError
from tidegate.core.identifiers import RELEASE, ROLLOUT, whole

KNOWN = ("r-1a2b3c", "r-1a9f00", "r-77", "r-7701")


@pytest.mark.parametrize(("typed", "found"), [("r-1a2b3c", "r-1a2b3c"), ("r-1a2", "r-1a2b3c"), ("r-770", "r-7701")])
def test_an_id_is_found_by_a_beginning_that_no_other_has(typed: str, found: str) -> None:
    """A few characters are enough."""
    assert whole(typed, KNOWN, RELEASE) == found


def test_a_whole_id_is_never_ambiguous() -> None:
    """Also where it is the beginning of a longer one."""
    assert whole("r-77", KNOWN, RELEASE) == "r-77"


def test_several_with_the_same_beginning_are_named() -> None:
    """Nothing is chosen for the reader."""
    with pytest.raises(UsageError, match="2 releases begin with r-1a: r-1a2b3c, r-1a9f00") as caught:
        whole("r-1a", KNOWN, RELEASE)
    assert caught.value.hint
    with pytest.raises(UsageError, match="2 rollouts begin with o-1: o-11, o-12"):
        whole("o-1", ("o-12", "o-11"), ROLLOUT)


@pytest.mark.parametrize("typed", ["", "r", "r-", "1a2b3c", "r-2", "R-1A2"])
def test_nothing_and_the_common_beginning_alone_mean_nobody(typed: str) -> None:
    """A script with an empty variable must not act on the only release there is."""
    assert whole(typed, KNOWN[:1], RELEASE) is None
