"""The one place for files that must survive: a folder on disk or a bucket, same layout, same promises.

Two promises carry the whole ledger: `put_if_absent` has exactly one winner, and a file is either
whole or absent, also after a crash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tidegate.core.errors import TidegateError


class Store(Protocol):
    """Files by relative POSIX path. `local.py` is a folder, `bucket.py` anything fsspec can write to."""

    @property
    def url(self) -> str:
        """Where it is, as the user wrote it."""

    @property
    def filesystem(self) -> Any | None:
        """The fsspec file system that others read it through; None: `location` is a plain path of this machine."""

    def location(self, path: str) -> str:
        """Where a file is, for libraries that read it themselves: a path, or an address of `filesystem`."""

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Create the file, or return False because somebody else already did."""

    def write(self, path: str, content: bytes) -> None:
        """Replace the file as one step."""

    def read(self, path: str) -> bytes:
        """Return the content; FileNotFoundError if there is none."""

    def exists(self, path: str) -> bool:
        """Whether the file is there."""

    def list(self, prefix: str) -> list[str]:
        """Every file below the folder `prefix`, as paths of this store, sorted."""

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""


class StoreError(TidegateError):
    """The store cannot be written or read."""


def open_store(url: str) -> Store:
    """Open `url`: a path, `file://...`, or an address that fsspec knows (`s3://bucket/prefix`)."""
    scheme = urlsplit(url).scheme
    # fsspec's own `local` file system would let two writers win.
    if scheme in {"", "file", "local"} or len(scheme) == 1:
        from tidegate.core.store.local import LocalStore

        return LocalStore(Path(url.removeprefix("file://").removeprefix("local://")))
    from tidegate.core.store.bucket import BucketStore

    return BucketStore(url)
