"""`tidegate package --trainer`: the image that a cluster trains with.

It holds tidegate, git, DVC and the packages of the training at the versions installed here, and nothing of the project:
pods work on commits. So it changes with its packages only, and its tag is the hash of what it was built from.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import UsageError
from tidegate.pipelines import images
from tidegate.registry.ledger import Draft
from tidegate.serving.image import builders, context, pins

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment

_TAG_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer image: `digest` is its config's, `pushed` its manifest's in a registry, empty if it is in none."""

    digest: str
    reference: str
    pushed: str = ""

    @property
    def image(self) -> str:
        """What `train.image` says; empty if it was not pushed."""
        return f"{self.reference.rpartition(':')[0]}@{self.pushed}" if self.pushed else ""

    def to_json(self) -> dict[str, Any]:
        """What `--json` shows."""
        return {**asdict(self), "image": self.image or None}


def build(environment: Environment, progress: Progress, *, push: bool) -> Trainer:
    """Build the trainer image of the environment's config, push it if asked, and tell the ledger.

    Raises:
        UsageError: no tool to build with, or `push` without a repository.
        ConfigError: `train.requirements` cannot be read.
        TidegateError: a package is not installed here; the build or the push failed.
    """
    from tidegate.pipelines.requirements import pinned

    project = environment.project
    builder = builders.find()
    repository = project.config.environment(project.env).image_repository
    if push and not repository:
        raise UsageError(
            f"The environment {project.env} has no image_repository, so nobody knows where to push.",
            f"Add it: environments: {{{project.env}: {{image_repository: ghcr.io/acme/{project.config.model}}}}}",
        )
    gpu = project.config.train.resources.gpu > 0
    with tempfile.TemporaryDirectory(prefix="tidegate-trainer-") as scratch:
        folder = Path(scratch) / "context"
        folder.mkdir()
        needed = pins.training(pinned(project))
        context.write_trainer(project.config.model, needed, project.config.image, folder, gpu=gpu)
        tag = f"t-{context.digest_of(folder)[:_TAG_DIGITS]}"
        reference = builders.reference(
            tag, f"{project.config.model}-trainer", f"{repository}-trainer" if repository else None
        )
        builders.build(builder, folder, reference, images.build_secrets(environment), progress)
    with images.saved(builder, reference) as image:
        digest = image.digest
    pushed = ""
    if push:
        with progress.task(f"push {reference}"):
            pushed = builders.push(builder, reference)
    made = Trainer(digest, reference, pushed)
    environment.ledger.append(lambda _: Draft("trainer", asdict(made)))
    return made
