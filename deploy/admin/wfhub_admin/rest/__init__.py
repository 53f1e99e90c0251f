"""The schema `rest`: what other programs may read in SQL, or over HTTP by PostgREST.

Its views belong to the API's role and read what that one may read; `wfhub_reader` may read them,
and nothing else. PostgREST connects as that role, and takes requests that bear our token.
"""

import base64
import hashlib
import hmac
import json

SCHEMA, PACKAGE = "rest", __name__
READER = "wfhub_reader"
CONNECTIONS_MAX, STATEMENT_S_MAX = 20, 30


def token(secret: str) -> str:
    """A JSON Web Token (HS256) with which PostgREST lets its bearer be READER. It does not expire:
    a new secret ends it."""
    head = _part({"alg": "HS256", "typ": "JWT"})
    body = _part({"role": READER})
    mac = hmac.digest(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{_base64(mac)}"


def role_sql() -> str:
    """What every session of READER is held to; it cannot be granted more by what it says."""
    return (
        f"ALTER ROLE {READER} NOINHERIT CONNECTION LIMIT {CONNECTIONS_MAX};"
        f"ALTER ROLE {READER} SET default_transaction_read_only = on;"
        f"ALTER ROLE {READER} SET statement_timeout = '{STATEMENT_S_MAX}s'"
    )


def grants_sql(database: str) -> str:
    views = ", ".join(f"{SCHEMA}.{name}" for name in ("tasks", "attempts", "artifacts", "proofs"))
    return (
        f"GRANT CONNECT ON DATABASE {database} TO {READER};"
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {READER};"
        f"GRANT SELECT ON {views} TO {READER}"
    )


def _part(value: dict[str, str]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
