"""A store in a folder: temporary file, fsync, then `link` (one winner) or `rename` (last one wins)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from tidegate.core.store import StoreError

_REASONS = {
    errno.ENOSPC: "The disk is full: make room, then run the same command again; nothing was half-written.",
    errno.EDQUOT: "Your disk quota is used up: make room, then run the same command again.",
    errno.EFBIG: "The file is larger than this user may write (ulimit -f).",
    errno.EROFS: "The disk is mounted read-only: choose another folder with `store:` in tidegate.yaml.",
    errno.EACCES: "This user may not write there: change the owner, or `store:` in tidegate.yaml.",
}


class LocalStore:
    """Files below `root`; hidden names are ours and never listed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def filesystem(self) -> None:
        """None: files are read where they are."""
        return

    def location(self, path: str) -> str:
        """The file's path."""
        return str(self.root / path)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Create the file; `link` fails for all but the first, also between processes."""
        with self._written(path, content) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            _sync_folder(target.parent)
            return True

    def write(self, path: str, content: bytes) -> None:
        """Replace the file in one step: a reader sees the old or the new content."""
        with self._written(path, content) as (temporary, target):
            temporary.replace(target)
            _sync_folder(target.parent)

    def read(self, path: str) -> bytes:
        """Return the content; FileNotFoundError if there is none."""
        return (self.root / path).read_bytes()

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return (self.root / path).is_file()

    def list(self, prefix: str) -> list[str]:
        """Every file below `prefix`, sorted; files being written are not there yet."""
        found = []
        for folder, folders, files in os.walk(self.root / prefix):
            folders[:] = [name for name in folders if not name.startswith(".")]
            here = Path(folder).relative_to(self.root)
            found += [(here / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        (self.root / path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, path: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """Yield a durable temporary file beside its target, and remove it whatever happens."""
        target = self.root / path
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary, target
        except OSError as error:
            if error.errno not in _REASONS:
                raise
            raise StoreError(f"Cannot write {target}: {error.strerror}.", _REASONS[error.errno]) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
