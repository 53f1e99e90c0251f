"""Delegation: a cgroup of the runner's own, made where the machine lets us, and why not where not.

Called once at the start, as root before privileges are dropped (the folders then belong to `uid`),
or as the uid that runs. Below the cgroup that this process is in, `wfhub-<name>` is made: on v1
in each controller's hierarchy; on v2 once, with a leaf that this process moves into, because the
kernel lets a uid move processes only within what was delegated to it.
As root a small process stays behind (cgroup_keeper), which removes the folders when the runner is
gone. Without root the runner leaves them to its next start, which makes them anew.
Raises: nothing of its own; what cannot be is a `Delegated` without folders, and says why.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wfhub_agent_runner.sandbox import cgroup_keeper
from wfhub_agent_runner.sandbox.cgroup import CONTROLLERS
from wfhub_agent_runner.sandbox.cgroup_keeper import LEAF, remove

_HANDED_OVER = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")
_started: list[subprocess.Popen[bytes]] = []


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


def name(runner_id: str, home: Path) -> str:
    """A restored copy beside its original has the same id, but a home of its own."""
    return f"{runner_id}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"


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
        remove(folder)
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
        remove(folder)
    folder.mkdir(exist_ok=True)


def _remove_at_the_end(folders: Sequence[Path]) -> None:
    if os.geteuid() != 0:
        return
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", cgroup_keeper.__file__, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,  # a signal to our group must not end it before us
    )
    _started.append(keeper)  # its stdin ends with this process; nothing waits for it
