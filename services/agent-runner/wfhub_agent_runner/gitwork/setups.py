"""Set-up layers: what set-up commands made on a base checkout, kept for the attempts that follow.

A layer only adds: whatever it changed or deleted of the commit's own files is taken back before it
is kept, so that the files of a checkout stay those of its commit, for agents and verification.
Shape: RUNNER_HOME/setups/<mirror>/<key>/{layer/, about (JSON {digest, left, bytes})}. Only complete
layers have that name; the folder's mtime is when it was used last.
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
from dulwich.objects import ObjectID
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits, names, walk
from wfhub_agent_runner.gitwork.removal import remove_tree
from wfhub_agent_runner.gitwork.walk import Entries

_OPAQUE = "user.overlay.opaque"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class SetUp:
    """A kept layer. `digest`: sha256 of its names, modes and content. `left`: files of the commit
    that the commands changed, which were put back; at most SETUP_LEFT_MAX of them."""

    folder: Path
    digest: str
    left: tuple[str, ...]

    @property
    def layer(self) -> Path:
        return self.folder / "layer"


def folder(home: Path, mirror: str, key: str) -> Path:
    return home / "setups" / mirror / key


def find(home: Path, mirror: str, key: str) -> SetUp | None:
    there = folder(home, mirror, key)
    try:
        about = json.loads((there / "about").read_text())
        os.utime(there)
    except FileNotFoundError:
        return None
    return SetUp(there, about["digest"], tuple(about["left"]))


def keep(
    home: Path, mirror: str, key: str, upper: Path, *, store: BaseObjectStore, tree: ObjectID
) -> SetUp:
    """Move `upper`, an overlay's upper layer over a checkout of `tree`, to where it is kept."""
    there = folder(home, mirror, key)
    fresh = there.with_name(f".fresh-{secrets.token_hex(8)}")
    fresh.mkdir(parents=True)
    try:
        with _opened(upper) as fd:
            left = _added_only(fd, store, walk.entries(store, tree), b"")
        content = _Content()
        with _opened(upper) as fd:
            content.add(fd, b"")
        upper.rename(fresh / "layer")
        shown = [names.shown(path) for path in left[: limits.SETUP_LEFT_MAX]]
        about = {"digest": content.hash.hexdigest(), "left": shown, "bytes": content.size}
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


def _added_only(fd: int, store: BaseObjectStore, tracked: Entries, path: bytes) -> list[bytes]:
    """Take back what is not an addition; the paths that were."""
    if path:
        os.fchmod(fd, 0o755)
        with suppress(OSError):  # without it, what lies below is seen again
            os.removexattr(fd, _OPAQUE)
    taken = []
    for name in _names(fd):
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        old, here = tracked.get(name), names.joined(path, name)
        subtree = walk.subtree(old)
        is_folder = stat.S_ISDIR(found.st_mode)
        if not path and name == names.DOT_GIT:
            _remove(fd, name)  # the checkout's own
        elif is_folder and subtree is not None:
            with _inner(fd, name) as inner:
                taken += _added_only(inner, store, walk.entries(store, subtree), here)
        elif old is not None and not (is_folder and walk.kind(old[0]) == walk.GITLINK):
            _remove(fd, name)
            taken.append(here)
        elif stat.S_ISCHR(found.st_mode):
            _remove(fd, name)  # a whiteout of what was never there
    return taken


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
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        file = os.open(name, flags, dir_fd=fd)
    except PermissionError:  # the files are ours: later attempts must be able to read them too
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        os.chmod(name, stat.S_IMODE(mode) | 0o400, dir_fd=fd)
        file = os.open(name, flags, dir_fd=fd)
    with os.fdopen(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


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
