"""The text of the workflows that a user's repository calls tidegate's with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Values:
    """What differs between repositories; `prefix` begins the file names, `directory` is the project's folder."""

    repository: str
    ref: str
    prefix: str
    model: str
    directory: str
    environment: str
    requirements: str
    cron: str


# name -> what starts it, the rights its jobs may ask for, and its inputs beside the common ones.
_READ: Final = {"contents": "read", "id-token": "write"}
_ON: Final = {
    "pull-request": "  pull_request:{paths}",
    "release": "  push:\n    branches: [main]{paths}\n  workflow_dispatch:",
    "monitor": "  schedule:\n    - cron: {cron}\n  workflow_dispatch:",
    "rollback": """\
  workflow_dispatch:
    inputs:
      reason:
        description: Why; it is kept in the ledger.
        type: string
        required: true
      release:
        description: The release to go back to; empty, the one before.
        type: string
        default: \"\"""",
}
_RIGHTS: Final[Mapping[str, Mapping[str, str]]] = {
    "pull-request": {**_READ, "pull-requests": "write"},
    "release": _READ,
    "monitor": _READ,
    "rollback": _READ,
}
_TITLES: Final = {
    "pull-request": "pull request",
    "release": "release",
    "monitor": "monitor",
    "rollback": "rollback",
}
_TEXT: Final = """\
# Written by `tidegate ci init`; yours to change.
name: {prefix} {title}
on:
{on}
permissions: {{}}
jobs:
  {name}:
    permissions:
{rights}
    uses: {repository}/.github/workflows/{name}.yml@{ref}
    with:
{inputs}
"""


def callers(values: Values) -> Iterator[tuple[str, str]]:
    """(name, text) of each workflow."""
    for name, rights in _RIGHTS.items():
        yield (
            name,
            _TEXT.format(
                prefix=values.prefix,
                title=_TITLES[name],
                name=name,
                on=_ON[name].format(paths=_paths(values, name), cron=json.dumps(values.cron)),
                rights="\n".join(f"      {right}: {level}" for right, level in rights.items()),
                repository=values.repository,
                ref=values.ref,
                inputs="\n".join(f"      {key}: {value}" for key, value in _inputs(values, name).items()),
            ),
        )


def _paths(values: Values, name: str) -> str:
    """In a repository of several projects, only this one's files start its workflows."""
    if values.directory == ".":
        return ""
    where = f"paths: [{json.dumps(values.directory + '/**')}]"
    return f"\n    {where}" if name in {"pull-request", "release"} else ""


def _inputs(values: Values, name: str) -> dict[str, str]:
    inputs = {
        "model": json.dumps(values.model),
        "directory": json.dumps(values.directory),
        "environment": json.dumps(values.environment),
    }
    if values.requirements:
        inputs["requirements"] = json.dumps(values.requirements)
    if name == "rollback":
        inputs |= {key: f"${{{{ inputs.{key} }}}}" for key in ("reason", "release")}
    return inputs
