"""Secrets at rest: a text sealed under a numbered key, and bound to the row that it belongs to.

Sealed it is `sealed:<key's number>:<base64 of nonce and ciphertext>` (AES-256-GCM). The number and
`of`, such as `api.webhook/whk_…`, are authenticated: what was copied to another row, or is said to
be another key's, does not open. Keys are a JSON object, number → base64 of 32 bytes; all of them
open, and which one seals is its user's to say.
Raises: ValueError for what is no such object; Unopened.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, NONCE_BYTES = 32, 12
_PREFIX = "sealed"


class Unopened(Exception):
    """No key here opens it; says which would."""


@dataclass(frozen=True)
class Keys:
    by_number: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def newest(self) -> int:
        """0: there is none."""
        return max(self.by_number, default=0)

    def seal(self, plain: str, number: int, *, of: str) -> str:
        """Raises: KeyError when there is no such key."""
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + _cipher(self.by_number[number]).encrypt(
            nonce, plain.encode(), _bound(number, of)
        )
        return f"{_PREFIX}:{number}:{base64.b64encode(data).decode()}"

    def opened(self, stored: str, *, of: str) -> str:
        """What was never sealed is as it stands. Raises: Unopened."""
        from cryptography.exceptions import InvalidTag

        number = number_of(stored)
        if number is None:
            return stored
        key = self.by_number.get(number)
        if key is None:
            raise Unopened(f"it is sealed under key {number}, and there are {self._told()}")
        try:
            data = base64.b64decode(stored.rpartition(":")[2])
            nonce, text = data[:NONCE_BYTES], data[NONCE_BYTES:]
            return _cipher(key).decrypt(nonce, text, _bound(number, of)).decode()
        except (InvalidTag, ValueError) as e:
            raise Unopened(
                f"it was changed, or sealed under another installation's key {number}"
            ) from e

    def _told(self) -> str:
        return f"keys 1 to {self.newest}" if self.by_number else "no keys"

    def to_json(self) -> str:
        coded = {str(n): base64.b64encode(key).decode() for n, key in self.by_number.items()}
        return json.dumps(coded)


def number_of(stored: str) -> int | None:
    """Of the key that it is sealed under; None: it stands in clear."""
    prefix, _, rest = stored.partition(":")
    number = rest.partition(":")[0]
    return int(number) if prefix == _PREFIX and number.isascii() and number.isdigit() else None


def keys(text: str) -> Keys:
    """Of JSON; of an empty text none. What is wrong is said without repeating it."""
    try:
        found = json.loads(text) if text else {}
        numbered = {int(n): base64.b64decode(key, validate=True) for n, key in found.items()}
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise ValueError("is no JSON object of keys") from None
    if any(n < 1 or len(key) != KEY_BYTES for n, key in numbered.items()):
        raise ValueError(f"has to be a number from 1 and the base64 of {KEY_BYTES} bytes each")
    return Keys(MappingProxyType(numbered))


def grown(have: Keys, newest: int) -> Keys:
    """With keys up to `newest`. None is taken away: something may be sealed under it."""
    missing = set(range(1, max(newest, have.newest) + 1)) - have.by_number.keys()
    made = {number: os.urandom(KEY_BYTES) for number in sorted(missing)}
    return Keys(MappingProxyType({**have.by_number, **made})) if made else have


def _bound(number: int, of: str) -> bytes:
    return f"{_PREFIX}:{number}:{of}".encode()


def _cipher(key: bytes) -> "AESGCM":
    # Heavy: who seals nothing does not pay.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
