"""What a sandbox uses, measured from outside by /proc and the writable layer.

Without a cgroup this is how memory and disk are held, so it counts what an agent could hide in:
files deleted but still open, memfds, pipes, page tables, its tmpfs mounts, folders it made
unreadable, processes that cannot be dumped or whose first thread has ended. What the kernel holds
beside (sockets, System V objects) is kernel_memory's.
Not seen: shared memory without a name of which no process has a page or a descriptor (one that is
mapped and was filled by a process that has ended; one whose descriptor is on its way through a
socket), and descriptors of a process that is hidden in both ways. Only a memory cgroup counts that.
Units: bytes (blocks in use, not lengths), inodes, seconds of CPU time.
A process or file that vanishes while it is looked at counts as nothing.
"""

import array
import contextlib
import ctypes
import fcntl
import os
import stat
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK_BYTES = 512  # the unit of st_blocks
_PIDFD_GETFD = 438
_NAMED_BYTES_MAX = 3072  # of a path that the kernel still takes with one name more
_PIPE_BYTES_MAX = 1024**2  # of /proc/sys/fs/pipe-max-size, where nobody changed it
TMPFS_MOUNTS = ("tmp", "home/agent", "dev/shm")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Usage:
    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.bytes + other.bytes, self.inodes + other.inodes)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.bytes - other.bytes, self.inodes - other.inodes)


def processes(first: int) -> list[int]:
    """`first` and its descendants: all of a pid namespace when `first` is its init, because an
    orphan becomes its child."""
    found, todo = [], [first]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children(pid)
    return found


def children(pid: int) -> list[int]:
    """Of each thread in the order in which they came."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                words = _read(f"/proc/{pid}/task/{thread}/children").split()
                found += [int(child) for child in words]
    return found


def cpu_s(pids: list[int]) -> float:
    """CPU time of these and of their children that have ended and were waited for. Not seen: a
    child whose parent ignores the signal of its end."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # from the third on
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_S


def resident_bytes(pids: list[int]) -> int:
    """And of their page tables. Shared pages are counted for each process that has them: never
    less than the truth."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(_resident(_place(pid)))
    return total


def _place(pid: int) -> str:
    """Where /proc shows what it has: of a process whose first thread has ended, at another's."""
    own = f"/proc/{pid}"
    if any(_resident(own)):
        return own
    threads = [f"{own}/task/{thread}" for thread in os.listdir(f"{own}/task")]
    for thread in threads:
        with contextlib.suppress(OSError):
            if any(_resident(thread)):
                return thread
    return own


def _resident(place: str) -> tuple[int, int]:
    """(of its pages, of the tables of them), nothing once it has ended."""
    found = {}
    for line in _read(f"{place}/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmPTE"):
            found[name] = int(value.split()[0]) * 1024
    return found.get("VmRSS", 0), found.get("VmPTE", 0)


def proportional_bytes(pids: list[int], *, shared_too: bool = True) -> int:
    """Like resident_bytes, but that shared pages are divided among those who have them: the truth,
    and slow to ask for. Without `shared_too` shared memory is left out, where all of it is in files
    that are counted."""
    words = ("Pss:",) if shared_too else ("Pss_Anon:", "Pss_File:")
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            place = _place(pid)
            pages, tables = _resident(place)
            try:
                lines = _read(f"{place}/smaps_rollup").splitlines()
                pages = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(words))
            except PermissionError:
                pass
            total += pages + tables
    return total


def tmpfs_usage(first: int, root: str = "") -> list[Usage]:
    """Of each mount of TMPFS_MOUNTS, in that order. `root`: where `first` sees them."""
    found = []
    for mount in TMPFS_MOUNTS:
        usage = Usage()
        with contextlib.suppress(OSError):
            at = os.statvfs(f"/proc/{first}/root{root}/{mount}")
            if at.f_files:  # a tmpfs with a size; the sandbox may not be set up yet
                used = (at.f_blocks - at.f_bfree) * at.f_frsize
                usage = Usage(used, at.f_files - at.f_ffree)
        found.append(usage)
    return found


@dataclass(frozen=True)
class Held:
    """By open descriptors, without a name: deleted files, memfds, and what is in pipes."""

    disk_bytes: int
    memory_bytes: int
    pipes_bytes: int


def held_open(pids: list[int], *, exact: bool = False) -> Held:
    """`exact`: pipes are looked into; else each counts as the largest."""
    on_disk: dict[tuple[int, int], int] = {}
    in_memory: dict[tuple[int, int], int] = {}
    pipes: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for path in _descriptors(pid):
                with contextlib.suppress(OSError):
                    at = os.stat(path)
                    which = at.st_dev, at.st_ino
                    if stat.S_ISFIFO(at.st_mode) and which not in pipes:
                        pipes[which] = _in_pipe(path) if exact else _PIPE_BYTES_MAX
                    if at.st_nlink or not stat.S_ISREG(at.st_mode):
                        continue
                    memory = os.readlink(path).startswith("/memfd:")
                    where = in_memory if memory else on_disk
                    where[which] = at.st_blocks * BLOCK_BYTES
    return Held(sum(on_disk.values()), sum(in_memory.values()), sum(pipes.values()))


def _in_pipe(path: str) -> int:
    """At most: a byte can have a page of its own. One with a name is not opened, which whoever
    waits for a reader would notice."""
    if not os.readlink(path).startswith("pipe:"):
        return _PIPE_BYTES_MAX
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiting = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
        return min(fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ), waiting[0] * PAGE_BYTES)
    finally:
        os.close(descriptor)


def _descriptors(pid: int) -> Iterator[str]:
    """Paths, each good until the next is asked for. Of a process that cannot be dumped /proc lists
    none to its own uid, but to whom its user namespace belongs the kernel gives copies."""
    place = _place(pid)
    try:
        for name in os.listdir(f"{place}/fd"):
            yield f"{place}/fd/{name}"
    except PermissionError:
        yield from _copied(pid)


def _copied(pid: int) -> Iterator[str]:
    (size,) = (
        int(line.split()[1])
        for line in _read(f"/proc/{pid}/status").splitlines()
        if line.startswith("FDSize:")
    )
    process = os.pidfd_open(pid)
    try:
        for number in range(size):
            copy = _libc.syscall(_PIDFD_GETFD, process, number, 0)
            if copy >= 0:
                try:
                    yield f"/proc/self/fd/{copy}"
                finally:
                    os.close(copy)
    finally:
        os.close(process)


def tree_usage(root: Path) -> Usage:
    """What lies below `root`. A folder that its owner may not read is made readable: mode 000
    must not hide anything from the count, nor may a path that is too long to be named."""
    return _below(os.fspath(root))


def _below(top: str) -> Usage:
    total, inodes = 0, 0
    far = Usage()
    todo = [top]
    while todo:
        folder = todo.pop()
        try:
            entries = list(_scan(folder))
        except OSError:
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                at = entry.stat(follow_symlinks=False)
                total += at.st_blocks * BLOCK_BYTES
                inodes += 1
                if not stat.S_ISDIR(at.st_mode):
                    continue
                if len(os.fsencode(entry.path)) < _NAMED_BYTES_MAX:
                    todo.append(entry.path)
                else:
                    far += _far_below(entry.path)
    return Usage(total, inodes) + far


def _far_below(folder: str) -> Usage:
    """From there paths begin anew, at a descriptor."""
    descriptor = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        return _below(f"/proc/self/fd/{descriptor}/.")
    finally:
        os.close(descriptor)


def _scan(folder: str) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except PermissionError:
        # By descriptor, which no link can be put in the place of.
        descriptor = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
        finally:
            os.close(descriptor)
        return os.scandir(folder)


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
