"""What a job on GitHub is told, and what happens where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journeys.runner import comments_api

from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines import github

MARKER = "<!-- tidegate report of demand in local -->"


@pytest.fixture
def job(tmp_path: Path) -> github.Job:
    """A job of pull request 7, as its environment describes it."""
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": "ada/shop",
        "GITHUB_TOKEN": "t0",
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    found = github.job(environ)
    assert found is not None
    return found


def test_outside_of_github_there_is_no_job() -> None:
    """A file name left in the environment is not enough."""
    assert github.job({"GITHUB_OUTPUT": "x"}) is None


def test_the_token_is_in_no_text_about_the_job(job: github.Job) -> None:
    """It would be in the log of whoever prints it."""
    assert (job.pull_request, job.token) == (7, "t0")
    assert "t0" not in repr(job)


def test_an_output_is_one_line_whatever_the_value_holds(job: github.Job, tmp_path: Path) -> None:
    """A line break would begin an output that somebody else chose."""
    github.set_output(job, run_id="r1\npassed=true")
    assert (tmp_path / "output").read_text() == "run-id=r1 passed=true\n"


def test_the_one_comment_is_found_on_a_later_page_and_no_stranger_can_take_its_place(job: github.Job) -> None:
    """Comments come by the hundred; a collaborator's token may have written ours."""
    with comments_api() as api:
        api.say(MARKER, "mallory")
        for number in range(120):
            api.say(f"comment {number}", "kim")
        api.say(f"old\n{MARKER}", "ada", association="COLLABORATOR")
        there = replace(job, api=api.address)
        assert github.comment(there, MARKER, f"new\n{MARKER}\n") == "https://github.com/#122"
        assert api.found[121]["body"] == f"new\n{MARKER}\n"
        assert [method for method, _, _ in api.requests] == ["GET", "GET", "PATCH"]


def test_a_text_that_is_too_long_is_cut_and_still_found_the_next_time(job: github.Job) -> None:
    """GitHub refuses more than 65,536 characters."""
    with comments_api() as api:
        there = replace(job, api=api.address)
        for _ in range(2):
            github.comment(there, MARKER, "x" * 70_000 + f"\n{MARKER}\n")
        assert [len(one["body"]) for one in api.found] == [65_536]


@pytest.mark.parametrize(("status", "said"), [(401, "not valid"), (403, "pull-requests: write"), (404, "may not see")])
def test_a_refusal_says_what_the_job_lacks(job: github.Job, status: int, said: str) -> None:
    """And what was asked, without the token."""
    with comments_api() as api:
        api.refuse = status
        with pytest.raises(TidegateError, match=f"status {status}") as refused:
            github.comment(replace(job, api=api.address), MARKER, MARKER)
    assert said in refused.value.hint
    assert "t0" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pull_request": None}, "belongs to no pull request"),
        ({"token": ""}, "no token"),
        ({"api": "http://example.org"}, "no https address"),
        ({"api": "http://127.0.0.1:1@example.org"}, "no https address"),
    ],
)
def test_nothing_is_sent_where_it_cannot_be_right(job: github.Job, change: dict[str, Any], said: str) -> None:
    """No pull request, no token, or an address at which the token would be read on the way."""
    with pytest.raises(UsageError, match=said):
        github.comment(replace(job, **change), MARKER, MARKER)


def test_nobody_at_the_address_is_an_error_with_its_reason(job: github.Job) -> None:
    """The port was free a moment ago."""
    with comments_api() as api:
        address = api.address
    with pytest.raises(TidegateError, match="could not be asked"):
        github.comment(replace(job, api=address), MARKER, MARKER)
