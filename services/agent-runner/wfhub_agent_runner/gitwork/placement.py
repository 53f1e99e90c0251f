"""Paths of somebody's folder: what lies there now, and one change moved into place.

Folders are open descriptors and no link is followed, so that who else writes there cannot lead a
change out of the folder. A change replaces a whole file by a rename. Raises: OSError.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dulwich.objects import Blob, ObjectID

from wfhub_agent_runner.gitwork import limits, walk
from wfhub_agent_runner.gitwork.walk import Entry

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
IN_THE_WAY: Entry = (0, ObjectID(b"0" * 40))  # neither a file nor absent


@dataclass(frozen=True)
class Change:
    """One path, from `old` to `new` (None: not there), whose content is staged as `number`."""

    path: bytes
    old: Entry | None
    new: Entry | None
    number: int


ByPath = dict[bytes, Change]


def by_path(changes: Sequence[Change]) -> ByPath:
    return {change.path: change for change in changes}


def now(top: int, path: bytes, all_of_it: ByPath) -> Entry | None:
    """What lies at `path`. What only paths of the same result are in the way of is absent."""
    parts = path.split(b"/")
    with _parent(top, parts, make=False) as parent:
        if parent is None:
            return None
        if parent < 0:
            above = {b"/".join(parts[:n]) for n in range(1, len(parts))}
            return None if above & all_of_it.keys() else IN_THE_WAY
        try:
            found = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            return walk.LINK, Blob.from_string(os.readlink(parts[-1], dir_fd=parent)).id
        if stat.S_ISREG(found.st_mode) and found.st_size <= limits.FILE_BYTES_MAX:
            with os.fdopen(_opened(parts[-1], parent), "rb") as f:
                content = f.read(limits.FILE_BYTES_MAX + 1)
            mode = walk.EXECUTABLE if found.st_mode & stat.S_IXUSR else walk.FILE
            return mode, Blob.from_string(content).id
        if stat.S_ISDIR(found.st_mode) and _goes_away(parent, parts[-1], path, all_of_it):
            return None
        return IN_THE_WAY


def _opened(name: bytes, parent: int) -> int:
    """A file that was there just now. One that is not any more, such as an open one that SMB was
    asked to replace, is looked at again later: what it will be is not known yet."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except FileNotFoundError as e:
        raise OSError(errno.EBUSY, "somebody removes or replaces the file", e.filename) from e


def _goes_away(parent: int, name: bytes, path: bytes, all_of_it: ByPath) -> bool:
    """Whether a folder holds nothing but what the same result deletes."""
    if not any(one.startswith(path + b"/") for one in all_of_it):
        return False
    at = os.open(name, FOLDER, dir_fd=parent)
    try:
        with os.scandir(at) as found:
            inner = [(os.fsencode(one.name), one.is_dir(follow_symlinks=False)) for one in found]
        for one, is_folder in inner:
            below = path + b"/" + one
            if is_folder:
                if not _goes_away(at, one, below, all_of_it):
                    return False
            elif below not in all_of_it or all_of_it[below].new is not None:
                return False
        return True
    finally:
        os.close(at)


def move(top: int, change: Change, staged: Path) -> None:
    """`staged`: the new content, which is moved; nothing of a deletion."""
    parts = change.path.split(b"/")
    with _parent(top, parts, make=change.new is not None) as parent:
        assert parent is not None
        with _open_ones_named(parent):
            if change.new is None:
                os.unlink(parts[-1], dir_fd=parent)
            else:
                _place(staged, parent, parts[-1], change)
        os.fsync(parent)
    if change.new is None:
        _prune(top, parts[:-1])


@contextmanager
def _open_ones_named(parent: int) -> Iterator[None]:
    """On SMB a file that somebody has open is not replaced: that is for now, unlike a folder that
    may not be written."""
    try:
        yield
    except PermissionError as e:
        if e.errno == errno.EACCES and os.access(".", os.W_OK | os.X_OK, dir_fd=parent):
            raise OSError(errno.EBUSY, "somebody has the file open", e.filename) from e
        raise


@contextmanager
def _parent(top: int, parts: Sequence[bytes], *, make: bool) -> Iterator[int | None]:
    """The folder that holds the last part, through no link. None: absent; -1: not a folder."""
    at = os.dup(top)
    answer: int | None = at
    try:
        for part in parts[:-1]:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=at)
            try:
                inner = os.open(part, FOLDER, dir_fd=at)
            except FileNotFoundError:
                answer = None
                break
            except OSError as e:
                if make or e.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                answer = -1
                break
            os.close(at)
            answer = at = inner
        yield answer
    finally:
        os.close(at)


def _place(staged: Path, parent: int, name: bytes, change: Change) -> None:
    assert change.new is not None
    if change.old and walk.LINK not in (change.old[0], change.new[0]):
        runs = walk.kind(change.new[0]) == walk.EXECUTABLE
        with suppress(FileNotFoundError):  # one that SMB removed when it was to be replaced
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            kept = stat.S_IMODE(found.st_mode) & ~0o111
            staged.chmod(kept | ((kept & 0o444) >> 2 if runs else 0))
    with suppress(OSError):  # an empty folder that gave its files up
        os.rmdir(name, dir_fd=parent)
    try:
        os.rename(staged, name, dst_dir_fd=parent)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        beside = b".wfhub-" + os.urandom(8).hex().encode()
        shutil.copy2(staged, f"/proc/self/fd/{parent}/{beside.decode()}", follow_symlinks=False)
        os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)


def _prune(top: int, parts: Sequence[bytes]) -> None:
    """Folders that became empty go, as in git."""
    for count in range(len(parts), 0, -1):
        with _parent(top, parts[:count], make=False) as parent:
            if parent is None or parent < 0:
                return
            try:
                os.rmdir(parts[count - 1], dir_fd=parent)
            except OSError:
                return
