"""How the files that Envoy watches are written: whole, and with a version that changes only when the content does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from tidegate.serving.gateway.render import Document


def write_versioned(path: Path, make: Callable[[str], Document]) -> str:
    """Write a document whose version is the digest of its content, so that the same content is no change."""
    version = hashlib.sha256(json.dumps(make("")).encode()).hexdigest()[:16]
    replace(path, json.dumps(make(version), indent=1))
    return version


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write beside and rename in: a reader sees the old file or the new one, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    beside.replace(path)
