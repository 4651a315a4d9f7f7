"""`tidegate config`: what the file, its environment and the defaults add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console


def config() -> None:
    """Print tidegate.yaml as it was resolved: every key, with defaults and the environment's overrides."""
    from tidegate.core.config import resolved

    t = terminal()
    project = t.project
    warnings = warn_of_ignored()
    document = {
        "kind": "config",
        "root": project.root,
        "env": project.env,
        "store_url": project.store_url,
        "mlflow_uri": without_password(project.mlflow_uri),
        "warnings": warnings,
        "config": resolved(project.config),
    }

    def render(console: Console) -> None:
        import yaml

        console.print(f"# {project.root}, environment {project.env}", markup=False)
        console.print(f"# store {document['store_url']}, mlflow {document['mlflow_uri']}", markup=False)
        text = yaml.safe_dump(document["config"], sort_keys=False, allow_unicode=True, width=1000)
        console.print(text, end="", markup=False)

    t.show(document, render)


def warn_of_ignored() -> tuple[str, ...]:
    """Say on stderr which keys of the config this version does not act on; they are also returned."""
    from tidegate.core.not_yet import not_yet

    t = terminal()
    warnings = not_yet(t.project.config)
    for sentence in warnings:
        t.warn(f"Warning: {sentence}")
    return warnings


def without_password(address: str) -> str:
    """An address as it may be printed: MLFLOW_TRACKING_URI may hold a password."""
    scheme, separator, rest = address.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:***@{host}" if separator and at else address
