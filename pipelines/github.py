"""What a job on GitHub can be told: a line of its outputs, a page of its summary, one comment on its pull request.

GitHub describes a job in environment variables (https://docs.github.com/actions/reference/variables-reference) and
takes comments by its REST API (https://docs.github.com/rest/issues/comments).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tidegate.core.errors import TidegateError, UsageError

_PAGE: Final = 100
_PAGES: Final = 30
_SECONDS: Final = 30.0
# GitHub refuses a longer comment; the summary may have 1 MiB.
_LONGEST: Final = 65_536
# Anybody may write a comment that looks like ours; those of strangers are left alone.
_TRUSTED: Final = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Job:
    """The job that runs this process. `pull_request` is a number, None where the job is of none."""

    summary: Path | None = None
    output: Path | None = None
    repository: str = ""
    api: str = "https://api.github.com"
    token: str = field(default="", repr=False)
    base: str = ""
    pull_request: int | None = None


def job(environ: Mapping[str, str]) -> Job | None:
    """Read the job from the environment; None outside GitHub Actions."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return None
    return Job(
        summary=_path(environ.get("GITHUB_STEP_SUMMARY")),
        output=_path(environ.get("GITHUB_OUTPUT")),
        repository=environ.get("GITHUB_REPOSITORY", ""),
        api=environ.get("GITHUB_API_URL") or Job.api,
        token=environ.get("GITHUB_TOKEN", ""),
        base=environ.get("GITHUB_BASE_REF", ""),
        pull_request=_pull_request(environ.get("GITHUB_EVENT_PATH")),
    )


def add_summary(here: Job, text: str) -> None:
    """Add Markdown to the job's summary page."""
    if here.summary is not None:
        with here.summary.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def set_output(here: Job, **values: str) -> None:
    """Give later steps a value each; `_` in a name becomes `-`, as GitHub's own outputs are written."""
    if here.output is not None:
        with here.output.open("a", encoding="utf-8") as file:
            # One line each: a line break in a value would begin an output of its own.
            file.writelines(f"{name.replace('_', '-')}={' '.join(value.split())}\n" for name, value in values.items())


def comment(here: Job, marker: str, text: str) -> str:
    """Put `text` into the one comment of the pull request that holds `marker`, made if there is none.

    Args:
        here: the job.
        marker: a line of `text` that no other comment has.
        text: Markdown; shortened where GitHub would refuse it.

    Returns:
        The comment's address.

    Raises:
        UsageError: the job is of no pull request, or has no token.
        TidegateError: GitHub refused, or could not be reached.
    """
    if here.pull_request is None or not _REPOSITORY.fullmatch(here.repository):
        raise UsageError(
            "This job belongs to no pull request, so there is nothing to comment on.",
            "Leave out --comment, or run the workflow `on: pull_request`.",
        )
    if not here.token:
        raise UsageError(
            "There is no token to comment with.",
            "Give the step `env: {GITHUB_TOKEN: ${{ github.token }}}` and its job `pull-requests: write`.",
        )
    text = _fitting(text, marker)
    issues = f"/repos/{here.repository}/issues"
    found = next((one for one in _comments(here, issues) if _ours(one, marker)), None)
    if found is None:
        made = _ask(here, "POST", f"{issues}/{here.pull_request}/comments", {"body": text})
    else:
        made = _ask(here, "PATCH", f"{issues}/comments/{int(found['id'])}", {"body": text})
    return str(made.get("html_url", "")) if isinstance(made, dict) else ""


def _comments(here: Job, issues: str) -> Iterator[dict[str, Any]]:
    for page in range(1, _PAGES + 1):
        found = _ask(here, "GET", f"{issues}/{here.pull_request}/comments?per_page={_PAGE}&page={page}")
        if not isinstance(found, list):
            return
        yield from found
        if len(found) < _PAGE:
            return


def _ours(one: Mapping[str, Any], marker: str) -> bool:
    author = one.get("user") or {}
    trusted = author.get("type") == "Bot" or one.get("author_association") in _TRUSTED
    return trusted and marker in str(one.get("body") or "").splitlines()


def _fitting(text: str, marker: str) -> str:
    if len(text) <= _LONGEST:
        return text
    end = f"\n\nThe rest is in the summary of the job.\n\n{marker}\n"
    return text[: _LONGEST - len(end)] + end


def _ask(here: Job, method: str, path: str, document: object = None) -> object:
    """One request of the API.

    Raises:
        TidegateError: the answer is no success, or none came.
    """
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    address = here.api.rstrip("/") + path
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname != "127.0.0.1":
        raise UsageError(f"GITHUB_API_URL is {here.api}, which is no https address.", "The token is sent by TLS only.")
    content = None if document is None else json.dumps(document).encode()
    request = Request(address, data=content, method=method)  # noqa: S310 - https, as was just checked
    for name, value in {
        "Authorization": f"Bearer {here.token}",
        "Accept": "application/vnd.github+json",
        "Content-Type": "application/json",
        "User-Agent": "tidegate",
        "X-GitHub-Api-Version": "2022-11-28",
    }.items():
        request.add_header(name, value)
    try:
        with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - the same
            return json.load(answer)
    except HTTPError as error:
        error.close()
        raise _refused(method, path, error.code) from error
    except (URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TidegateError(
            f"GitHub could not be asked ({method} {path}): {reason}.", "Run the job again; githubstatus.com knows more."
        ) from error


def _refused(method: str, path: str, status: int) -> TidegateError:
    hints = {
        401: "The token is not valid (any more).",
        403: "The job needs `permissions: {pull-requests: write}`; a pull request from a fork never gets that.",
        404: "The token may not see the repository; is GITHUB_TOKEN that of this one?",
    }
    return TidegateError(
        f"GitHub refused to be asked for the comment ({method} {path}): status {status}.",
        hints.get(status, "Run the job again; githubstatus.com knows more."),
    )


def _pull_request(event: str | None) -> int | None:
    try:
        number = json.loads(Path(event or "").read_text(encoding="utf-8"))["pull_request"]["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number if isinstance(number, int) else None


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
