"""A backup as one file: a tar that can be checked whole, its keys and database under a passphrase.

Members, in this order: `wfhub-backup.json` (format, version of the product, time), `secrets.json`
(sealed: scrypt, then AES-256-GCM over credentials, signing key, sealing keys and the dump's key),
`database.dump` (pg_dump's own format, sealed by that key), `blobs/sha256/<2>/<2>/<64 hex>` (a blob
is named by its digest), `digests.json` (sha256 of the first three, and how many blobs and bytes
there are: a file that was cut lacks it).
The database comes before the blobs: what a row names was on disk before the row, so no blob that
the dump names is missing. Written beside its name and renamed when it is whole and synced.
In format 1 the dump is as pg_dump wrote it; it is still read.
Raises: SystemExit with what is wrong and what to do.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from wfhub_admin import sealing
from wfhub_admin.credentials import Credentials
from wfhub_admin.files import as_owner
from wfhub_admin.outlay import Truth

FORMAT, PLAIN_DUMP_FORMAT = 2, 1
ABOUT, SECRETS, DUMP, DIGESTS = "wfhub-backup.json", "secrets.json", "database.dump", "digests.json"
BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})")
CHUNK_BYTES = 1024 * 1024
DOCUMENT_BYTES_MAX = 16 * 1024 * 1024  # of a member that is read whole
SCRYPT = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and about half a second a guess
PASSPHRASE_CHARS_MIN = 12


@dataclass(frozen=True)
class About:
    format: int
    version: str
    made_at: str


@dataclass(frozen=True)
class Contents:
    about: About
    truth: Truth
    dump_key: bytes | None = field(repr=False)  # None: it is not sealed
    blobs: int
    blob_bytes: int
    digest: str  # of its DIGESTS, so of all of it: which backup it is


def insist_on(passphrase: str) -> None:
    """Before anything is copied: that takes long. Raises: SystemExit."""
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise SystemExit(f"the passphrase needs at least {PASSPHRASE_CHARS_MIN} characters")


def write(path: Path, *, dump: Path, blobs: Path, truth: Truth, passphrase: str) -> Contents:
    """`dump` was made before this is called, and is sealed in its place; `blobs` is the
    proof-store's folder."""
    about = About(FORMAT, version("workflow-hub"), datetime.now(UTC).isoformat(timespec="seconds"))
    documents = {
        ABOUT: json.dumps(asdict(about)).encode(),
        SECRETS: sealed(truth, passphrase, dump_key := os.urandom(sealing.KEY_BYTES)),
    }
    plain = dump.rename(dump.with_suffix(".plain"))
    with plain.open("rb") as source, dump.open("wb") as target:
        sealing.seal(source, target, dump_key)
    plain.unlink()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in documents.items()}
    with dump.open("rb") as file:
        digests[DUMP] = _digest(file)
    count = size = 0
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in documents.items():
            _add(tar, name, content)
        tar.add(dump, DUMP, filter=_anonymous)
        with as_owner(blobs):
            for name, file_path in _blobs_below(blobs):
                tar.add(file_path, name, filter=_anonymous)
                count, size = count + 1, size + file_path.stat().st_size
        end = {"sha256": digests, "blobs": count, "blob_bytes": size}
        digests_document = json.dumps(end).encode()
        _add(tar, DIGESTS, digests_document)
        tar.close()
        raw.flush()
        os.fsync(raw.fileno())
    new.replace(path)
    digest = hashlib.sha256(digests_document).hexdigest()
    return Contents(about, truth, dump_key, count, size, digest)


def check(path: Path, passphrase: str) -> Contents:
    """Reads all of it: every digest, and that the passphrase opens the keys."""
    found: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    count = size = 0
    with members(path) as each:
        for member, content in each:
            if (blob := BLOB.fullmatch(member.name)) is not None:
                if _digest(content) != blob[3]:
                    raise SystemExit(f"{path}: {member.name} is damaged: it is not what it says")
                count, size = count + 1, size + member.size
            elif member.name == DUMP:
                found[DUMP] = _digest(content)
            elif member.size <= DOCUMENT_BYTES_MAX:
                documents[member.name] = content.read()
                found[member.name] = hashlib.sha256(documents[member.name]).hexdigest()
    about = _about(path, documents)
    if DIGESTS not in documents:
        raise SystemExit(f"{path} is cut: its end is missing")
    end = json.loads(documents[DIGESTS])
    digest = found.pop(DIGESTS)
    if end != {"sha256": found, "blobs": count, "blob_bytes": size}:
        raise SystemExit(f"{path} is damaged: what is in it is not what it says")
    truth, dump_key = opened(documents[SECRETS], passphrase)
    if (dump_key is None) != (about.format == PLAIN_DUMP_FORMAT):
        raise SystemExit(f"{path} is damaged: it is not of the format that it says")
    return Contents(about, truth, dump_key, count, size, digest)


def write_dump(path: Path, contents: Contents, target: IO[bytes]) -> None:
    """Of a backup that was checked, as pg_dump wrote it."""
    with _readable(path), tarfile.open(path) as tar:
        content = tar.extractfile(DUMP)
        assert content is not None
        if contents.dump_key is None:
            shutil.copyfileobj(content, target, CHUNK_BYTES)
            return
        try:
            sealing.open_(content, target, contents.dump_key)
        except sealing.Damaged as e:
            raise SystemExit(f"{path} is damaged: its key does not open its database") from e


@contextmanager
def members(path: Path) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes]]]]:
    """Regular files of names that we know, one after another. Raises: SystemExit."""
    with _readable(path), tarfile.open(path) as tar:
        yield _known(path, tar)


def _known(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for member in tar:
        known = member.name in (ABOUT, SECRETS, DUMP, DIGESTS) or BLOB.fullmatch(member.name)
        content = tar.extractfile(member) if member.isreg() and known else None
        if content is None:
            raise SystemExit(f"{path} is no backup of ours: it has {member.name!r}")
        yield member, content


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as e:
        raise SystemExit(f"{path} is damaged, or no backup of ours: {e}") from e
    except OSError as e:
        if e.filename not in (None, str(path)):
            raise
        raise SystemExit(f"cannot read {path}: {e.strerror or e}") from e


def sealed(truth: Truth, passphrase: str, dump_key: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    plain = {
        "credentials": truth.credentials.to_json(),
        "signing_key": truth.signing_key,
        "public_key": truth.public_key,
        "sealing_keys": truth.sealing_keys,
        "dump_key": dump_key.hex(),
    }
    salt, nonce = os.urandom(16), os.urandom(12)
    data = AESGCM(_key(passphrase, salt, SCRYPT)).encrypt(nonce, json.dumps(plain).encode(), None)
    parts = {"salt": salt, "nonce": nonce, "sealed": data}
    coded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return json.dumps(
        {"kdf": {"name": "scrypt", **SCRYPT}, "cipher": "aes-256-gcm", **coded}
    ).encode()


def opened(document: bytes, passphrase: str) -> tuple[Truth, bytes | None]:
    """And the dump's key, if it is sealed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = json.loads(document)
    if found.get("kdf") != {"name": "scrypt", **SCRYPT}:  # no other cost is taken from a file
        raise SystemExit("the backup's keys are sealed in a way that this version does not know")
    salt, nonce, data = (base64.b64decode(found[name]) for name in ("salt", "nonce", "sealed"))
    try:
        plain = json.loads(AESGCM(_key(passphrase, salt, SCRYPT)).decrypt(nonce, data, None))
    except InvalidTag as e:
        raise SystemExit("the passphrase does not open this backup's keys") from e
    credentials = Credentials.from_json(plain["credentials"])
    dump_key = bytes.fromhex(plain["dump_key"]) if "dump_key" in plain else None
    sealing_keys = plain.get("sealing_keys", "")  # the version before had none
    return Truth(credentials, plain["signing_key"], plain["public_key"], sealing_keys), dump_key


def _key(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, **cost).derive(passphrase.encode())


def _about(path: Path, documents: dict[str, bytes]) -> About:
    if not {ABOUT, SECRETS} <= documents.keys():
        raise SystemExit(f"{path} is no backup of ours")
    about = About(**json.loads(documents[ABOUT]))
    if about.format not in (FORMAT, PLAIN_DUMP_FORMAT):
        raise SystemExit(
            f"{path} has format {about.format}, and this version reads {FORMAT}: restore it with"
            f" Workflow Hub {about.version}"
        )
    return about


def _blobs_below(root: Path) -> Iterator[tuple[str, Path]]:
    """None where there is no such folder. Raises: SystemExit for one that cannot be read, since a
    backup without what is in it would look whole."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise SystemExit(f"cannot read {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root / "sha256", onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            member = f"blobs/{path.relative_to(root)}"
            if BLOB.fullmatch(member):
                yield member, path


def has_blobs(root: Path) -> bool:
    with as_owner(root):
        return next(_blobs_below(root), None) is not None


def _digest(content: IO[bytes]) -> str:
    state = hashlib.sha256()
    while chunk := content.read(CHUNK_BYTES):
        state.update(chunk)
    return state.hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    tar.addfile(info, io.BytesIO(content))


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    return info


def said(contents: Contents) -> dict[str, Any]:
    """For people and programs; without the keys."""
    return {
        **asdict(contents.about),
        "blobs": contents.blobs,
        "blob_bytes": contents.blob_bytes,
        "runners": len(contents.truth.credentials.runner_ids),
    }
