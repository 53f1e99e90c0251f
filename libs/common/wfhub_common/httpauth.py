"""Service-to-service HTTP: bearer tokens of 256 bits, of which the server holds only the SHA-256.

A server's `SERVICE_TOKENS_FILE` is JSON: {sender: sha256 hex}. Compared in constant time. Whose
a token is stands in SENDER_HEADER of what who asks for the public key is answered (service_token).
"""

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path

SERVICE_TOKEN_PREFIX = "wst_"
API_TOKEN_PREFIX = "wht_"
ATTEMPT_TOKEN_PREFIX = "wat_"
TOKEN_BYTES = 32
SENDER_HEADER = "Wfhub-Sender"


def new_token(prefix: str) -> str:
    return prefix + secrets.token_urlsafe(TOKEN_BYTES)


def token_of(prefix: str, name: str, key: str) -> str:
    """The one token that this key has for a name; without a key, any. Who has neither key nor token
    learns nothing of them."""
    if not key:
        return new_token(prefix)
    digest = hmac.digest(key.encode(), f"{prefix}{name}".encode(), "sha256")
    return prefix + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(header: str | None) -> str | None:
    """The token of an `Authorization: Bearer` header (RFC 6750), or None."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def load_accepted(path: str) -> dict[str, str]:
    try:
        accepted = json.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise SystemExit(f"bad settings: SERVICE_TOKENS_FILE: cannot read {path}: {e}") from e
    if not isinstance(accepted, dict):
        raise SystemExit(
            f"bad settings: SERVICE_TOKENS_FILE: {path} is no object: it is to be what"
            " `wfhub-admin secrets` made"
        )
    return {str(sender): str(digest) for sender, digest in accepted.items()}


def sender_of(token: str | None, accepted: dict[str, str]) -> str | None:
    """Who holds this token, or None; takes the same time whichever entry matches."""
    found: str | None = None
    digest = token_sha256(token or "")
    for sender, expected in accepted.items():
        if hmac.compare_digest(digest, expected) and token:
            found = sender
    return found
