"""The writable layer of one run: an overlay, or where that cannot be, a copy.

A probe at start finds which of these the file system of the runner's home can be:
- overlay: an upper layer over the read-only tree; costs what the run changes.
- copy: of the tree for each run, made to look like an overlay's upper layer afterwards.
- plain-copy: the same where not even a whiteout can be made (a container's own file system, itself
  an overlay): the workspaces are plain folders then (`SandboxSpec.copy`), read as a whole.
Copies cost what the repository weighs. Hard links are none of them: a run has the uid that owns the
shared tree and could write through them (ADR 23).
After a run `upper` holds the changes alone, in the form of an overlay's upper layer: a deletion is
a character device 0/0.
"""

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from wfhub_common.log import get_logger

from wfhub_agent_runner.removal import remove_tree
from wfhub_agent_runner.sandbox.port import WORKSPACE, SandboxSpec
from wfhub_agent_runner.sandbox.usage import Usage, tree_usage

PROBE_TIMEOUT_S = 20.0
PROBE_SCRIPT = "echo new > new && rm old && rm -r folder && mkdir folder"
_OPAQUE = "user.overlay.opaque"

log = get_logger(__name__)


class LayerKind(StrEnum):
    OVERLAY = "overlay"
    COPY = "copy"
    PLAIN_COPY = "plain-copy"


@dataclass(frozen=True)
class Layer:
    """What is mounted: an overlay of `upper` and `work`, or `upper` alone when `work` is None.
    `used` counts what the run added to it. `caches` maps a path inside to the layer that is over
    that cache; without one it is read-only."""

    upper: Path
    work: Path | None
    used: Callable[[], Usage]
    caches: Mapping[str, "CacheLayer"] = field(default_factory=dict)

    def mounts(self) -> dict[str, Path]:
        """The upper layer of each overlay, by its path inside."""
        caches = {path: layer.upper for path, layer in self.caches.items()}
        return caches if self.work is None else {**caches, WORKSPACE: self.upper}


@dataclass(frozen=True)
class CacheLayer:
    upper: Path
    work: Path


def probe(bwrap: Path, scratch: Path) -> LayerKind:
    """Tries an overlay with layers in `scratch`, as the uid that runs would have."""
    return probe_by(lambda folder: _overlay(bwrap, folder / "lower", folder, PROBE_SCRIPT), scratch)


def probe_by(command: Callable[[Path], list[str]], scratch: Path) -> LayerKind:
    """`command(folder)` runs PROBE_SCRIPT in an overlay of that folder's lower, upper and work."""
    kind, why = tried(command, scratch)
    if kind is not LayerKind.OVERLAY:
        log.warning(
            "no overlay on the file system of the runner's home: each run copies the repository;"
            " put RUNNER_HOME on ext4, xfs, btrfs or tmpfs",
            layer=kind.value,
            folder=str(scratch),
            why=why[:300],
        )
    return kind


def upper_on(bwrap: Path, folder: Path) -> LayerKind:
    """What a file system can be that holds `folder`."""
    return tried(lambda at: _overlay(bwrap, at / "lower", at, PROBE_SCRIPT), folder)[0]


def is_lower(bwrap: Path, lower: Path, scratch: Path) -> bool:
    """Whether an overlay can be made with `lower` below layers in `scratch`."""
    with temporary_folder(scratch) as folder:
        for name in ("upper", "work", "mount"):
            (folder / name).mkdir()
        command = _overlay(bwrap, lower, folder, "ls -A && echo new > wfhub-probe")
        ran = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False)
        return not ran.returncode and (folder / "upper" / "wfhub-probe").exists()


def _overlay(bwrap: Path, lower: Path, layers: Path, script: str) -> list[str]:
    at = str(layers / "mount")
    return [
        *(str(bwrap), "--unshare-user", "--ro-bind", "/", "/"),
        *("--overlay-src", str(lower)),
        *("--overlay", str(layers / "upper"), str(layers / "work"), at, "--chdir", at),
        *("--", "/bin/sh", "-c", script),
    ]


def tried(command: Callable[[Path], list[str]], scratch: Path) -> tuple[LayerKind, str]:
    """With why it is no overlay."""
    with temporary_folder(scratch) as folder:
        for name in ("lower", "upper", "work", "mount"):
            (folder / name).mkdir()
        (folder / "lower" / "old").touch()
        (folder / "lower" / "folder").mkdir()
        (folder / "lower" / "folder" / "below").touch()
        ran = subprocess.run(
            command(folder), capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
        if not ran.returncode and _is_overlay(folder / "upper"):
            return LayerKind.OVERLAY, ""
        kind = LayerKind.COPY
        try:
            _make_whiteout(folder / "whiteout")
        except OSError:
            kind = LayerKind.PLAIN_COPY
        why = ran.stderr.decode(errors="replace").strip()
        return kind, why or "it does not record what is replaced"


def _is_overlay(upper: Path) -> bool:
    """What PROBE_SCRIPT leaves in an upper layer that holds changes as it should."""
    try:
        opaque = os.getxattr(upper / "folder", _OPAQUE) == b"y"
    except OSError:
        return False
    return opaque and (upper / "new").exists() and is_whiteout(upper / "old")


@contextlib.asynccontextmanager
async def prepared(kind: LayerKind, spec: SandboxSpec, *, scratch: Path) -> AsyncIterator[Layer]:
    """A layer for one run; changes are in `spec.upper` afterwards, or thrown away without one."""
    if spec.copy is not None:
        whole = spec.copy
        at_first = await asyncio.to_thread(tree_usage, whole)
        yield Layer(whole, None, lambda: tree_usage(whole) - at_first)
        return
    upper, work = spec.upper, spec.work
    if kind is LayerKind.OVERLAY and upper and work and not spec.caches:
        given = upper
        yield Layer(given, work, lambda: tree_usage(given))
        return
    is_soon_enough = kind is LayerKind.OVERLAY and not spec.caches
    folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=scratch))
    try:
        if upper is None or work is None:
            upper, work = folder / "upper", folder / "work"
            upper.mkdir()
            work.mkdir()
        if kind is LayerKind.OVERLAY:
            caches = {path: _cache_layer(folder, n) for n, path in enumerate(spec.caches)}
            uppers = (upper, *(layer.upper for layer in caches.values()))
            yield Layer(upper, work, lambda: sum(map(tree_usage, uppers), Usage()), caches)
            return
        copy = folder / "copy"
        lowers = (spec.lower, *spec.extra_lowers)
        before, at_first = await asyncio.to_thread(_copied, lowers, upper, copy)
        yield Layer(copy, None, lambda: tree_usage(copy) - at_first)
        if spec.upper is not None:
            await asyncio.to_thread(_extract, copy, upper, before)
    finally:
        if is_soon_enough:
            _remove_soon(folder)
        else:
            await asyncio.to_thread(remove_tree, folder)


def _remove_soon(folder: Path) -> None:
    """In a thread that nobody waits for but the loop's end: the run's result need not."""

    def remove() -> None:
        try:
            if not _removed_empty(folder):
                remove_tree(folder)
        except OSError as e:  # the next start's sweep tries again
            log.warning("a run's folder is left", folder=str(folder), why=str(e))

    asyncio.get_running_loop().run_in_executor(None, remove)


def _removed_empty(folder: Path) -> bool:
    """Most runs leave nothing in their throw-away layer: that needs no walk."""
    try:
        for name in ("work/work", "work", "upper", ""):  # the first is the kernel's own
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder / name)
    except OSError:
        return False
    return True


def _cache_layer(folder: Path, number: int) -> CacheLayer:
    made = CacheLayer(folder / f"cache-{number}", folder / f"cache-{number}-work")
    made.upper.mkdir()
    made.work.mkdir()
    return made


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sandbox-", dir=parent))
    try:
        yield folder
    finally:
        remove_tree(folder)


def is_whiteout(path: Path) -> bool:
    try:
        at = path.lstat()
    except OSError:
        return False
    return stat.S_ISCHR(at.st_mode) and at.st_rdev == 0


def _make_whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))  # allowed to every uid


@dataclass(frozen=True)
class _Stamp:
    """What tells whether a file was touched: an agent can set neither inode nor change time."""

    inode: int
    changed_ns: int
    is_folder: bool


def _copied(lowers: tuple[Path, ...], upper: Path, copy: Path) -> tuple[dict[str, _Stamp], Usage]:
    shutil.copytree(lowers[0], copy, symlinks=True)
    for lower in lowers[1:]:
        _apply(lower, copy)
    before = _stamps(copy)
    _apply(upper, copy)
    return before, tree_usage(copy)


def _apply(upper: Path, copy: Path) -> None:
    """Lays `upper` over a plain tree, as an overlay would."""
    for entry in os.scandir(upper):
        target = copy / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        opaque = is_folder and _OPAQUE in os.listxattr(entry.path, follow_symlinks=False)
        if os.path.lexists(target) and (not is_folder or opaque or not _is_folder(target)):
            _remove(target)
        if is_folder:
            target.mkdir(exist_ok=True)
            _apply(Path(entry.path), target)
        elif not is_whiteout(Path(entry.path)):
            shutil.copy2(entry.path, target, follow_symlinks=False)


def _extract(copy: Path, upper: Path, before: dict[str, _Stamp]) -> None:
    """The inverse: leaves in `upper` what differs from the tree as it was `before`."""
    remove_tree(upper)
    upper.mkdir()
    tree_usage(copy)  # makes each folder readable
    after = _stamps(copy)
    for name in sorted(after):  # a folder comes before what is in it
        now, then = after[name], before.get(name)
        if now.is_folder and (then is None or not then.is_folder):
            (upper / name).mkdir(parents=True)
        elif not now.is_folder and now != then:
            (upper / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(copy / name, upper / name)
    for name in before:
        parent = os.path.dirname(name)
        if name not in after and (not parent or (parent in after and after[parent].is_folder)):
            (upper / name).parent.mkdir(parents=True, exist_ok=True)
            _make_whiteout(upper / name)


def _stamps(root: Path) -> dict[str, _Stamp]:
    """By relative path, everything below `root`."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            at = os.lstat(path)
            stamp = _Stamp(at.st_ino, at.st_ctime_ns, stat.S_ISDIR(at.st_mode))
            found[os.path.relpath(path, root)] = stamp
    return found


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink()
