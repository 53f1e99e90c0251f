"""Keys and signatures: Ed25519 throughout, private keys as PEM PKCS8, public ones as PEM SPKI.

A key's id is `sha256:` and the SHA-256 of its SubjectPublicKeyInfo (DER), in hex: it names a key,
it proves nothing. A private key file is created once (0600, in one step) with its public half
beside it under the same name and `.pub`; two processes that start at once end with the same key.
Raises: Rejected (`key-unreadable`) for a file or text that is not such a key.
"""

import base64
import hashlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from wfhub_common.errors import Rejected

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
_PEM_HEAD = "-----BEGIN "


def generate_private_key() -> PrivateKey:
    return Ed25519PrivateKey.generate()


def load_or_create_private_key(path: str | Path) -> PrivateKey:
    """The key in `path`, made first when there is none; its `.pub` is brought up to date."""
    path = Path(path)
    if not path.exists():
        pem = generate_private_key().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path, pem)
    key = load_private_key(path)
    public = public_pem(key.public_key()).encode()
    beside = public_key_path(path)
    if not beside.exists() or beside.read_bytes() != public:
        _replace(beside, public)
    return key


def load_private_key(path: str | Path) -> PrivateKey:
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _unreadable(f"{path}: {e}") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise _unreadable(f"{path} holds another kind of key")
    return key


def load_public_key(source: str | Path) -> PublicKey:
    """From a PEM file's path, or from the PEM text itself."""
    where = "the given PEM text"
    try:
        if isinstance(source, str) and source.lstrip().startswith(_PEM_HEAD):
            pem = source.encode()
        else:
            where = str(source)
            pem = Path(source).read_bytes()
        key = load_pem_public_key(pem)
    except (OSError, ValueError, UnsupportedAlgorithm) as e:
        raise _unreadable(f"{where}: {e}") from e
    if not isinstance(key, Ed25519PublicKey):
        raise _unreadable(f"{where} holds another kind of key")
    return key


def public_key_path(private_key_path: str | Path) -> Path:
    path = Path(private_key_path)
    return path.with_name(path.name + ".pub")


def public_pem(key: PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def raw_public_bytes(key: PublicKey) -> bytes:
    """The 32 bytes of RFC 8032."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(key: PublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def sign(key: PrivateKey, data: bytes) -> bytes:
    return key.sign(data)


def verify(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Standard base64 in its one canonical spelling, so that no two texts mean the same bytes.
    Raises: ValueError."""
    data = base64.b64decode(text, validate=True)
    if to_base64(data) != text:
        raise ValueError("not canonical base64")
    return data


def _unreadable(why: str) -> Rejected:
    return Rejected("key-unreadable", f"not an Ed25519 key in PEM: {why}")


def _create(path: Path, data: bytes) -> None:
    """Write all of a new file or nothing; a file that is there by now stays as it is."""
    temp = _written(path, data, PRIVATE_MODE)
    try:
        os.link(temp, path)
    except FileExistsError:
        pass  # another process was first: its key is the key
    finally:
        temp.unlink()
    _sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    os.replace(_written(path, data, PUBLIC_MODE), path)
    _sync_folder(path.parent)


def _written(path: Path, data: bytes, mode: int) -> Path:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temp


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
