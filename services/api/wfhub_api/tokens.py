"""API tokens: `wht_` and 256 random bits; the database holds an id, a name and the SHA-256.

The bootstrap token (ADMIN_TOKEN_SHA256) is known without the database, so that a broken
database is answered with 503, not with 401. Digests are compared in constant time.
Raises: RetryLater when the database cannot be reached.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.errors import Rejected
from wfhub_common.httpauth import API_TOKEN_PREFIX, new_token, token_sha256

ADMIN = "admin"  # the caller's name behind the bootstrap token
TOKENS_MAX = 1000  # live ones
NAME_CHARS_MAX = 100
NAME = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"  # no space at its ends

_CREATE = text("""
INSERT INTO api.token (token_id, sha256, name)
SELECT :id, :d, :n WHERE (SELECT count(*) FROM api.token WHERE revoked_at IS NULL) < :most
RETURNING token_id
""")


@dataclass(frozen=True)
class TokenRow:
    token_id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


async def caller_of(engine: AsyncEngine, token: str | None, admin_sha256: str) -> str | None:
    """The name behind a live token, or None."""
    if token is None or not token.startswith(API_TOKEN_PREFIX):
        return None
    if is_admin(token, admin_sha256):
        return ADMIN
    digest = token_sha256(token)
    async with db.transaction(engine) as connection:
        row = (
            await connection.execute(
                text("SELECT name, sha256 FROM api.token WHERE sha256 = :d AND revoked_at IS NULL"),
                {"d": digest},
            )
        ).first()
    if row is None or not hmac.compare_digest(digest, row.sha256):
        return None
    return str(row.name)


def is_admin(token: str | None, admin_sha256: str) -> bool:
    """Whether it is the bootstrap token."""
    if token is None or not admin_sha256:
        return False
    return hmac.compare_digest(token_sha256(token), admin_sha256)


async def create(engine: AsyncEngine, name: str) -> tuple[str, str]:
    """(token_id, token); the token is shown this once. Raises: Rejected."""
    if name == ADMIN or len(name) > NAME_CHARS_MAX or not re.fullmatch(NAME, name):
        raise Rejected(
            "token-name",
            f"name who has it: {NAME_CHARS_MAX} printable characters at most, and not {ADMIN}",
        )
    token_id, token = "tok_" + secrets.token_hex(8), new_token(API_TOKEN_PREFIX)
    async with db.transaction(engine) as connection:
        values = {"id": token_id, "d": token_sha256(token), "n": name, "most": TOKENS_MAX}
        row = (await connection.execute(_CREATE, values)).first()
    if row is None:
        raise Rejected(
            "too-many-tokens", f"there may be {TOKENS_MAX} live tokens: revoke one", status=409
        )
    return token_id, token


async def revoke(engine: AsyncEngine, token_id: str) -> None:
    """Raises: Rejected when there is no such live token."""
    async with db.transaction(engine) as connection:
        result = await connection.execute(
            text(
                "UPDATE api.token SET revoked_at = now()"
                " WHERE token_id = :id AND revoked_at IS NULL RETURNING token_id"
            ),
            {"id": token_id},
        )
        if result.first() is None:
            raise Rejected("token-not-found", f"there is no live token {token_id}", status=404)


async def every(engine: AsyncEngine) -> list[TokenRow]:
    async with db.transaction(engine) as connection:
        rows = await connection.execute(
            text("SELECT token_id, name, created_at, revoked_at FROM api.token ORDER BY created_at")
        )
        return [TokenRow(r.token_id, r.name, r.created_at, r.revoked_at) for r in rows]
