"""What an agent changed, read from the overlay's upper layer alone, as a new git tree.

In the upper layer a character device 0/0 is a deletion, the attribute user.overlay.opaque=y a
replaced folder, everything else is new or changed. A copied workspace is read by the same code
with `whole`: as if every folder were replaced. Only changed folders are opened, changed
files become blobs in the attempt's own store, so the cost is that of the changes.
The result is the tree `git add -A` would make without filters: ignored untracked files are left
out, tracked ones never are, `.git` at any level is left alone, empty folders vanish, and a
submodule stays what it was while its folder is there.
Call when the sandbox is dead. Raises: Rejected (`workspace-…`, `changes-too-large`).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dulwich.object_store import BaseObjectStore
from dulwich.objects import Blob, ObjectID, ShaFile, Tree
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import gitignore, limits, names, walk
from wfhub_agent_runner.gitwork.gitignore import RuleFile
from wfhub_agent_runner.gitwork.walk import Entries, Entry

_OPAQUE = "user.overlay.opaque"
_GITIGNORE = b".gitignore"
_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True)
class _Folder:
    """One folder as it was in the base, seen from the walk."""

    path: tuple[bytes, ...]
    tracked: Entries
    inherits: bool  # what is not in the upper folder is still there, from below
    ignored: bool  # it or a parent is excluded: what is untracked stays out
    rules: tuple[RuleFile, ...]

    def joined(self, name: bytes) -> bytes:
        return b"/".join((*self.path, name))


@dataclass
class _Tally:
    files: int = 0
    size: int = 0

    def add(self, size: int, path: bytes) -> None:
        self.files += 1
        self.size += size
        if self.files > limits.CHANGED_FILES_MAX or self.size > limits.CHANGED_BYTES_MAX:
            raise Rejected(
                "changes-too-large",
                f"more than {limits.CHANGED_FILES_MAX} files or {limits.CHANGED_BYTES_MAX} bytes"
                f" were changed (at {names.shown(path)!r}); add what is generated to .gitignore",
            )


def read(
    store: BaseObjectStore, base: ObjectID, layer: os.PathLike[str], *, whole: bool = False
) -> ObjectID:
    """The id of the new tree. `store` gets new objects and can read the base's."""
    return _read(_Scan(store), base, layer, whole=whole)


def read_folder(
    store: BaseObjectStore, folder: os.PathLike[str], *, without: frozenset[bytes]
) -> ObjectID:
    """The same of somebody's folder, which is left as it is. `without`: names at its top.
    Raises: PermissionError too."""
    return _read(_Scan(store, without=without, ours=False), None, folder, whole=True)


def _read(
    scan: "_Scan", base: ObjectID | None, layer: os.PathLike[str], *, whole: bool
) -> ObjectID:
    fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        top = _Folder((), walk.entries(scan.store, base), not whole, False, ())
        return scan.put(_tree(scan.folder(fd, top)))
    finally:
        os.close(fd)


@dataclass
class _Scan:
    store: BaseObjectStore
    tally: _Tally = field(default_factory=_Tally)
    without: frozenset[bytes] = frozenset()
    ours: bool = True  # what may not be read is made readable

    def put(self, made: ShaFile) -> ObjectID:
        if made.id not in self.store:
            self.store.add_object(made)
        return made.id

    def folder(self, fd: int, at: _Folder) -> Entries:
        """What the folder holds now."""
        if len(at.path) > limits.DEPTH_MAX:
            raise Rejected(
                "workspace-too-deep",
                f"folders are nested deeper than {limits.DEPTH_MAX} at"
                f" {names.shown(b'/'.join(at.path[:3]))!r}…; remove them",
            )
        with os.scandir(fd) as found:
            present = sorted(os.fsencode(entry.name) for entry in found)
        at = self._with_rules(fd, at, _GITIGNORE in present)
        now = dict(at.tracked) if at.inherits else {}
        for name in present:
            if name == names.DOT_GIT or (not at.path and name in self.without):
                continue
            entry = self._entry(fd, name, at)
            if entry is None:
                now.pop(name, None)
            else:
                now[name] = entry
        return now

    def _entry(self, fd: int, name: bytes, at: _Folder) -> Entry | None:
        """What `name` is to the new tree; None: not part of it."""
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        old = at.tracked.get(name)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return None
        if stat.S_ISDIR(found.st_mode):
            return self._subfolder(fd, name, at, old)
        if walk.leaf(old) is None:
            if self._is_ignored(at, name, is_folder=False):
                return None
            names.check(name, b"/".join(at.path), code="workspace-bad-name")
        if stat.S_ISLNK(found.st_mode):
            target = os.readlink(name, dir_fd=fd)
            return walk.LINK, self._blob(target, at.joined(name), old)
        if not stat.S_ISREG(found.st_mode):
            what = _SPECIAL.get(stat.S_IFMT(found.st_mode), "a special file")
            raise Rejected(
                "workspace-special-file",
                f"{names.shown(at.joined(name))!r} is {what}, which git cannot store; remove it"
                " or add it to .gitignore",
                path=names.shown(at.joined(name)),
            )
        content = self._content(fd, name, at.joined(name))
        mode = walk.EXECUTABLE if found.st_mode & stat.S_IXUSR else walk.FILE
        return mode, self._blob(content, at.joined(name), old)

    def _subfolder(self, fd: int, name: bytes, at: _Folder, old: Entry | None) -> Entry | None:
        if old is not None and old[0] == walk.GITLINK:
            return old
        ignored = at.ignored or self._is_ignored(at, name, is_folder=True)
        if ignored and walk.subtree(old) is None:
            return None
        if walk.subtree(old) is None:
            names.check(name, b"/".join(at.path), code="workspace-bad-name")
        with _opened(fd, name, mend=self.ours) as inner:
            below = _Folder(
                (*at.path, name),
                walk.entries(self.store, walk.subtree(old)),
                at.inherits and not _is_opaque(inner),
                ignored,
                at.rules,
            )
            now = self.folder(inner, below)
        if now == below.tracked:
            return old if now else None
        return (walk.DIR, self.put(_tree(now))) if now else None

    def _blob(self, content: bytes, path: bytes, old: Entry | None) -> ObjectID:
        blob = Blob.from_string(content)
        if old is None or old[1] != blob.id:
            self.tally.add(len(content), path)
            self.put(blob)
        return blob.id

    def _with_rules(self, fd: int, at: _Folder, present: bool) -> _Folder:
        content = None
        if present:
            if stat.S_ISREG(os.stat(_GITIGNORE, dir_fd=fd, follow_symlinks=False).st_mode):
                content = self._content(fd, _GITIGNORE, at.joined(_GITIGNORE))
        elif at.inherits:
            entry = at.tracked.get(_GITIGNORE)
            if entry and walk.kind(entry[0]) in (walk.FILE, walk.EXECUTABLE):
                content = walk.blob(self.store, entry[1])
        if content is None:
            return at
        rules = (*at.rules, gitignore.parse(content, len(at.path)))
        return _Folder(at.path, at.tracked, at.inherits, at.ignored, rules)

    def _content(self, fd: int, name: bytes, path: bytes) -> bytes:
        return _content(fd, name, path, mend=self.ours)

    def _is_ignored(self, at: _Folder, name: bytes, *, is_folder: bool) -> bool:
        return at.ignored or gitignore.is_ignored(at.rules, (*at.path, name), is_folder=is_folder)


def _tree(now: Entries) -> Tree:
    tree = Tree()
    for name, (mode, oid) in now.items():
        tree.add(name, mode, oid)
    return tree


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:  # no such attribute, or a file system without any
        return False


@contextmanager
def _opened(fd: int, name: bytes, *, mend: bool) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        inner = os.open(name, flags, dir_fd=fd)
    except PermissionError:
        if not mend:
            raise
        # The agent took its own permission away; the files are ours.
        os.chmod(name, 0o700, dir_fd=fd)
        inner = os.open(name, flags, dir_fd=fd)
    try:
        yield inner
    finally:
        os.close(inner)


def _content(fd: int, name: bytes, path: bytes, *, mend: bool) -> bytes:
    # O_NONBLOCK: should it be a FIFO after all, opening must not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(name, flags, dir_fd=fd)
    except PermissionError:
        if not mend:
            raise
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        os.chmod(name, stat.S_IMODE(mode) | 0o400, dir_fd=fd)
        file = os.open(name, flags, dir_fd=fd)
    with os.fdopen(file, "rb") as f:
        content = f.read(limits.FILE_BYTES_MAX + 1)
    if len(content) > limits.FILE_BYTES_MAX:
        raise Rejected(
            "changes-too-large",
            f"{names.shown(path)!r} is larger than {limits.FILE_BYTES_MAX} bytes; keep such files"
            " out of git or add it to .gitignore",
            path=names.shown(path),
        )
    return content
