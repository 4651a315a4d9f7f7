"""Ids as people type them: whole, or as much of the beginning as tells one from the others."""

from __future__ import annotations

from collections.abc import Iterable

from tidegate.core.errors import UsageError

RELEASE = "r-"
"""What every release's id begins with."""
ROLLOUT = "o-"
"""What every rollout's id begins with."""


def whole(typed: str, known: Iterable[str], kind: str) -> str | None:
    """The one id of `known` that is `typed` or begins with it; None if there is none.

    Args:
        typed: by a person.
        known: whole ids.
        kind: their common beginning, `RELEASE` or `ROLLOUT`.

    Raises:
        UsageError: several begin with it; the message names them.
    """
    ids = set(known)
    if typed in ids:
        return typed
    # The common beginning alone is a script with an empty variable: it must not act on the only one there is.
    found = sorted(one for one in ids if one.startswith(typed)) if len(typed) > len(kind) else []
    if len(found) > 1:
        what = "releases" if kind == RELEASE else "rollouts"
        raise UsageError(f"{len(found)} {what} begin with {typed}: {', '.join(found)}.", "Type more of the id.")
    return found[0] if found else None
