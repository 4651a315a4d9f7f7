"""The signed word about where an image came from."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tidegate.core.errors import TidegateError, UsageError
from tidegate.serving.image import provenance

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATED = {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "demand"}]}


def changed(content: bytes, **fields: Any) -> bytes:
    """The envelope with other fields."""
    return json.dumps(json.loads(content) | fields).encode()


def test_what_was_signed_is_read_back() -> None:
    """With the key's other half; without a key the statement is read and nothing is claimed."""
    signed = provenance.envelope(STATED, KEY)
    assert provenance.opened(signed, KEY.public_key()) == STATED
    assert provenance.opened(provenance.envelope(STATED, None), None) == STATED


def test_the_signature_is_over_dsses_own_encoding() -> None:
    """Any tool that knows DSSE can check it: `DSSEv1 <length> <type> <length> <payload>`."""
    document = json.loads(provenance.envelope(STATED, KEY))
    payload = base64.b64decode(document["payload"])
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    KEY.public_key().verify(base64.b64decode(document["signatures"][0]["sig"]), encoded)


def test_another_statement_under_the_same_signature_is_refused() -> None:
    """A changed payload, another key and no signature at all are told apart from a sound one."""
    signed = provenance.envelope(STATED, KEY)
    other = base64.b64encode(b'{"subject":[]}').decode()
    with pytest.raises(TidegateError, match="or it was changed since"):
        provenance.opened(changed(signed, payload=other), KEY.public_key())
    with pytest.raises(TidegateError, match="or it was changed since"):
        provenance.opened(signed, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(TidegateError, match="it has no signature"):
        provenance.opened(changed(signed, signatures=[]), KEY.public_key())


@pytest.mark.parametrize("content", [b"", b"[]", b'{"payload": "%", "signatures": [], "payloadType": "x"}'])
def test_what_is_no_envelope_is_refused(content: bytes) -> None:
    """As an error of ours."""
    with pytest.raises(TidegateError, match="The provenance is damaged"):
        provenance.opened(content, None)


def test_a_key_of_another_kind_says_how_to_make_one() -> None:
    """Whatever the file holds, it is not shown."""
    with pytest.raises(UsageError, match="no ed25519 key") as caught:
        provenance.private_key("secret words")
    assert "openssl genpkey -algorithm ed25519" in caught.value.hint
    assert "secret" not in str(caught.value)
