"""What an image's archive says, and what it cannot hide."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import TidegateError
from tidegate.serving.image import archive, sbom


def tarred(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return held.getvalue()


def saved(
    file: Path, layers: Sequence[Mapping[str, bytes]], claimed: Sequence[Mapping[str, bytes]] | None = None
) -> Path:
    """A Docker archive of these layers, whose config names the layers `claimed`."""
    tars = [tarred(layer) for layer in layers]
    ids = ["sha256:" + hashlib.sha256(tarred(layer)).hexdigest() for layer in claimed or layers]
    config: dict[str, Any] = {"config": {"Labels": {"a": "b"}}, "rootfs": {"diff_ids": ids}, "history": []}
    names = [f"{number}.tar" for number in range(len(tars))]
    manifest = [{"Config": "c.json", "Layers": names}]
    parts = {"manifest.json": json.dumps(manifest).encode(), "c.json": json.dumps(config).encode()}
    file.write_bytes(tarred(parts | dict(zip(names, tars, strict=True))))
    return file


def test_later_layers_cover_and_remove_what_lies_below(tmp_path: Path) -> None:
    """What a container sees, and not what was once there."""
    layers = [
        {"app/a": b"old", "app/b": b"1", "lib/x": b"1", "lib/y": b"2"},
        {"./app/a": b"new", "app/.wh.b": b"", "lib/.wh..wh..opq": b"", "lib/z": b"3"},
    ]
    with archive.opened(saved(tmp_path / "image.tar", layers)) as image:
        assert {path: image.read(path) for path in image.files} == {"app/a": b"new", "lib/z": b"3"}
        assert image.below("/lib") == ["lib/z"]
        assert image.size == 10


def test_a_changed_layer_is_refused(tmp_path: Path) -> None:
    """The config names each layer by its hash, and the config's own hash is the digest."""
    file = saved(tmp_path / "image.tar", [{"model": b"theirs"}], claimed=[{"model": b"ours"}])
    with (
        pytest.raises(TidegateError, match=r"not what it says: the layer sha256:\w+ was changed"),
        archive.opened(file),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"no tar at all", tarred({"manifest.json": b"[]"})])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    """As an error of ours, whatever it is."""
    file = tmp_path / "image.tar"
    file.write_bytes(content)
    with pytest.raises(TidegateError, match="not what it says"), archive.opened(file):
        pass


def test_the_bill_lists_what_pip_and_debian_installed(tmp_path: Path) -> None:
    """By the names that scanners know; a removed package is not listed, and the same image gives the same bytes."""
    status = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\n\n"
    removed = b"Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    python = b"Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.2\n\nText\n"
    layer = {"var/lib/dpkg/status": status + removed, "opt/tidegate/lib/foo_bar-1.2.dist-info/METADATA": python}
    with archive.opened(saved(tmp_path / "image.tar", [layer])) as image:
        document, again = sbom.of(image), sbom.of(image)
    assert document == again
    assert [one["purl"] for one in json.loads(document)["components"]] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64",
        "pkg:pypi/foo-bar@1.2",
    ]
