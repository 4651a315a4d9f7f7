"""The software bill of materials of an image, CycloneDX 1.6: what pip and Debian say is installed in its layers.

It is read from the image and not from what was meant to go in. Same image, same bytes: there is no time in it.
https://cyclonedx.org/docs/1.6/json/, names after https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from typing import Any, Final
from urllib.parse import quote

from tidegate.serving.image.archive import Image
from tidegate.serving.image.containerfile import RELEASE_LABEL, TITLE_LABEL, VERSION_LABEL

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_DPKG: Final = ("var/lib/dpkg/status", "var/lib/dpkg/status.d/")
_PYTHON: Final = re.compile(r"\.(dist|egg)-info/(METADATA|PKG-INFO)$")


def of(image: Image) -> bytes:
    """The document, as JSON that ends with a newline."""
    components = sorted([*_python(image), *_debian(image)], key=lambda one: str(one["bom-ref"]))
    labels = image.labels
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, image.digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image.digest,
                "name": labels.get(TITLE_LABEL, ""),
                "version": labels.get(VERSION_LABEL, ""),
                "hashes": [{"alg": "SHA-256", "content": image.digest.removeprefix("sha256:")}],
                "properties": [{"name": RELEASE_LABEL, "value": labels.get(RELEASE_LABEL, "")}],
            }
        },
        "components": list({one["bom-ref"]: one for one in components}.values()),
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _python(image: Image) -> Iterator[dict[str, Any]]:
    for path in image.files:
        if _PYTHON.search(path):
            described = HeaderParser().parsestr(image.read(path).decode(errors="replace"))
            name = re.sub(r"[-_.]+", "-", str(described["Name"])).lower()
            yield _component(name, str(described["Version"]), f"pkg:pypi/{name}@{quote(str(described['Version']))}")


def _debian(image: Image) -> Iterator[dict[str, Any]]:
    whole, parts = _DPKG
    texts = [path for path in image.files if path == whole or path.startswith(parts)]
    for path in texts:
        for paragraph in image.read(path).decode(errors="replace").split("\n\n"):
            fields = HeaderParser().parsestr(paragraph)
            if not fields["Package"] or not str(fields["Status"] or " installed").endswith(" installed"):
                continue
            name, version = str(fields["Package"]), str(fields["Version"])
            purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={fields['Architecture']}"
            yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
