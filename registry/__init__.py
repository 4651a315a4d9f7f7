"""What exists and where it came from: MLflow, ledger, lineage.

The port that the rest of tidegate sees. One implementation, registry/mlflow_registry.py; between a
laptop and a cluster only its address differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.artifacts import DatasetRef, ModelVersion, RunRef


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """Where a run comes from: what is known before training starts.

    `diff` is the binary patch from `git_commit` to the files as they were; empty for a clean tree.
    """

    data: DatasetRef
    params: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str = ""
    diff: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A fitted estimator and what its MLflow folder must say about it.

    `inputs` are a few rows as the estimator takes them (input example and signature), `metadata` is stored in
    the folder's MLmodel file under `tidegate` and `code` are the files and folders that travel with it.
    """

    estimator: Any
    inputs: pd.DataFrame
    requirements: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[Path, ...] = ()
    allow_pickle: bool = False


class Registry(Protocol):
    """Runs, versions and aliases of one registered model."""

    def running(self, source: RunSource) -> AbstractContextManager[str]:
        """Open one run for the block and give its id; the block's exception marks it failed."""

    def log_model(self, run_id: str, model: TrainedModel, folder: Path) -> str:
        """Log the estimator as the run's model, copy its folder to `folder`; gives the folder's sha256."""

    def log_results(self, run_id: str, metrics: Mapping[str, float], files: Path | None = None) -> None:
        """Add metrics, and every file of a folder, to a run."""

    def page(self, run_id: str) -> str | None:
        """The address where a browser shows a run's files; None where there are no pages, as with a bare database."""

    def result(self, run_id: str, name: str) -> bytes | None:
        """The content of one file that `log_results` added to a run; None if the run has none of that name."""

    def find_run(self, run_id: str) -> str | None:
        """The run's id in MLflow, or that of the copy logged after it was lost; None if there is neither."""

    def register(self, run: RunRef) -> ModelVersion:
        """The version of this run: made now, or found if an earlier attempt made it."""

    def get(self, reference: int | str) -> ModelVersion:
        """The version with this number or alias."""

    def list(self) -> tuple[ModelVersion, ...]:
        """Every version, newest first."""

    def set_alias(self, alias: str, version: int) -> None:
        """Point `alias` at `version`."""

    def tag_image(self, version: int, digest: str) -> None:
        """Say at `version` which image it became."""

    def delete_alias(self, alias: str) -> None:
        """Remove `alias`; nothing happens if it does not exist."""

    def fetch(self, version: ModelVersion, cache: Path) -> Path:
        """The version's model folder under `cache`, its content checked against the recorded sha256."""
