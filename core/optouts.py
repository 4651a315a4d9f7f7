"""No library below us reports home: tidegate's users opted into nothing.

Set before the libraries are imported; child processes inherit it. A value that the user set stays.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

OPT_OUTS: Final = {
    "DO_NOT_TRACK": "true",  # MLflow wants the word, others take any value
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
}


def opt_out(environment: MutableMapping[str, str] | None = None) -> None:
    """Set every opt-out that is not set yet, in `environment` or in this process's own."""
    target = os.environ if environment is None else environment
    for name, value in OPT_OUTS.items():
        target.setdefault(name, value)
