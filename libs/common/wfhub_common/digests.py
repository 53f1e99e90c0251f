"""Digests: SHA-256 throughout, written `sha256:<64 hex>`, over exact bytes.

`canonical_json` is what is hashed or signed when a JSON value stands for itself:
UTF-8, keys sorted, no white space, no NaN (the subset of RFC 8785 for values
without floats; floats are refused).
"""

import hashlib
import json
import re
from typing import Any, NewType

from wfhub_common.errors import Rejected

Digest = NewType("Digest", str)

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def of_bytes(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    return digest.removeprefix("sha256:")


def parse(value: str) -> Digest:
    """Raises: Rejected (`digest-malformed`)."""
    if not _DIGEST.match(value):
        raise Rejected(
            "digest-malformed",
            f"{value[:80]!r} is not a digest; one looks like sha256: and 64 hex digits",
            value=value[:80],
        )
    return Digest(value)


def canonical_json(value: Any) -> bytes:
    """Raises: TypeError for floats and other values without one canonical form."""
    _no_floats(value)
    return _CANONICAL.encode(value).encode()


def _no_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("floats have no canonical form here: use integers (milliseconds, bytes)")
    if isinstance(value, dict):
        for item in value.values():
            _no_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _no_floats(item)
