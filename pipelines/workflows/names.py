"""Names and labels of what the pipelines are in a cluster; the runner finds by them what the builders made."""

from __future__ import annotations

import hashlib
import re
from typing import Final

MODEL: Final = "tidegate.dev/model"
ENVIRONMENT: Final = "tidegate.dev/environment"
FLOW: Final = "tidegate.dev/flow"
# Argo appends a time of eleven characters to a CronWorkflow's name, and 63 is a label's limit.
_LONGEST: Final = 52


def label(model: str) -> str:
    """The model's name as a DNS label, as the charts make it."""
    return re.sub(r"[^a-z0-9-]+", "-", model.lower())[:_LONGEST].strip("-")


def of(flow: str, model: str, more: str = "") -> str:
    """`tidegate-FLOW-MODEL` and perhaps `-MORE`; a long model's name ends in a hash in place of its rest."""
    end = f"-{more}" if more else ""
    whole = f"tidegate-{flow}-{label(model)}"
    room = _LONGEST - len(end)
    if len(whole) > room:
        mark = hashlib.sha256(model.encode()).hexdigest()[:6]
        whole = f"{whole[: room - 7].rstrip('-')}-{mark}"
    return whole + end


def labels(model: str, environment: str) -> dict[str, str]:
    """What every object of a model's pipelines carries."""
    return {
        "app.kubernetes.io/name": label(model),
        "app.kubernetes.io/part-of": "tidegate",
        "app.kubernetes.io/managed-by": "tidegate",
        "app.kubernetes.io/component": "pipeline",
        MODEL: label(model),
        ENVIRONMENT: environment,
    }
