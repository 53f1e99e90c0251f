"""Set-up layers: what set-up commands made on a base checkout, kept for the attempts that follow.

A layer only adds: whatever it changed or deleted of the commit's own files is taken back before it
is kept, so that the files of a checkout stay those of its commit, for agents and verification.
Shape: RUNNER_HOME/setups/<mirror>/<key>/{layer/, about (JSON {digest, stamp, left, bytes})}. Only
complete layers have that name; the folder's mtime is when it was used last.
`stamp` is over names, modes, owners, sizes and times of all that is in the layer. Nobody but root
can set a change time, so what was touched since it was kept is seen without reading its content.
Call when the sandbox is dead. Raises: Rejected (`setup-too-deep`), OSError.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dulwich.object_store import BaseObjectStore
from dulwich.objects import Blob, ObjectID
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits, names, walk
from wfhub_agent_runner.gitwork.walk import Entries, Entry
from wfhub_agent_runner.removal import remove_tree

_OPAQUE = "user.overlay.opaque"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class SetUp:
    """A kept layer. `digest`: sha256 of its names, modes and content. `left`: files of the commit
    that the commands changed, which were put back; at most SETUP_LEFT_MAX of them."""

    folder: Path
    digest: str
    left: tuple[str, ...]
    stamp: str

    @property
    def layer(self) -> Path:
        return self.folder / "layer"

    def is_untouched(self) -> bool:
        """As it was kept. Costs a look at each name in it."""
        try:
            return _stamp(self.layer) == self.stamp
        except OSError:
            return False


def folder(home: Path, mirror: str, key: str) -> Path:
    return home / "setups" / mirror / key


def find(home: Path, mirror: str, key: str) -> SetUp | None:
    there = folder(home, mirror, key)
    try:
        about = json.loads((there / "about").read_text())
        os.utime(there)
    except FileNotFoundError:
        return None
    return SetUp(there, about["digest"], tuple(about["left"]), about["stamp"])


def keep(
    home: Path,
    mirror: str,
    key: str,
    upper: Path,
    *,
    store: BaseObjectStore,
    tree: ObjectID,
    whole: bool = False,
) -> SetUp:
    """Move `upper`, an overlay's upper layer over a checkout of `tree`, to where it is kept; with
    `whole` it is a copy of that checkout."""
    there = folder(home, mirror, key)
    fresh = there.with_name(f".fresh-{secrets.token_hex(8)}")
    fresh.mkdir(parents=True)
    try:
        with _opened(upper) as fd:
            left = _added_only(fd, store, walk.entries(store, tree), b"", whole)
        content = _Content()
        with _opened(upper) as fd:
            content.add(fd, b"")
        upper.rename(fresh / "layer")
        shown = [names.shown(path) for path in left[: limits.SETUP_LEFT_MAX]]
        about = {
            "digest": content.hash.hexdigest(),
            "stamp": _stamp(fresh / "layer"),
            "left": shown,
            "bytes": content.size,
        }
        (fresh / "about").write_text(json.dumps(about))
        try:
            fresh.rename(there)
        except OSError:
            if not there.exists():  # else another one was first
                raise
    finally:
        remove_tree(fresh)
    kept = find(home, mirror, key)
    assert kept is not None
    return kept


def _added_only(
    fd: int, store: BaseObjectStore, tracked: Entries, path: bytes, whole: bool
) -> list[bytes]:
    """Take back what is not an addition; the paths that were changed or deleted."""
    if path:
        os.fchmod(fd, 0o755)
        with suppress(OSError):  # without it, what lies below is seen again
            os.removexattr(fd, _OPAQUE)
    taken = []
    there = _names(fd)
    if whole:  # in a copy a deletion is that it is not there
        taken += [names.joined(path, name) for name in tracked.keys() - set(there)]
    for name in there:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        old, here = tracked.get(name), names.joined(path, name)
        subtree = walk.subtree(old)
        is_folder = stat.S_ISDIR(found.st_mode)
        if not path and name == names.DOT_GIT:
            _remove(fd, name)  # the checkout's own
        elif is_folder and subtree is not None:
            with _inner(fd, name) as inner:
                taken += _added_only(inner, store, walk.entries(store, subtree), here, whole)
        elif old is not None and not (is_folder and walk.kind(old[0]) == walk.GITLINK):
            if not (whole and _is_as_committed(fd, name, found, old)):
                taken.append(here)
            _remove(fd, name)
        elif stat.S_ISCHR(found.st_mode):
            _remove(fd, name)  # a whiteout of what was never there
    return taken


def _is_as_committed(fd: int, name: bytes, found: os.stat_result, old: Entry) -> bool:
    kind = walk.kind(old[0])
    if stat.S_ISLNK(found.st_mode):
        content = os.readlink(name, dir_fd=fd)
        return kind == walk.LINK and Blob.from_string(content).id == old[1]
    if not stat.S_ISREG(found.st_mode) or kind not in (walk.FILE, walk.EXECUTABLE):
        return False
    if bool(found.st_mode & 0o100) != (kind == walk.EXECUTABLE):
        return False
    with os.fdopen(_readable(fd, name), "rb") as file:
        return Blob.from_string(file.read()).id == old[1]


def take_out(layer: Path, copy: Path) -> None:
    """Remove from a copied workspace what is as it was set up: no change of an agent's."""
    with _opened(layer) as ours, _opened(copy) as theirs:
        _taken_out(ours, theirs)


def _taken_out(ours: int, theirs: int) -> None:
    for name in set(_names(ours)) & set(_names(theirs)):
        made = os.stat(name, dir_fd=ours, follow_symlinks=False)
        left = os.stat(name, dir_fd=theirs, follow_symlinks=False)
        if stat.S_IFMT(made.st_mode) != stat.S_IFMT(left.st_mode):
            continue
        if stat.S_ISDIR(made.st_mode):
            with _inner(ours, name) as below, _inner(theirs, name) as beside:
                _taken_out(below, beside)
        elif stat.S_ISLNK(made.st_mode):
            if os.readlink(name, dir_fd=ours) == os.readlink(name, dir_fd=theirs):
                _remove(theirs, name)
        elif not stat.S_ISREG(made.st_mode) or (
            made.st_mode == left.st_mode
            and made.st_size == left.st_size
            and _file_hash(ours, name) == _file_hash(theirs, name)
        ):
            _remove(theirs, name)


def _stamp(layer: Path) -> str:
    state = hashlib.sha256()
    with _opened(layer) as fd:
        _stamped(fd, state)
    return state.hexdigest()


def _stamped(fd: int, state: "hashlib._Hash") -> None:
    for name in _names(fd):
        at = os.stat(name, dir_fd=fd, follow_symlinks=False)
        facts = (at.st_mode, at.st_uid, at.st_gid, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
        state.update(b"%d:%s %r\n" % (len(name), name, facts))
        if stat.S_ISDIR(at.st_mode):
            inner = os.open(name, _FOLDER, dir_fd=fd)
            try:
                _stamped(inner, state)
            finally:
                os.close(inner)
    state.update(b"end\n")


@dataclass
class _Content:
    """Of a layer: its hash and its size on disk, in bytes."""

    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    size: int = 0
    depth: int = 0

    def add(self, fd: int, path: bytes) -> None:
        if self.depth > limits.DEPTH_MAX:
            raise Rejected(
                "setup-too-deep",
                f"set-up nests folders deeper than {limits.DEPTH_MAX}, at"
                f" {names.shown(path[:200])!r}…; change its commands",
            )
        for name in _names(fd):
            here = names.joined(path, name)
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            self.size += found.st_blocks * 512
            self._say(b"%o" % found.st_mode, here)
            if stat.S_ISDIR(found.st_mode):
                self.depth += 1
                with _inner(fd, name) as inner:
                    self.add(inner, here)
                self.depth -= 1
            elif stat.S_ISLNK(found.st_mode):
                self._say(os.readlink(name, dir_fd=fd))
            elif stat.S_ISREG(found.st_mode):
                self._say(_file_hash(fd, name))

    def _say(self, *parts: bytes) -> None:
        for part in parts:
            self.hash.update(b"%d:" % len(part) + part)


def _file_hash(fd: int, name: bytes) -> bytes:
    with os.fdopen(_readable(fd, name), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _readable(fd: int, name: bytes) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=fd)
    except PermissionError:  # the files are ours: later attempts must be able to read them too
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        os.chmod(name, stat.S_IMODE(mode) | 0o400, dir_fd=fd)
        return os.open(name, flags, dir_fd=fd)


def _names(fd: int) -> list[bytes]:
    with os.scandir(fd) as found:
        return sorted(os.fsencode(entry.name) for entry in found)


def _remove(fd: int, name: bytes) -> None:
    remove_tree(Path(f"/proc/self/fd/{fd}") / os.fsdecode(name))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _inner(fd: int, name: bytes) -> Iterator[int]:
    try:
        inner = os.open(name, _FOLDER, dir_fd=fd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=fd)
        inner = os.open(name, _FOLDER, dir_fd=fd)
    try:
        yield inner
    finally:
        os.close(inner)


def key(parts: Iterable[str]) -> str:
    """The name of the layer that these make: 32 hex digits."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]
