"""The few-line workflows that call tidegate's own from a user's repository, and what a runner must reach first.

A runner is a machine that has nothing of this one: with the data, MLflow or the store on this disk it would train on no
data and compare with no champion, and find every model good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tidegate.core.config import LOCAL
from tidegate.core.errors import ConfigError, UsageError
from tidegate.pipelines import ci_templates

if TYPE_CHECKING:
    from tidegate.core.project import Project

_REFERENCE: Final = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<ref>[\w./-]+)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_CRON: Final = re.compile(r"[\d*/,-]+( [\d*/,A-Z-]+){4}")
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - looked for, not listened on
_FOLDER: Final = PurePosixPath(".github/workflows")


@dataclass
class Written:
    """What `ci init` did: paths relative to the repository, and sentences."""

    root: Path
    uses: str
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """JSON of it."""
        return {
            "kind": "ci",
            "root": str(self.root),
            "uses": self.uses,
            "written": self.written,
            "kept": self.kept,
            "notes": self.notes,
        }


def init(project: Project, uses: str | None, cron: str) -> Written:
    """Write the callers that are missing into the repository around the project.

    Args:
        project: as the environment sees it that the workflows are for.
        uses: OWNER/REPOSITORY@COMMIT of tidegate; None: where this tidegate was installed from.
        cron: when to look for drift, as cron has it, UTC.

    Raises:
        ConfigError: data, MLflow or store are on this machine only.
        UsageError: no git repository, or an argument is not what it should be.
    """
    from tidegate.core import git

    if not git.is_repository(project.root):
        raise UsageError(f"{project.root} is in no git repository.", "`git init`, then the same command again.")
    reference = _reference(uses or _installed_from())
    if not _CRON.fullmatch(cron):
        raise UsageError(f"--cron {cron!r} is no cron line.", 'Every night at 3:17 UTC is `--cron "17 3 * * *"`.')
    require_shared(project)
    top = git.toplevel(project.root)
    values = _values(project, top, reference, cron)
    found = Written(top, "@".join(reference))
    for name, text in ci_templates.callers(values):
        _write(top, str(_FOLDER / f"{values.prefix}-{name}.yml"), text, found)
    if not _COMMIT.fullmatch(reference[1]):
        found.notes.append(f"{reference[1]} can be moved to other code; a commit (40 digits) cannot.")
    found.notes.extend(_to_do(project))
    return found


def require_shared(project: Project) -> None:
    """Refuse what a runner could not reach, all of it at once.

    Raises:
        ConfigError: one line for each.
    """
    problems = tuple(_unshared(project))
    if problems:
        raise ConfigError(
            "A runner would have neither the data nor the champion: they are on this machine only.",
            "Share them, `tidegate data push`, commit, then `tidegate ci init` again.",
            problems,
        )


def _unshared(project: Project) -> Iterator[str]:
    from tidegate.pipelines import dvc_repo

    remote = dvc_repo.shared_remote(project.root)
    how = "`dvc remote add --default --force storage s3://BUCKET/dvc`"
    if remote is None:
        yield f"DVC has no default remote in .dvc/config: {how}"
    elif not _reachable(remote):
        yield f"the DVC remote is a folder of this machine ({remote}): {how}"
    # What MLFLOW_TRACKING_URI says here is not said on the runner.
    if not _reachable(mlflow := project.config.mlflow):
        yield f"mlflow is {mlflow}, which only this machine reads: run `mlflow server` for all, `mlflow: https://HOST`"
    if not _reachable(project.config.store):
        yield f"store is the folder {project.config.store}: `store: s3://BUCKET/tidegate` is one for all"


def _reachable(address: str) -> bool:
    """Whether another machine could follow this address: a scheme that is no file, a host that is not this one."""
    parts = urlsplit(address)
    return len(parts.scheme) > 1 and parts.scheme not in {"file", "local", "sqlite"} and parts.hostname not in _HERE


def _values(project: Project, top: Path, reference: tuple[str, str], cron: str) -> ci_templates.Values:
    folder = project.root.resolve().relative_to(top.resolve()).as_posix()
    return ci_templates.Values(
        repository=reference[0],
        ref=reference[1],
        # Several models in one repository are a folder each, and so are their workflows.
        prefix="tidegate" if folder == "." else f"tidegate-{project.config.model}",
        model=project.config.model,
        directory=folder,
        environment=project.env,
        requirements=project.config.train.requirements or "",
        cron=cron,
    )


def _to_do(project: Project) -> Iterator[str]:
    """What only a person can do: rights of the job, and who approves a release."""
    yield (
        "Let the runner in without a password: make a role that trusts GitHub's OIDC for this repository, and name it "
        "in the workflows (aws-role, or google-provider and google-account)."
    )
    yield f"Settings, Environments: make `{project.env}` and name who has to approve a release and a rollback."
    if project.env != LOCAL:
        yield f"The workflows work in the environment {project.env}; `tidegate -e NAME ci init` is for another."


def _reference(uses: str) -> tuple[str, str]:
    found = _REFERENCE.fullmatch(uses)
    if found is None:
        raise UsageError(f"--uses {uses} does not name a commit of a repository.", "It is OWNER/REPOSITORY@COMMIT.")
    return found["repository"], found["ref"]


def _installed_from() -> str:
    """OWNER/REPOSITORY@COMMIT of the repository on GitHub that pip installed this tidegate from (PEP 610).

    Raises:
        UsageError: it came from elsewhere.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("tidegate").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    commit = (origin.get("vcs_info") or {}).get("commit_id")
    parts = urlsplit(origin.get("url") or "")
    if commit and parts.hostname == "github.com":
        return f"{parts.path.strip('/').removesuffix('.git')}@{commit}"
    raise UsageError(
        "This tidegate was not installed from a repository on GitHub, so its workflows there are not known.",
        "Name it: `tidegate ci init --uses OWNER/REPOSITORY@COMMIT`.",
    )


def _write(top: Path, path: str, text: str, found: Written) -> None:
    file = top / path
    if file.exists():
        found.kept.append(path)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
    found.written.append(path)
