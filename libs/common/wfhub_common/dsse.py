"""DSSE envelopes (Dead Simple Signing Envelope, v1): a payload, its type, and signatures over both.

Shape: {"payloadType", "payload": base64, "signatures": [{"keyid", "sig": base64}]}. What is signed
is the pre-authentication encoding `pae`, so that bytes of one type never pass as another's.
Raises: Corrupt (`envelope-malformed`, `envelope-signature`), with `fault`: `file` when the envelope
was changed or broken, `keys` when no trusted key made any of its signatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wfhub_common import signing
from wfhub_common.errors import Corrupt

SIGNATURES_MAX = 16


class Signature(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    keyid: str
    sig: str


class Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    payloadType: str
    payload: str
    signatures: list[Signature] = Field(min_length=1, max_length=SIGNATURES_MAX)


@dataclass(frozen=True)
class Opened:
    """What a trusted key vouches for."""

    payload_type: str
    payload: bytes
    key: signing.PublicKey


def pae(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: signing.PrivateKey) -> Envelope:
    signature = signing.sign(key, pae(payload_type, payload))
    return Envelope(
        payloadType=payload_type,
        payload=signing.to_base64(payload),
        signatures=[
            Signature(
                keyid=signing.key_id(key.public_key()),
                sig=signing.to_base64(signature),
            )
        ],
    )


def open_(envelope: dict[str, Any], trusted_keys: Sequence[signing.PublicKey]) -> Opened:
    """The payload, if a trusted key signed it. `keyid` only chooses which key to try."""
    try:
        parsed = Envelope.model_validate(envelope)
        payload = signing.from_base64(parsed.payload)
        signatures = [(each.keyid, signing.from_base64(each.sig)) for each in parsed.signatures]
        message = pae(parsed.payloadType, payload)
    except (ValidationError, ValueError) as e:
        raise Corrupt(
            "envelope-malformed",
            f"this is not a DSSE envelope; get the proof again from its source: {e}",
            fault="file",
        ) from e
    known = {signing.key_id(key): key for key in trusted_keys}
    signed_by = [(known[name], signature) for name, signature in signatures if name in known]
    if not signed_by:
        raise Corrupt(
            "envelope-signature",
            "the envelope is signed by no key that you trust: it names "
            + ", ".join(name[:80] for name, _ in signatures)
            + "; trust that key if you know whose it is, otherwise do not use the proof",
            fault="keys",
        )
    for key, signature in signed_by:
        if not signing.verify(key, signature, message):
            raise Corrupt(
                "envelope-signature",
                "the envelope's signature does not match its payload: one of them was changed"
                " after signing; get the proof again from its source",
                fault="file",
            )
    return Opened(parsed.payloadType, payload, signed_by[0][0])
