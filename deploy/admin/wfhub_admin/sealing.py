"""A file of any size under a key of its own: AES-256-GCM, chunk after chunk.

A chunk's nonce is its number, and whether it is the last: chunks that were swapped, left out or cut
off do not open. So a key seals one file, ever.
Raises: Damaged.
"""

from collections.abc import Iterator
from typing import IO

CHUNK_BYTES = 1024 * 1024
TAG_BYTES = 16
KEY_BYTES = 32


class Damaged(Exception):
    """What is there is not what was sealed with this key."""


def seal(source: IO[bytes], target: IO[bytes], key: bytes) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    for nonce, chunk in _numbered(source, CHUNK_BYTES):
        target.write(cipher.encrypt(nonce, chunk, None))


def open_(source: IO[bytes], target: IO[bytes], key: bytes) -> None:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    for nonce, chunk in _numbered(source, CHUNK_BYTES + TAG_BYTES):
        try:
            target.write(cipher.decrypt(nonce, chunk, None))
        except InvalidTag as e:
            raise Damaged from e


def _numbered(source: IO[bytes], size: int) -> Iterator[tuple[bytes, bytes]]:
    """Nonce and chunk; of an empty file one, too."""
    number, chunk = 0, source.read(size)
    while True:
        after = source.read(size)
        yield number.to_bytes(11) + bytes([not after]), chunk
        if not after:
            return
        number, chunk = number + 1, after
