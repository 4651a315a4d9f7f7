"""A store in a bucket, or anywhere else fsspec can create a file only if it is absent."""

from __future__ import annotations

from typing import Any

from tidegate.core.errors import UsageError
from tidegate.core.store import StoreError


class BucketStore:
    """Objects below the prefix of `url`; listings are never cached, since other machines write too."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"The store {url} cannot be opened: {error}",
                "Install the file system's package (s3fs, gcsfs, adlfs) or correct `store:` in tidegate.yaml.",
            ) from error

    @property
    def url(self) -> str:
        """The address, as the user wrote it."""
        return self._url

    @property
    def filesystem(self) -> Any:
        """The bucket's file system."""
        return self._files

    def location(self, path: str) -> str:
        """The object's whole address."""
        return str(self._files.unstrip_protocol(self._full(path)))

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Create the object by the backend's own conditional write (S3: If-None-Match)."""
        full = self._full(path)
        try:
            self._put(full, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"Cannot write {full}: {error}", "`tidegate doctor` probes the store.") from error
        return True

    def write(self, path: str, content: bytes) -> None:
        """Replace the object; object stores do that in one step."""
        self._put(self._full(path), content, mode="overwrite")

    def read(self, path: str) -> bytes:
        """Return the content; FileNotFoundError if there is none."""
        return bytes(self._files.cat_file(self._full(path)))

    def exists(self, path: str) -> bool:
        """Whether the object is there."""
        return bool(self._files.isfile(self._full(path)))

    def list(self, prefix: str) -> list[str]:
        """Every object below `prefix`, sorted."""
        skip = len(self._root.rstrip("/")) + 1
        return sorted(str(name)[skip:] for name in self._files.find(self._full(prefix)))

    def delete(self, path: str) -> None:
        """Remove the object if it is there."""
        if self.exists(path):
            self._files.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _put(self, full: str, content: bytes, mode: str) -> None:
        try:
            self._files.pipe_file(full, content, mode=mode)
        except FileNotFoundError:
            bucket = self._root.split("/", 1)[0]
            if bucket and not self._files.exists(bucket):
                # fsspec would make it, and a mistyped name would get a store of its own.
                raise StoreError(f"There is no bucket {bucket}.", "Make it, or correct `store:`.") from None
            # Only where fsspec fronts a real file system: object stores have no folders, and asking costs as much as
            # the write itself.
            self._files.makedirs(full.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(full, content, mode=mode)
