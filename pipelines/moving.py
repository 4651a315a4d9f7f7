"""`ship --release R --env NAME`: a release of one environment in another one, with the digest that was gated.

Nothing is built again. The release and its files, the monitor's reference, the list of what is in the image and the
statement of where it came from are copied into the environment's store; its ledger registers the release as it passed
the gate, and the image as it was pushed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tidegate.core.config import LOCAL
from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.identifiers import RELEASE, whole
from tidegate.core.project import open_project
from tidegate.pipelines import images
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import Gated, Imaged, State, deciding

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.core.progress import Progress


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a release comes from, and how it passed the gate there."""

    environment: Environment
    gate: Gated
    image: Imaged | None


def move(environment: Environment, typed: str, progress: Progress) -> Release:
    """The release in this environment, brought here from the one that made it.

    Raises:
        UsageError: no environment knows it, or this one's MLflow has not its version.
        TidegateError: something of it was changed since.
    """
    here = whole(typed, tuple(environment.state().versions), RELEASE)
    if here is not None and here in environment.state().versions:
        _bring_image(environment, here)
        return releases.load(environment.store, here)
    release, origin = _find(environment, typed)
    _require_version(environment, release)
    with progress.task(f"copy release {release.id} from {origin.environment.project.env}"):
        _copy(origin.environment, environment, release)
    gate = {"gate": list(origin.gate.reasons), "against": origin.gate.champion, "section": dict(origin.gate.section)}
    registered = {"release": release.id, "version": release.version, "run_id": release.run_id, **gate}
    moved = {**registered, "from": origin.environment.project.env}

    def once(state: State) -> Draft | None:
        return None if release.id in state.versions else Draft("registered", moved)

    environment.ledger.append(deciding(once))
    if origin.image is not None:
        _tell_image(environment, release.id, origin.image)
    return release


def require_clean(environment: Environment, release: Release | None) -> None:
    """Refuse, outside of the local environment, what no commit holds: nobody could say later what was shipped.

    Raises:
        UsageError: files were not committed, now or when the release was made.
    """
    tree = environment.project.work_tree()
    if not tree.commit or tree.dirty:
        raise UsageError(
            "The files of this project differ from its last commit."
            if tree.commit
            else "This project is not committed to git.",
            "`git status` shows what differs: commit it, or ship it as it is with --allow-dirty.",
        )
    if release is not None and release.git_dirty:
        raise UsageError(
            f"Release {release.id} was made from files that were never committed.",
            "Commit them and `tidegate ship` again, or ship it as it is with --allow-dirty: it keeps the patch.",
        )


def _find(environment: Environment, typed: str) -> tuple[Release, _Origin]:
    project = environment.project
    names = [name for name in (LOCAL, *project.config.environments) if name != project.env]
    problems = []
    for name in dict.fromkeys(names):
        other = Environment(open_project(project.root, name))
        try:
            state = other.state()
            known = whole(typed, tuple(state.versions), RELEASE)
            if known is None or known not in state.versions:
                continue
            release = releases.load(other.store, known)
        except (TidegateError, OSError) as error:
            problems.append(f"{name}: {getattr(error, 'message', error)}")
            continue
        return release, _Origin(other, state.gates[known], state.images.get(known))
    raise UsageError(
        f"No environment of this project has registered a release {typed}." + "".join(f" ({one})" for one in problems),
        "`tidegate release list` shows those that were shipped here.",
    )


def _require_version(environment: Environment, release: Release) -> None:
    """The champion's alias is a number: in another MLflow it could be another model's.

    Raises:
        UsageError: MLflow's version of that number is not the release's.
    """
    try:
        found = environment.registry.get(release.version)
    except UsageError:
        found = None
    if found is None or found.run_id != release.run_id:
        env = environment.project.env
        raise UsageError(
            f"Version {release.version} of run {release.run_id} is not in the MLflow of {env}.",
            "Environments that hand releases on share one MLflow: set `mlflow` at the top of tidegate.yaml to the"
            f" server that {env} uses, and ship again.",
        )


def _copy(origin: Environment, target: Environment, release: Release) -> None:
    """Files first, the description last: a release is whole or absent."""
    state = origin.state()
    folders = [f"releases/{release.id}"]
    if release.reference is not None:
        folders.append(f"references/{release.reference}")
    if (image := state.images.get(release.id)) is not None:
        folders.append(images.folder(image.digest))
    paths = [path for folder in folders for path in origin.store.list(folder)]
    for path in sorted(paths, key=lambda one: one.endswith("/release.json")):
        target.store.put_if_absent(path, origin.store.read(path))
    releases.load(target.store, release.id)


def _bring_image(environment: Environment, release: str) -> None:
    """An image that was pushed elsewhere after the release was moved."""
    known = environment.state().images.get(release)
    if known is not None and known.pushed:
        return
    try:
        _, origin = _find(environment, release)
    except UsageError:
        return
    if origin.image is not None and origin.image.pushed:
        found = releases.load(environment.store, release)
        _copy(origin.environment, environment, found)
        _tell_image(environment, release, origin.image)


def _tell_image(environment: Environment, release: str, image: Imaged) -> None:
    def once(state: State) -> Draft | None:
        known = state.images.get(release)
        return None if known == image else Draft("imaged", {"release": release, **asdict(image)})

    environment.ledger.append(deciding(once))
