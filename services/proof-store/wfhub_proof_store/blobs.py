"""Blobs on disk: content-addressed, all of one or nothing of it.

Shape: ROOT/sha256/ab/cd/<64 hex>; an upload is written to ROOT/tmp/<process>/, checked against its
digest, synced, renamed, and its folder synced, in that order: what has its final name is whole.
A process holds a lock in its tmp folder; at start the folders of dead processes are removed, so
that replicas may share ROOT. Blocking: callers use threads.
Raises: Rejected (`digest-mismatch`, `blob-too-large`), StorageFull, StorageAway.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from wfhub_common import digests, filelocks
from wfhub_common.digests import Digest
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger

LOCK_NAME = "lock"
# For whoever looks at many, each in a moment (grouping.in_threads).
LOOKS_AT_ONCE, LOOKS_IN_A_THREAD_MAX = 4, 100
_FULL = {errno.ENOSPC, errno.EDQUOT}
# What SMB's client says of a call that the server's end cut, on a hard mount too.
_AWAY = {errno.EAGAIN, errno.EHOSTDOWN, errno.ECONNABORTED}

log = get_logger(__name__)


class StorageFull(RetryLater):
    """The disk below PROOFS_ROOT has no room for the upload."""


class StorageAway(RetryLater):
    """PROOFS_ROOT is on a share that was lost meanwhile; nothing was acknowledged."""


class Blobs:
    def __init__(self, root: Path, *, bytes_max: int) -> None:
        self.root = root
        self.bytes_max = bytes_max
        (root / "sha256").mkdir(parents=True, exist_ok=True)
        self._tmp, self._lock = _claimed_tmp(root / "tmp")

    def close(self) -> None:
        self._lock.close()  # first: NFS keeps what is open under another name in its folder
        shutil.rmtree(self._tmp, ignore_errors=True)

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob, or None when it is not here."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            self._check_root()
            return None

    def open(self, digest: Digest) -> BinaryIO | None:
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError:
            self._check_root()
            return None

    def _check_root(self) -> None:
        """Where a share is not mounted any more there is an empty folder, or none: what is missing
        there is not lost, and a refusal would be for good."""
        if not self._tmp.exists():
            raise StorageAway(
                "storage-away", f"{self.root} is not the PROOFS_ROOT of this process's start"
            )

    def upload(self, digest: Digest) -> "Upload":
        return Upload(self._tmp / secrets.token_hex(16), self._path(digest), digest, self.bytes_max)

    def _path(self, digest: Digest) -> Path:
        name = digests.hex_of(digests.parse(digest))
        return self.root / "sha256" / name[:2] / name[2:4] / name


class Upload:
    """One blob on its way. Leaving the `with` before `commit` leaves nothing behind."""

    def __init__(self, temp: Path, final: Path, digest: Digest, bytes_max: int) -> None:
        self._temp, self._final = temp, final
        self._digest, self._bytes_max = digest, bytes_max
        self._state = hashlib.sha256()
        self.size = 0
        with _named():
            self._file = temp.open("xb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a lost server keeps of it, the next start removes
            self._file.close()
            self._temp.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._bytes_max:
            raise too_large(self._bytes_max)
        self._state.update(data)
        rest = memoryview(data)
        with _named():
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self) -> bool:
        """Make it the blob; True when it was not here before. An old copy is replaced, which
        mends one that has rotted."""
        found = "sha256:" + self._state.hexdigest()
        if found != self._digest:
            raise Rejected(
                "digest-mismatch",
                f"these {self.size} bytes have the digest {found}, not the one in the path;"
                " send the blob again",
                expected=self._digest,
                found=found,
            )
        with _named():
            os.fsync(self._file.fileno())
            _make_folders(self._final.parent)
            new = not self._final.exists()
            self._temp.rename(self._final)
            sync_folder(self._final.parent)
        return new


def too_large(bytes_max: int) -> Rejected:
    return Rejected(
        "blob-too-large", f"a blob may have {bytes_max} bytes at most", status=413, limit=bytes_max
    )


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path) -> None:
    """ab/ and ab/cd, each durable in its parent before anything is put into it. Synced also when
    they are there already: another upload may have made them a moment ago."""
    for each in (folder.parent, folder):
        each.mkdir(exist_ok=True)
        sync_folder(each.parent)


def _claimed_tmp(tmp: Path) -> tuple[Path, BinaryIO]:
    """A tmp folder of our own, locked for as long as we live; those of the dead are removed."""
    tmp.mkdir(exist_ok=True)
    with (tmp / LOCK_NAME).open("ab") as all_of_it:  # one process at a time: no folder half-made
        filelocks.exclusive(all_of_it)
        for folder in tmp.iterdir():
            if folder.is_dir() and _is_dead(folder):
                log.warning("removing a dead process's unfinished uploads", folder=folder.name)
                shutil.rmtree(folder, ignore_errors=True)
        own = tmp / secrets.token_hex(8)
        own.mkdir()
        lock = (own / LOCK_NAME).open("ab")
        filelocks.exclusive(lock)
    return own, lock


def _is_dead(folder: Path) -> bool:
    try:
        with (folder / LOCK_NAME).open("ab") as lock:
            return filelocks.try_exclusive(lock)
    except FileNotFoundError:  # it is just cleaning up itself
        return False


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            raise StorageFull(
                "storage-full",
                "the proof-store's disk is full: free space below PROOFS_ROOT, then send again",
                retry_after_s=30.0,
            ) from e
        if e.errno in _AWAY:
            raise StorageAway(
                "storage-away",
                f"the share below PROOFS_ROOT lost its server ({e.strerror}); send again",
            ) from e
        raise
