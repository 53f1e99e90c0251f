"""Standard Webhooks 1.0: how a delivery is signed with a shared secret, and how that is checked.

Signed is `{webhook-id}.{webhook-timestamp}.{body}` by HMAC-SHA256; the header `webhook-signature`
has one `v1,<base64>` for each secret that is valid now, with spaces between. A secret is written
`whsec_` and base64 of 24 to 64 random bytes. Standard library only.
Source: standardwebhooks.com, the specification. Raises: ValueError.
"""

import base64
import binascii
import hashlib
import hmac
import secrets as random_source
from collections.abc import Iterable, Mapping

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
SECRET_BYTES_RANGE = range(24, 65)
ID_HEADER, TIMESTAMP_HEADER = "webhook-id", "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
SIGNATURES_MAX = 32  # looked at in one header
_VERSION = "v1"


def new_secret() -> str:
    drawn = random_source.token_bytes(SECRET_BYTES)
    return SECRET_PREFIX + base64.b64encode(drawn).decode()


def headers(event_id: str, sent_at_s: int, body: bytes, secrets: Iterable[str]) -> dict[str, str]:
    signed = " ".join(signature(secret, event_id, sent_at_s, body) for secret in secrets)
    return {ID_HEADER: event_id, TIMESTAMP_HEADER: str(sent_at_s), SIGNATURE_HEADER: signed}


def signature(secret: str, event_id: str, sent_at_s: int, body: bytes) -> str:
    """`event_id` must be without a full stop, or the parts could be read in another way."""
    if "." in event_id:
        raise ValueError("an id with a full stop cannot be signed")
    content = f"{event_id}.{sent_at_s}.".encode() + body
    digest = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return f"{_VERSION},{base64.b64encode(digest).decode()}"


def fault(
    given: Mapping[str, str],
    body: bytes,
    secrets: Iterable[str],
    *,
    now_s: float,
    tolerance_s: float,
) -> str | None:
    """What is wrong with a delivery, as a sentence; None: one of `secrets` signed it, lately."""
    found = {name.lower(): value for name, value in given.items()}
    event_id = found.get(ID_HEADER, "")
    sent_at, signatures = found.get(TIMESTAMP_HEADER, ""), found.get(SIGNATURE_HEADER, "")
    if not (event_id and sent_at and signatures):
        return f"{ID_HEADER}, {TIMESTAMP_HEADER} and {SIGNATURE_HEADER} have to be there"
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= 12) or "." in event_id:
        return f"{ID_HEADER} or {TIMESTAMP_HEADER} is malformed"
    if abs(now_s - int(sent_at)) > tolerance_s:
        return f"it was sent more than {tolerance_s:g} s from now: a replay, or a wrong clock"
    if not _signed(signatures, [signature(s, event_id, int(sent_at), body) for s in secrets]):
        return "no signature is by a secret that is known here"
    return None


def _signed(given: str, wanted: list[str]) -> bool:
    """All are compared, each in constant time."""
    compared = [
        hmac.compare_digest(one.encode(), other.encode())
        for one in given.split()[:SIGNATURES_MAX]
        for other in wanted
    ]
    return any(compared)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in SECRET_BYTES_RANGE:
        raise ValueError("a secret is `whsec_` and the base64 of 24 to 64 bytes") from None
    return key
