"""The tags by which runs and versions in MLflow say where they come from."""

from __future__ import annotations

from typing import Final

COMMIT_TAG: Final = "mlflow.source.git.commit"
DIRTY_TAG: Final = "tidegate.dirty"
DATA_TAG: Final = "tidegate.data.md5"
PATH_TAG: Final = "tidegate.data.path"
HASH_TAG: Final = "tidegate.model.sha256"
RUN_TAG: Final = "tidegate.run"
ADOPTED_TAG: Final = "tidegate.adopted"
OWNER_TAG: Final = "tidegate.process"
RESTORES_TAG: Final = "tidegate.restores"
"""A copy of a lost run carries the lost id in this tag, so that files which name the lost id stay true."""
IMAGE_TAG: Final = "tidegate.image.digest"
STAGE_TAG: Final = "tidegate.stage"
"""`<what went into it, hashed>/<once>` of the execution of a user's own training stage that made the run."""
