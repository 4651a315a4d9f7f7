"""Where an image came from, as an in-toto statement with SLSA's predicate, in a DSSE envelope.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance, https://github.com/secure-systems-lab/dsse. The
signature is ed25519 over DSSE's pre-authentication encoding; without a key the envelope has none, and says so by that.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.artifacts import canonical
from tidegate.core.errors import TidegateError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from tidegate.core.artifacts import Release

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://slsa.dev/provenance/v1"
_BUILD_TYPE: Final = "https://tidegate.dev/image/v1"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is said about an image: its digest and name, what it stands on, the sha256 of its SBOM, and the tool."""

    digest: str
    reference: str
    base: str
    sbom: str
    builder: str


def statement(release: Release, facts: Facts) -> dict[str, Any]:
    """The statement: the image is this release, on this base, with these packages."""
    sources: list[dict[str, Any]] = [
        {"name": "base", "uri": f"docker://{facts.base}"},
        {"name": "bundle", "digest": {"sha256": release.bundle}},
        {"name": "sbom", "digest": {"sha256": facts.sbom}},
        *({"name": one.path, "digest": {"md5": one.md5}} for one in release.data),
    ]
    if release.git_commit:
        sources.append({"name": "code", "digest": {"gitCommit": release.git_commit}})
    return {
        "_type": _STATEMENT,
        "subject": [{"name": facts.reference, "digest": {"sha256": facts.digest.removeprefix("sha256:")}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"release": release.id, "model": release.model, "version": release.version},
                "internalParameters": {"run": release.run_id, "bento": release.bento, "dirty": release.git_dirty},
                "resolvedDependencies": sources,
            },
            "runDetails": {"builder": {"id": f"https://tidegate.dev/builder/{facts.builder}"}},
        },
    }


def envelope(stated: dict[str, Any], key: Ed25519PrivateKey | None) -> bytes:
    """The DSSE envelope of a statement, signed if there is a key."""
    payload = canonical(stated)
    signatures = []
    if key is not None:
        signed = base64.b64encode(key.sign(_encoded(payload))).decode()
        signatures.append({"keyid": key_id(key.public_key()), "sig": signed})
    document = {"payloadType": PAYLOAD_TYPE, "payload": base64.b64encode(payload).decode(), "signatures": signatures}
    return canonical(document) + b"\n"


def opened(content: bytes, key: Ed25519PublicKey | None) -> dict[str, Any]:
    """The statement of an envelope; with a key, one of its signatures must be that key's.

    Raises:
        TidegateError: it is no envelope, or nobody with that key signed it.
    """
    try:
        document = json.loads(content)
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in document["signatures"]]
        stated: dict[str, Any] = json.loads(payload)
    except (ValueError, KeyError, TypeError) as error:
        raise TidegateError("The provenance is damaged.", "The image will not be used: build it again.") from error
    if document["payloadType"] != PAYLOAD_TYPE:
        raise TidegateError("The provenance is of another type.", "The image will not be used: build it again.")
    if key is not None and not any(_signed(key, one, payload) for one in signatures):
        raise TidegateError(
            f"Nobody with the key {key_id(key)} signed this provenance"
            + (", or it was changed since." if signatures else ": it has no signature."),
            "The image will not be used. `tidegate package --image` with image.sign builds and signs it again.",
        )
    return stated


def private_key(pem: str) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        UsageError: it is no ed25519 key in PEM, or has a password.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise _no_key("image.sign") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise _no_key("image.sign")
    return found


def public_key(pem: bytes) -> Ed25519PublicKey:
    """The key that signatures are checked with.

    Raises:
        UsageError: it is no ed25519 public key in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(pem)
    except ValueError as error:
        raise _no_key("The public key") from error
    if not isinstance(found, Ed25519PublicKey):
        raise _no_key("The public key")
    return found


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the sha256 of the raw key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _signed(key: Ed25519PublicKey, signature: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _encoded(payload))
    except InvalidSignature:
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the type is signed with the payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _no_key(what: str) -> UsageError:
    return UsageError(
        f"{what} is no ed25519 key in PEM without a password.",
        "Make one: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub",
    )
