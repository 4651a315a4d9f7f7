"""Files that a command leaves where a person said."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from tidegate.core.errors import TidegateError


def replace_file(path: Path, text: str) -> None:
    """Write the whole file or nothing; one that is there is replaced in one step, missing folders are made.

    Raises:
        TidegateError: it cannot be written; names the file and why.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise TidegateError(
            f"Cannot write {path}: {error.strerror}.", "Nothing was left there; name another file with --output."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
