"""The flows as objects of Argo Workflows: what `render` and `apply` send to a cluster beside the model's chart.

Only objects.py imports hera, when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.core.project import Project


def workflow_documents(project: Project, release: Release | None = None) -> list[dict[str, Any]]:
    """WorkflowTemplates of release and retrain, the monitor's CronWorkflow, and the accounts they run as.

    None while `train.image` is not set: then everything is trained where the commands are typed.

    Args:
        project: seen by a Kubernetes environment.
        release: whose manifests these go with; the pipelines are those of the config, so it only makes them the same.

    Raises:
        ConfigError: `train.image` is no digest, or an address that pods cannot reach.
        UsageError: the repository has no remote that pods could clone.
    """
    del release
    if project.config.train.image is None:
        return []
    from tidegate.pipelines.workflows import access, objects
    from tidegate.pipelines.workflows.settings import Settings

    settings = Settings.of(project)
    return [*access.documents(settings), *objects.documents(settings)]
