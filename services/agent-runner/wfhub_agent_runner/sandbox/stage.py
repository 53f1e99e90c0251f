"""The stage of one container: what it will see, put together in a mount namespace of its own.

Run by the runner's interpreter with `-I -S` before the OCI runtime, which it then becomes. The
argument is a file with a plan, marshalled: {"root": [layer…, upper, work, where], "steps": […],
"argv": […], "pids": false}. A step is ["overlay", target, lowers, upper, work], ["tmpfs", target,
options], ["bind", source, target] (read-only) or ["file", source, target, mode]; targets are below
the root, and what is missing of them is made there. A link of the image's is never followed.
With `pids` the runtime is the first process of a pid namespace, so that its end is the end of all
that it started; this one then waits for it.
The user namespace that it makes maps its own uid to 0 and nothing else. Hosts with cgroup v1 and v2
both are shown to the runtime as without any: some runtimes refuse a mixture, and ours uses none.
Says on stderr why it cannot, and exits with 126. Imports little: each start pays for it.
"""

# ruff: noqa: SIM105 - contextlib is one of them
from __future__ import annotations

import ctypes
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CANNOT_START = 126
_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_COPIED_BYTES = 1 << 20  # at once
_PLAIN = _NOSUID | _NODEV

_libc = ctypes.CDLL(None, use_errno=True)


def main(path: str) -> None:
    with open(path, "rb") as file:
        plan = marshal.load(file)  # noqa: S302 - the runner's own
    parent = os.getppid()
    _become_root_of_its_own(_NEWPID if plan.get("pids") else 0)
    _mount(None, "/", None, _REC | _PRIVATE)
    if os.path.isdir("/sys/fs/cgroup"):
        _mount("tmpfs", "/sys/fs/cgroup", "tmpfs", _PLAIN | _NOEXEC | _RDONLY, "size=4k,mode=755")
    *lowers, upper, work, where = plan["root"]
    _overlay(where, lowers, upper, work)
    root = os.open(where, os.O_PATH | os.O_DIRECTORY)
    for kind, *arguments in plan["steps"]:
        _STEPS[kind](root, *arguments)
    _prctl_dies_with(parent)
    if plan.get("pids"):
        _go_on_as_the_first(os.getpid())
    os.execv(plan["argv"][0], plan["argv"])  # noqa: S606 - to become the runtime


def _go_on_as_the_first(parent: int) -> None:
    """In a child; this process ends with it."""
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0):
        raise _failed("ask to end with the runner")
    _mount("proc", "/proc", "proc", _PLAIN | _NOEXEC)


def _become_root_of_its_own(more: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_NEWUSER | _NEWNS | more):
        raise _failed("make a user namespace")
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def _step_overlay(root: int, target: str, lowers: list[str], upper: str, work: str) -> None:
    _overlay(_shown(_below(root, target)), lowers, upper, work)


def _step_tmpfs(root: int, target: str, options: str) -> None:
    _mount("tmpfs", _shown(_below(root, target)), "tmpfs", _PLAIN, options)


def _step_bind(root: int, source: str, target: str) -> None:
    descriptor = os.open(source, os.O_PATH)
    place = _below(root, target, folder=os.path.isdir(_shown(descriptor)))
    _mount(_shown(descriptor), _shown(place), None, _BIND | _REC)
    place = _below(root, target, folder=None)  # what lies there now
    _mount(None, _shown(place), None, _BIND | _REMOUNT | _PLAIN | _RDONLY)


def _step_file(root: int, source: str, target: str, mode: int) -> None:
    place = _below(root, os.path.dirname(target))
    name = os.path.basename(target)
    try:
        os.unlink(name, dir_fd=place)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with (
        open(source, "rb") as content,
        open(os.open(name, flags, 0o600, dir_fd=place), "wb") as file,
    ):
        while chunk := content.read(_COPIED_BYTES):
            file.write(chunk)
        os.fchmod(file.fileno(), mode)


_STEPS: dict[str, Any] = {
    "overlay": _step_overlay,
    "tmpfs": _step_tmpfs,
    "bind": _step_bind,
    "file": _step_file,
}


def _below(root: int, target: str, *, folder: bool | None = True) -> int:
    """A descriptor of `target` below the root, made when missing: a folder, a file (False), or
    whatever is there (None)."""
    at, parts = root, [part for part in target.split("/") if part]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        flags = os.O_PATH | os.O_NOFOLLOW
        try:
            found = os.open(part, flags, dir_fd=at)
        except FileNotFoundError:
            if last and folder is False:
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=at))
            else:
                os.mkdir(part, 0o755, dir_fd=at)
            found = os.open(part, flags, dir_fd=at)
        is_folder = os.path.isdir(_shown(found)) and not _is_link(found)
        if _is_link(found) or (is_folder is not True and (not last or folder is True)):
            raise OSError(0, f"the image has something else than a folder at {part!r}", target)
        at = found
    return at


def _is_link(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o120000


def _overlay(where: str, lowers: list[str], upper: str, work: str) -> None:
    """By descriptors: any name of a folder will do, and the container sees none of them."""
    opened = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (*lowers, upper, work)]
    *below, up, aside = map(_shown, opened)
    below.reverse()  # the last lower lies on top, which an overlay names first
    options = f"lowerdir={':'.join(below)},upperdir={up},workdir={aside},userxattr"
    _mount("overlay", where, "overlay", _PLAIN, options)
    for descriptor in opened:
        os.close(descriptor)


def _shown(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()):
        raise _failed(f"mount {kind or source or 'anew'} on {os.path.realpath(target)}")


def _prctl_dies_with(parent: int) -> None:
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), 0, 0, 0):
        raise _failed("ask to end with the runner")
    if os.getppid() != parent:
        sys.exit(CANNOT_START)


def _failed(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"cannot {what}: {os.strerror(code)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OSError as e:
        print(f"the container cannot be put together: {e}", file=sys.stderr, flush=True)
        sys.exit(CANNOT_START)
