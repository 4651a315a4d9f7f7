"""Secrets are references; this is the only place that follows one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tidegate.core.errors import UsageError


def resolve(reference: str, root: Path) -> str:
    """The secret behind `env:NAME` or `file:PATH`; it must never be logged.

    Args:
        reference: as tidegate.yaml has it.
        root: the project; a relative path starts there, wherever the command was typed.

    Raises:
        UsageError: it is not set, empty, or only a cluster can read it.
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
        return _content(root / Path(name).expanduser(), reference)
    raise UsageError(f"{reference} can only be read on a cluster.", "Locally use env:NAME or file:PATH.")


def variables(references: Iterable[str]) -> frozenset[str]:
    """The environment variables that hold one of these secrets: who runs foreign code drops them."""
    return frozenset(name for kind, _, name in (one.partition(":") for one in references) if kind == "env")


def files(references: Iterable[str]) -> tuple[Path, ...]:
    """The files that hold one of these secrets; whoever keeps the project's files leaves them out."""
    named = (name for kind, _, name in (one.partition(":") for one in references) if kind == "file" and name)
    return tuple(Path(name).expanduser() for name in named)


def _content(name: Path, reference: str) -> str:
    hint = f"tidegate.yaml refers to it: {reference}."
    try:
        value = name.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.", hint) from error
    except UnicodeDecodeError:
        # Its message would show part of the secret.
        raise UsageError(f"{name} cannot be read: it is not text in UTF-8.", hint) from None
    if not value:
        raise UsageError(f"{name} is empty.", hint)
    return value
