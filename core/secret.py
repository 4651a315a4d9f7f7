"""Secrets are references; this is the only place that follows one."""

from __future__ import annotations

import os
from pathlib import Path

from tidegate.core.errors import UsageError


def resolve(reference: str) -> str:
    """The secret behind `env:NAME` or `file:PATH`; it must never be logged.

    Raises:
        UsageError: it is not set, or only a cluster can read it.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name)
        if not value:
            raise UsageError(
                f"The environment variable {name} is not set.", f"tidegate.yaml refers to it: {reference}."
            )
        return value
    if kind == "file":
        try:
            return Path(name).expanduser().read_text().strip()
        except OSError as error:
            raise UsageError(
                f"{name} cannot be read: {error.strerror}.", f"tidegate.yaml refers to it: {reference}."
            ) from error
    raise UsageError(f"{reference} can only be read on a cluster.", "Locally use env:NAME or file:PATH.")
