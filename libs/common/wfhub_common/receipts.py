"""Receipts: the proof-store's signed word that it holds some bytes for an attempt.

A signature covers the DSSE pre-authentication encoding of RECEIPT_TYPE and the canonical JSON of
all fields but `key_id` and `signature`; `key_id` must name the key that is checked against.
Raises: Corrupt (`receipt-signature`).
"""

from wfhub_common import digests, dsse, signing
from wfhub_common.errors import Corrupt
from wfhub_common.messages import Receipt

RECEIPT_TYPE = "application/vnd.wfhub.receipt.v1+json"


def sign(receipt: Receipt, key: signing.PrivateKey) -> Receipt:
    signature = signing.sign(key, _signed_bytes(receipt))
    return receipt.model_copy(
        update={
            "key_id": signing.key_id(key.public_key()),
            "signature": signing.to_base64(signature),
        }
    )


def verify(receipt: Receipt, key: signing.PublicKey) -> None:
    if receipt.key_id != signing.key_id(key):
        raise _refused(receipt, f"it names the key {receipt.key_id[:80]!r}, which is not trusted")
    try:
        signature = signing.from_base64(receipt.signature)
    except ValueError as e:
        raise _refused(receipt, "its signature is not base64") from e
    if not signing.verify(key, signature, _signed_bytes(receipt)):
        raise _refused(receipt, "its signature does not match its fields")


def _signed_bytes(receipt: Receipt) -> bytes:
    fields = receipt.model_dump(mode="json", exclude={"key_id", "signature"})
    return dsse.pae(RECEIPT_TYPE, digests.canonical_json(fields))


def _refused(receipt: Receipt, why: str) -> Corrupt:
    return Corrupt(
        "receipt-signature",
        f"the receipt for {receipt.name[:200]!r} of {receipt.attempt_id[:64]} is refused: {why};"
        " ask the proof-store for it again",
        name=receipt.name[:200],
    )
