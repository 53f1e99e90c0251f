"""One ref, locked as git locks it (`<ref>.lock`, made exclusively), written without moving others.

A publisher killed while it holds a lock must not block its own retry. So our lock file appears
whole (hard link), says whose it is and is held by flock as long as its process lives: a lock of
ours whose flock is free is stale and is removed. Locks of git are waited for, never removed.
The ref itself appears by a hard link too, which never replaces one: on a network file system a
publisher that was cut off may have lost its flock and not know.
What the server said last is asked by opening a file: a look at its name may be answered by the
client's cache. A link that is there already may be our own, done before its answer was lost.
Raises: RetryLater (`ref-locked`), RefInTheWay.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dulwich.file import SharedPerm, adjust_shared_perm
from dulwich.objects import ObjectID
from wfhub_common import filelocks
from wfhub_common.errors import RetryLater

from wfhub_agent_runner.gitwork import limits, refs
from wfhub_agent_runner.gitwork.location import Layout

_MARK = b"wfhub-publish\n"
_POLL_S = 0.05
_FOLDER_RACES_MAX = 100
# What SMB tells of a file that is locked, and of one that this machine has open by another name.
_HELD = {errno.EACCES, errno.EINVAL}
# The second: NFS-Ganesha, of a file that is open here and that another client removed.
_GONE = {errno.ENOENT, errno.ESTALE}


class RefInTheWay(Exception):
    """Another ref's name is a folder or a prefix of this one."""


class LockedRef:
    def __init__(self, layout: Layout, name: bytes, shared: SharedPerm | None) -> None:
        self._layout, self.name, self._shared = layout, name, shared
        self.path = refs.path_of(layout, name)

    def value(self) -> bytes | None:
        return refs.value(self._layout, self.name)

    def create(self, oid: ObjectID) -> None:
        """Write the id, if it is not there. Raises: RetryLater when another one is."""
        found = self.value()
        if found == oid:
            return
        if found is not None:
            raise self._made_by_another()
        if self.path.is_dir():
            _remove_empty_folders(self.path)
        fresh = _temporary(self._layout, oid + b"\n")
        try:
            adjust_shared_perm(fresh, self._shared)
            os.link(fresh, self.path)
        except FileExistsError as e:
            if self.path.is_dir():
                raise RefInTheWay(f"{os.fsdecode(self.name)} is a folder of refs") from e
            if self.value() != oid:
                raise self._made_by_another() from e
        except OSError as e:
            raise RefInTheWay(f"{os.fsdecode(self.name)} cannot be written: {e}") from e
        finally:
            fresh.unlink(missing_ok=True)
        fsync_folder(self.path.parent)

    def _made_by_another(self) -> RetryLater:
        """Who looks again sees whose it is."""
        name = os.fsdecode(self.name)
        return RetryLater("ref-locked", f"{name} was made by somebody else meanwhile")


@contextmanager
def locked(layout: Layout, name: bytes, shared: SharedPerm | None) -> Iterator[LockedRef]:
    ref = LockedRef(layout, name, shared)
    _check_way(layout, name)
    own = _temporary(layout, _MARK)
    lock = ref.path.with_name(ref.path.name + ".lock")
    with own.open("r+b") as held:
        try:
            filelocks.exclusive(held)
            _link(own, lock, ref, shared)
        finally:
            own.unlink()
        try:
            yield ref
        finally:
            if _is_file(held.fileno(), lock) is not False:  # ours still
                lock.unlink(missing_ok=True)


def _link(own: Path, lock: Path, ref: LockedRef, shared: SharedPerm | None) -> None:
    give_up_at = time.monotonic() + limits.LOCK_WAIT_S
    races = 0
    while True:
        try:
            _make_folders(ref, shared)
            os.link(own, lock)
            return
        except FileExistsError as e:
            if _is_file(own, lock):
                return
            removed = _removed_stale(lock)
            if time.monotonic() > give_up_at:
                raise RetryLater(
                    "ref-locked",
                    f"another program holds {lock}; if none runs, remove that file",
                    retry_after_s=10.0,
                ) from e
            if not removed:
                time.sleep(_POLL_S)
        except FileNotFoundError:  # git removed the empty folder between the two steps
            races += 1
            if races > _FOLDER_RACES_MAX:
                raise
        except NotADirectoryError as e:
            raise RefInTheWay(f"a file stands where {ref.path.parent} should be") from e


def _make_folders(ref: LockedRef, shared: SharedPerm | None) -> None:
    missing = [p for p in ref.path.parents if not p.exists()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir()
            adjust_shared_perm(folder, shared)


def _removed_stale(lock: Path) -> bool:
    try:
        if not _is_ours(lock):
            return False
        with lock.open("r+b") as there:
            if not filelocks.try_exclusive(there):
                return False
            # Held now: nobody else can judge this very file. Is it still the lock?
            if _is_file(there.fileno(), lock):
                lock.unlink()
            return True
    except OSError as e:
        if e.errno not in _GONE:
            raise
        return True


def _is_ours(lock: Path) -> bool:
    """Ours and to be read, which one that is held on SMB is not."""
    try:
        with lock.open("rb") as there:
            return there.read(len(_MARK)) == _MARK
    except OSError as e:
        if e.errno not in _HELD:
            raise
        return False


def _is_file(one: Path | int, path: Path) -> bool | None:
    """Whether `path` is a name of that file, as the server has it; None: that cannot be told."""
    try:
        with path.open("rb") as there:
            return os.path.samestat(os.stat(one), os.fstat(there.fileno()))
    except OSError as e:
        if e.errno in _GONE:
            return False
        if e.errno not in _HELD:
            raise
        return None


def _check_way(layout: Layout, name: bytes) -> None:
    """No packed ref may be a folder of this one, nor this one a folder of a packed ref."""
    for other in refs.packed(layout):
        if other.startswith(name + b"/") or name.startswith(other + b"/"):
            raise RefInTheWay(f"the ref {os.fsdecode(other)} is in the way")


def _remove_empty_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


def _temporary(layout: Layout, content: bytes) -> Path:
    path = layout.common / f"wfhub-{os.getpid()}-{time.monotonic_ns()}.tmp"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(fd, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    return path


def fsync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
