"""Helm, the one tool that fills in our charts; a single file, found on PATH or where the hint puts it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import TidegateError, UsageError

VERSION: Final = "v4.2.4"
KUBERNETES: Final = "1.34.0"
"""What manifests are made for where no cluster says otherwise."""
APIS: Final = (
    "argoproj.io/v1alpha1/AnalysisTemplate", "argoproj.io/v1alpha1/Rollout",
    "gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy", "gateway.envoyproxy.io/v1alpha1/EnvoyProxy",
    "gateway.networking.k8s.io/v1/Gateway", "gateway.networking.k8s.io/v1/HTTPRoute",
    "monitoring.coreos.com/v1/ServiceMonitor",
)  # fmt: skip
"""Kinds that charts ask for, and that a rendering without a cluster takes for granted."""

_SECONDS: Final = 120.0


def cache() -> Path:
    """Where the hint of `find` puts helm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "bin"


def find() -> Path:
    """The helm of this machine.

    Raises:
        UsageError: there is none.
    """
    for place in (shutil.which("helm"), cache() / "helm"):
        if place is not None and Path(place).is_file():
            return Path(place)
    raise UsageError(
        "There is no helm on this machine, and it fills in the charts.",
        f"Get it with `GOBIN={cache()} go install helm.sh/helm/v4/cmd/helm@{VERSION}`, or from helm.sh, or with the "
        "system's package manager.",
    )


def chart(name: str) -> Path:
    """The folder of the chart `tidegate` or `tidegate-model`, as this version of tidegate brings it."""
    # Files without an `__init__.py`: their path is asked for, not their spec.
    return Path(next(iter(importlib.import_module("tidegate.charts").__path__))) / name


def template(
    folder: Path,
    release: str,
    namespace: str,
    values: Mapping[str, Any],
    *,
    apis: Sequence[str] = APIS,
    tests: bool = False,
) -> str:
    """The chart filled in, without a cluster.

    Args:
        folder: of the chart.
        release: Helm's name for it.
        namespace: where the objects go.
        values: laid over the chart's own.
        apis: kinds that the cluster is taken to know, as GROUP/VERSION/KIND.
        tests: with the pods of `helm test`.

    Raises:
        TidegateError: helm refused; its own words are the message.
    """
    import yaml

    with tempfile.TemporaryDirectory(prefix="tidegate-values-") as scratch:
        file = Path(scratch) / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values), sort_keys=True), encoding="utf-8")
        command = [str(find()), "template", release, str(folder), "--namespace", namespace, "--values", str(file)]
        command += ["--kube-version", KUBERNETES, *(word for one in apis for word in ("--api-versions", one))]
        command += [] if tests else ["--skip-tests"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode != 0:
        raise TidegateError(f"helm refused the chart {folder.name}: {_reason(done.stderr)}", "Correct that value.")
    return done.stdout


def _reason(text: str) -> str:
    """What helm means, without where in its own files it noticed."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    said = " ".join(lines) or "it did not say why"
    _, called, rest = said.partition("error calling fail: ")
    return rest if called else said.removeprefix("Error: ")
