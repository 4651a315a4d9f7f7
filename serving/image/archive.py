"""What an image holds, read from its archive: nothing of it is run, and nothing that it says is believed unhashed."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from tidegate.core.errors import TidegateError

_CHUNK: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `digest` of its uncompressed tar, its files' bytes, and the command that made it."""

    digest: str
    size: int
    made_by: str


@dataclass(frozen=True)
class Image:
    """An image: `digest` is the sha256 of its config, which names every layer's.

    `files` maps the path of each file that a container sees (`opt/tidegate/...`) to (layer, name in its tar).
    """

    digest: str
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    files: Mapping[str, tuple[int, str]] = field(repr=False)
    _tars: tuple[tarfile.TarFile, ...] = field(repr=False)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the image."""
        found: Mapping[str, str] = self.config.get("config", {}).get("Labels") or {}
        return found

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(layer.size for layer in self.layers)

    def read(self, path: str) -> bytes:
        """The content of the regular file `path`."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> IO[bytes]:
        """Open the regular file `path`.

        Raises:
            TidegateError: it is none.
        """
        layer, name = self.files[path]
        found = self._tars[layer].extractfile(name)
        if found is None:
            raise TidegateError(f"{path} of the image is no regular file.", "It is not as tidegate builds it.")
        return found

    def below(self, folder: str) -> list[str]:
        """Every file under `folder`, sorted."""
        return sorted(path for path in self.files if path.startswith(f"{folder.strip('/')}/"))


@contextmanager
def opened(file: Path) -> Iterator[Image]:
    """Open a Docker archive; every layer is hashed against the config, and the config gives the image's digest.

    Raises:
        TidegateError: it is damaged, or a layer is not the one that the config names.
    """
    try:
        with tarfile.open(file) as outer:
            manifest = json.loads(_member(outer, "manifest.json").read())[0]
            raw = _member(outer, manifest["Config"]).read()
            config = json.loads(raw)
            expected = config["rootfs"]["diff_ids"]
            names = manifest["Layers"]
            if len(names) != len(expected):
                raise _damaged(f"it has {len(names)} layers, and its config names {len(expected)}")
            for name, diff_id in zip(names, expected, strict=True):
                if _sha256(_layer(outer, name)) != diff_id:
                    raise _damaged(f"the layer {diff_id[:19]} was changed")
            digest = "sha256:" + hashlib.sha256(raw).hexdigest()
            with ExitStack() as open_layers:
                tars = tuple(open_layers.enter_context(tarfile.open(fileobj=_layer(outer, name))) for name in names)
                yield Image(digest, config, _described(config, tars), _merged(tars), tars)
    except (tarfile.TarError, KeyError, IndexError, ValueError, TypeError) as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error


def _member(outer: tarfile.TarFile, name: str) -> IO[bytes]:
    found = outer.extractfile(name)
    if found is None:
        raise _damaged(f"{name} is missing")
    return found


def _layer(outer: tarfile.TarFile, name: str) -> IO[bytes]:
    """The uncompressed tar of a layer."""
    import gzip

    raw = _member(outer, name)
    compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.open(raw) if compressed else raw  # type: ignore[return-value] # a GzipFile reads bytes too


def _sha256(stream: IO[bytes]) -> str:
    whole = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        whole.update(chunk)
    return "sha256:" + whole.hexdigest()


def _described(config: Mapping[str, Any], tars: tuple[tarfile.TarFile, ...]) -> tuple[Layer, ...]:
    commands = [one.get("created_by", "") for one in config.get("history", ()) if not one.get("empty_layer")]
    commands += [""] * len(tars)
    return tuple(
        Layer(digest, sum(member.size for member in tar if member.isfile()), command)
        for digest, tar, command in zip(config["rootfs"]["diff_ids"], tars, commands, strict=False)
    )


def _merged(tars: tuple[tarfile.TarFile, ...]) -> dict[str, tuple[int, str]]:
    """What is left when the layers lie on each other: a whiteout removes what lies below it."""
    files: dict[str, tuple[int, str]] = {}
    for number, tar in enumerate(tars):
        added: dict[str, tuple[int, str]] = {}
        for member in tar:
            path = PurePosixPath(member.name.removeprefix("./").lstrip("/"))
            if path.name == _OPAQUE:
                files = _without(files, str(path.parent))
            elif path.name.startswith(_WHITEOUT):
                files = _without(files, str(path.with_name(path.name.removeprefix(_WHITEOUT))))
            elif not member.isdir():
                added[str(path)] = (number, member.name)
        files |= added
    return files


def _without(files: dict[str, tuple[int, str]], gone: str) -> dict[str, tuple[int, str]]:
    return {path: where for path, where in files.items() if path != gone and not path.startswith(f"{gone}/")}


def _damaged(why: str) -> TidegateError:
    return TidegateError(
        f"The image is not what it says: {why}.", "It will not be used. `tidegate package --image` builds it again."
    )
