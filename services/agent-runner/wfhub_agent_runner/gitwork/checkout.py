"""Trees written to disk by our own writer: what a commit holds, and nothing it could do.

No filters, no attributes, no hooks, no index. Folders are open descriptors, files are made
exclusively and never through a link, links are made last, modes are 644 and 755, submodules are
empty folders. Every file gets one fixed time, which the throw-away index relies on (gitdir).
`write_delta` writes only what differs from a base, as an overlay layer upon it.
Raises: Rejected (`repo-hostile-path`, `repo-too-large`, `tree-too-deep`).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits, names, walk
from wfhub_agent_runner.gitwork.walk import Entries, Entry

BASE_TIME_S = 1_000_000_000  # of files from the base; long past, so that git trusts its index
DELTA_TIME_S = BASE_TIME_S + 60  # of files a result changed
_OPAQUE = "user.overlay.opaque"


@dataclass
class Written:
    """Leaves written: path → (entry, size in bytes)."""

    leaves: dict[bytes, tuple[Entry, int]] = field(default_factory=dict)
    total: int = 0

    @property
    def disk(self) -> int:
        """About what they take on disk, in bytes: at most a block more each."""
        return self.total + 4096 * len(self.leaves)


def write_tree(store: DiskObjectStore, tree: ObjectID, into: Path) -> Written:
    """The whole tree below the empty folder `into`."""
    return _write(store, None, tree, into, BASE_TIME_S)


def write_delta(store: DiskObjectStore, base: ObjectID, tree: ObjectID, into: Path) -> Written:
    """An overlay layer that turns a checkout of `base` into one of `tree`."""
    return _write(store, base, tree, into, DELTA_TIME_S)


def _write(
    store: DiskObjectStore, base: ObjectID | None, tree: ObjectID, into: Path, time_s: int
) -> Written:
    writer = _Writer(store, time_s)
    fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        writer.folder(fd, walk.entries(store, base), walk.entries(store, tree), b"")
    finally:
        os.close(fd)
    return writer.written


class _Writer:
    def __init__(self, store: DiskObjectStore, time_s: int) -> None:
        self._store = store
        self._times = (time_s, time_s)
        self.written = Written()

    def folder(self, fd: int, before: Entries, after: Entries, path: bytes) -> None:
        walk.check_depth(path)
        names.check_links_fold_alone(((n, e[0] == walk.LINK) for n, e in after.items()), path)
        for name in before.keys() - after.keys():
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=fd)  # overlay: gone
        changed = [(name, entry) for name, entry in after.items() if before.get(name) != entry]
        for name, entry in changed:
            names.check(name, path, code="repo-hostile-path")
            here = names.joined(path, name)
            match walk.kind(entry[0]):
                case walk.DIR:
                    self._subfolder(fd, name, before.get(name), entry, here)
                case walk.GITLINK:
                    with _made(fd, name) as inner:
                        if walk.subtree(before.get(name)):
                            os.setxattr(inner, _OPAQUE, b"y")
                    self._note(here, entry, 0)
                case walk.FILE | walk.EXECUTABLE:
                    self._file(fd, name, entry, here)
        for name, entry in changed:
            if entry[0] == walk.LINK:
                target = walk.blob(self._store, entry[1])
                if not target or b"\0" in target or len(target) > 4095:
                    raise Rejected(
                        "repo-hostile-path",
                        f"{names.shown(names.joined(path, name))!r} is a link to nowhere",
                    )
                os.symlink(target, name, dir_fd=fd)
                os.utime(name, self._times, dir_fd=fd, follow_symlinks=False)
                self._note(names.joined(path, name), entry, len(target))
        os.utime(fd, self._times)

    def _subfolder(
        self, fd: int, name: bytes, before: Entry | None, entry: Entry, path: bytes
    ) -> None:
        with _made(fd, name) as inner:
            old = walk.entries(self._store, walk.subtree(before))
            self.folder(inner, old, walk.entries(self._store, entry[1]), path)

    def _file(self, fd: int, name: bytes, entry: Entry, path: bytes) -> None:
        content = walk.blob(self._store, entry[1])
        self._note(path, entry, len(content))
        mode = 0o755 if walk.kind(entry[0]) == walk.EXECUTABLE else 0o644
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=fd)
        with os.fdopen(file, "wb") as f:
            f.write(content)
            f.flush()
            os.fchmod(file, mode)
            os.utime(file, self._times)

    def _note(self, path: bytes, entry: Entry, size: int) -> None:
        self.written.leaves[path] = (entry, size)
        self.written.total += size
        if (
            len(self.written.leaves) > limits.FILES_MAX
            or self.written.total > limits.CHECKOUT_BYTES_MAX
        ):
            raise Rejected(
                "repo-too-large",
                f"one checkout may have {limits.FILES_MAX} files and"
                f" {limits.CHECKOUT_BYTES_MAX} bytes; this commit has more",
            )


@contextmanager
def _made(fd: int, name: bytes) -> Iterator[int]:
    os.mkdir(name, 0o755, dir_fd=fd)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
    try:
        os.fchmod(inner, 0o755)
        yield inner
    finally:
        os.close(inner)


def can_write_deltas(folder: Path) -> bool:
    """Whether this file system and kernel let us write overlay layers (whiteouts) here."""
    probe = folder / ".whiteout-probe"
    try:
        os.mknod(probe, stat.S_IFCHR | 0o600, os.makedev(0, 0))
    except OSError:
        return False
    with suppress(FileNotFoundError):
        probe.unlink()
    return True
