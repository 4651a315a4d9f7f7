"""What `rollout status`, `rollout history` and `why` print of their documents."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tidegate.cli.commands import rollout, why
from tidegate.cli.plain import PlainConsole

SENTENCE = "The canary fails 0 % of users' first requests, stable 0 %: within the allowed 2x + 5 pp."
STATUS = {
    "id": "o-1",
    "state": "promoted",
    "weight": 100,
    "arms": {"canary": {"version": 2}, "stable": {"version": 1}},
    "shadow": None,
    "metrics": [{"sentence": SENTENCE}],
    "srm": {"ok": True},
    "reasons": [SENTENCE, "Promoted by hand."],
}
LINEAGE = {"data": [], "rollouts": []}


def test_status_says_a_sentence_once() -> None:
    """A verdict's reasons are mostly the sentences of its metrics; what else there is stays."""
    out = io.StringIO()
    rollout._print_status(PlainConsole(file=out, width=200), STATUS)
    assert out.getvalue().count(SENTENCE) == 1
    assert out.getvalue().splitlines()[-1] == "  Promoted by hand."


def test_history_keeps_reasons_whole_and_in_one_line_in_a_pipe() -> None:
    """So that grep and awk see what was meant."""
    reasons = [f"{SENTENCE} {number}" for number in range(5)]
    row = {"id": "o-1", "state": "promoted", "version": 2, "against": 1, "started_at": "2026-01-01T00:00:00"}
    out = io.StringIO()
    rollout._print_history(PlainConsole(file=out, width=200), [{**row, "reasons": reasons}])
    assert out.getvalue().splitlines()[1].rstrip().endswith("; ".join(reasons))


@pytest.mark.parametrize(
    ("commit", "dirty", "said"),
    [
        ("c0ffee", False, "c0ffee"),
        ("c0ffee", True, "c0ffee and uncommitted changes, which are kept with the release"),
        ("", True, "none yet; the files are kept with the release"),
    ],
)
def test_why_says_where_the_code_is(commit: str, dirty: bool, said: str) -> None:
    """In one phrase, also before a first commit."""
    document: dict[str, Any] = {**LINEAGE, "git_commit": commit, "git_dirty": dirty}
    out = io.StringIO()
    why._print(PlainConsole(file=out, width=200), document)
    assert out.getvalue().split(maxsplit=1) == ["git_commit", f"{said}\n"]
