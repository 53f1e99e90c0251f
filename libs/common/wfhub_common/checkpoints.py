"""Checkpoints: a log's size and root, signed; C2SP tlog-checkpoint in a C2SP signed note.

    <origin>\n<size>\n<base64 root>\n\n— <origin> <base64(4-byte key hash + signature)>\n

The signature covers everything up to and with the newline before the blank line. Lines by other
signers (witnesses) are passed over; a wrong one in the name of a trusted key refuses the note.
Raises: Corrupt (`checkpoint-malformed`, `checkpoint-signature`) with `fault` as in dsse.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wfhub_common import merkle, signing
from wfhub_common.errors import Corrupt

ED25519_TYPE = b"\x01"  # signed-note's number for this kind of signature
KEY_HASH_BYTES = 4
NOTE_CHARS_MAX = 64 * 1024
SIGNATURES_MAX = 100

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_ORIGIN = re.compile(r"[^\s+\x00-\x1f]{1,200}\Z")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)\Z")


@dataclass(frozen=True)
class Checkpoint:
    origin: str  # names the log, and is the name that its key signs under
    size: int
    root: bytes


def sign(checkpoint: Checkpoint, key: signing.PrivateKey) -> str:
    if not _ORIGIN.match(checkpoint.origin):
        raise ValueError(f"not a log's origin: {checkpoint.origin!r}")
    root = signing.to_base64(checkpoint.root)
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n"
    signature = _key_hash(checkpoint.origin, key.public_key()) + signing.sign(key, text.encode())
    return f"{text}\n— {checkpoint.origin} {signing.to_base64(signature)}\n"


def verify(note: str, trusted_keys: Sequence[signing.PublicKey]) -> Checkpoint:
    """The checkpoint, if a trusted key signed it under the log's own name."""
    text, signatures = _split(note)
    checkpoint = _parsed(text)
    known = {_key_hash(checkpoint.origin, key): key for key in trusted_keys}
    for name, blob in signatures:
        key = known.get(blob[:KEY_HASH_BYTES])
        if name != checkpoint.origin or key is None:
            continue
        if not signing.verify(key, blob[KEY_HASH_BYTES:], text.encode()):
            raise Corrupt(
                "checkpoint-signature",
                "the log's checkpoint was changed after it was signed;"
                " get the proof again from its source",
                fault="file",
            )
        return checkpoint
    raise Corrupt(
        "checkpoint-signature",
        f"the checkpoint of {checkpoint.origin!r} is signed by no key that you trust",
        fault="keys",
    )


def _split(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    text, blank, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not blank or len(note) > NOTE_CHARS_MAX or lines.pop() != "":
        raise _malformed("it has no signed text and signatures")
    try:
        note.encode()
    except UnicodeEncodeError as e:  # a lone surrogate, which JSON can spell
        raise _malformed("it is not UTF-8 text") from e
    if not 0 < len(lines) <= SIGNATURES_MAX:
        raise _malformed("it has no signatures, or too many")
    signatures = []
    for line in lines:
        match = _SIGNATURE.match(line)
        if match is None:
            raise _malformed("a signature line has another form")
        try:
            signatures.append((match[1], signing.from_base64(match[2])))
        except ValueError as e:
            raise _malformed("a signature is not base64") from e
    return text + "\n", signatures


def _parsed(text: str) -> Checkpoint:
    lines = text.split("\n")  # the last is empty; any before it are extensions
    if len(lines) < 4 or not _ORIGIN.match(lines[0]) or not _NUMBER.match(lines[1]):
        raise _malformed("it does not begin with origin, size and root")
    try:
        root = signing.from_base64(lines[2])
    except ValueError as e:
        raise _malformed("its root is not base64") from e
    if len(root) != merkle.HASH_BYTES:
        raise _malformed("its root is not a SHA-256 hash")
    return Checkpoint(lines[0], int(lines[1]), root)


def _key_hash(name: str, key: signing.PublicKey) -> bytes:
    named = name.encode() + b"\n" + ED25519_TYPE + signing.raw_public_bytes(key)
    return hashlib.sha256(named).digest()[:KEY_HASH_BYTES]


def _malformed(why: str) -> Corrupt:
    return Corrupt(
        "checkpoint-malformed",
        f"the log's checkpoint cannot be read: {why}; get the proof again from its source",
        fault="file",
    )
