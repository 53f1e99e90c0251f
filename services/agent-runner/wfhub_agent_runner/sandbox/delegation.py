"""Delegation: a cgroup of the runner's own, made where the machine lets us, and why not where not.

Called once at the start, as root before privileges are dropped (the folders then belong to `uid`),
or as the uid that runs. Below the cgroup that this process is in, `wfhub-<runner>` is made: on v1
in each controller's hierarchy; on v2 once, with a leaf that this process moves into, because the
kernel lets a uid move processes only within what was delegated to it.
As root a small process stays behind, which removes the folders when the runner is gone. Without
root the runner leaves them to its next start, which takes them over.
Raises: nothing of its own; what cannot be is a `Delegated` without folders, and says why.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from wfhub_agent_runner.sandbox.cgroup import CONTROLLERS

LEAF = "runner"
REMOVE_S_MAX = 5.0  # for the last processes of killed sandboxes to be gone
REMOVE_AGAIN_S = 0.02
_HANDED_OVER = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")


@dataclass(frozen=True)
class Delegated:
    folders: tuple[Path, ...] = ()
    why: str = ""  # there are none, or not for every controller


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup file system and where this process is in it. `controllers`: v1's."""

    own: Path
    controllers: frozenset[str]
    v2: bool


def delegate(name: str, uid: int, proc: Path = Path("/proc/self")) -> Delegated:
    """v2 where it has the controllers, else v1's of memory, cpu and pids."""
    whys = []
    found = list(hierarchies(proc))
    for hierarchy in found:
        if hierarchy.v2:
            try:
                folder = _delegate_v2(hierarchy.own, name, uid)
            except OSError as e:
                whys.append(f"cgroup v2 at {hierarchy.own}: {e.strerror or e}")
            else:
                _remove_at_the_end([folder])
                return Delegated((folder,))
    folders = []
    for controller in CONTROLLERS:
        own = next((h.own for h in found if not h.v2 and controller in h.controllers), None)
        if own is None:
            whys.append(f"cgroup v1 has no {controller}")
            continue
        try:
            folders.append(_delegate_v1(own, name, uid))
        except OSError as e:
            whys.append(f"cgroup v1 at {own}: {e.strerror}")
    if folders:
        _remove_at_the_end(folders)
    return Delegated(tuple(folders), "; ".join(whys))


def hierarchies(proc: Path) -> Iterator[Hierarchy]:
    """By the kernel's own tables; without those mounted elsewhere than where this process is."""
    places: dict[frozenset[str], str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        places[frozenset(filter(None, names.split(",")))] = path
    for line in (proc / "mountinfo").read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        fields, (kind, _, options) = mount.split(), rest.split()[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        mounted = frozenset(options.split(","))
        for controllers, path in places.items():  # v2 has none in its line
            if bool(controllers) != (kind == "cgroup") or not controllers <= mounted:
                continue
            relative = os.path.relpath(path, fields[3])
            own = Path(os.path.normpath(os.path.join(fields[4], relative)))
            if not relative.startswith("..") and own.is_dir():
                yield Hierarchy(own, controllers, kind == "cgroup2")


def _delegate_v1(own: Path, name: str, uid: int) -> Path:
    folder = own / f"wfhub-{name}"
    _make_empty(folder)
    if (folder / "cpuset.cpus").exists():  # mounted together: a child has none until it is told
        for file in ("cpuset.cpus", "cpuset.mems"):
            (folder / file).write_text((own / file).read_text())
    _hand_over(folder, uid)
    return folder


def _delegate_v2(own: Path, name: str, uid: int) -> Path:
    there = (own / "cgroup.controllers").read_text().split()
    if missing := [each for each in CONTROLLERS if each not in there]:
        raise OSError(f"it has no {', '.join(missing)} controller")
    folder = own / f"wfhub-{name}"
    _make_empty(folder)
    leaf = folder / LEAF
    leaf.mkdir()
    words = " ".join(f"+{each}" for each in CONTROLLERS)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    try:
        enabled = (own / "cgroup.subtree_control").read_text().split()
        if not set(CONTROLLERS) <= set(enabled):
            (own / "cgroup.subtree_control").write_text(words)
        (folder / "cgroup.subtree_control").write_text(words)
    except OSError as e:
        (own / "cgroup.procs").write_text(str(os.getpid()))
        _remove(folder)
        raise OSError(
            f"its controllers cannot be enabled ({e.strerror}): other processes are in it"
        ) from e
    _hand_over(folder, uid)
    _hand_over(leaf, uid)
    return folder


def _hand_over(folder: Path, uid: int) -> None:
    """Its own limits stay root's."""
    if os.geteuid() == 0:
        os.chown(folder, uid, -1)
        for file in _HANDED_OVER:
            with contextlib.suppress(FileNotFoundError):
                os.chown(folder / file, uid, -1)


def _make_empty(folder: Path) -> None:
    """What an earlier run of the same runner left is not taken over, but removed."""
    with contextlib.suppress(FileNotFoundError):
        _remove(folder)
    folder.mkdir(exist_ok=True)


def _remove(folder: Path) -> None:
    """Raises: OSError while a process is left in it."""
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            _remove(entry)
    folder.rmdir()


def _remove_at_the_end(folders: list[Path]) -> None:
    if os.geteuid() != 0:
        return
    waits, ours = os.pipe()
    if os.fork() == 0:
        try:
            _wait_and_remove(waits, folders)
        finally:
            os._exit(0)
    os.close(waits)
    os.set_inheritable(ours, False)  # and never closed: it ends with this process


def _wait_and_remove(waits: int, folders: list[Path]) -> NoReturn:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(waits, 0)
    os.closerange(1, 4096)
    os.chdir("/")
    os.read(0, 1)
    until = time.monotonic() + REMOVE_S_MAX
    while folders and time.monotonic() < until:
        for folder in list(folders):
            with contextlib.suppress(OSError):
                if (folder / LEAF).is_dir():  # where this process is, too
                    (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
            try:
                _remove(folder)
            except FileNotFoundError:
                folders.remove(folder)
            except OSError:
                continue
            else:
                folders.remove(folder)
        time.sleep(REMOVE_AGAIN_S)
    os._exit(0)
