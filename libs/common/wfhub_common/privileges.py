"""Privileges: how a process that is root becomes an ordinary service uid, for good.

What: `drop` changes the calling process; `launcher` is the argv that drops and then execs another
program. In a mount namespace of its own each path to keep is made reachable although a parent
folder is closed to that uid (an interpreter below root's home): a tmpfs covers the topmost closed
folder, with the kept paths bound back inside, so the rest of it is gone from view. /etc/passwd and
/etc/group are made up and name the service uids. Then: no groups, no capabilities, no new
privileges, umask 077, and a check that there is no way back.
Shape: standard library only, and runnable by file path under `python -I -S`, because a launched
service pays for this start too. Call `drop` before any thread is started.
Raises: CannotDrop, whose sentence says what stood in the way; a caller refuses to start then.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

SERVICE_UIDS = {
    "runner": 64001,
    "postgres": 64002,
    "nats": 64003,
    "scheduler": 64004,
    "api": 64005,
    "proof-store": 64006,
    "gateway": 64007,
}

CANNOT_START = 126  # exit status of the launcher when it could not drop or exec

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 2, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)


class CannotDrop(Exception):
    """This process cannot become that uid safely; the message says why and what to do."""


def code_paths() -> tuple[Path, ...]:
    """What this Python needs to run again: the interpreter, the virtualenv, the import path."""
    found = sorted({Path(p) for p in (sys.base_prefix, sys.prefix, *filter(None, sys.path))})
    outermost = [p for p in found if p.exists() and not any(up in found for up in p.parents)]
    return (*outermost, Path(sys.executable))  # the executable for the links on the way to it


def launcher(
    uid: int,
    argv: Sequence[str],
    *,
    gid: int | None = None,
    keep_visible: Sequence[Path] = (),
    keep_writable: Sequence[Path] = (),
    die_with_parent: signal.Signals | None = None,
) -> list[str]:
    """The argv that drops to `uid` and execs `argv`; `die_with_parent` is what the kernel sends
    when the *thread* that started it ends."""
    command = [sys.executable, "-I", "-S", __file__, "--uid", str(uid)]
    if gid is not None:
        command += ["--gid", str(gid)]
    if keep_visible:
        command += ["--visible", os.pathsep.join(map(str, keep_visible))]
    if keep_writable:
        command += ["--writable", os.pathsep.join(map(str, keep_writable))]
    if die_with_parent is not None:
        command += ["--die-with-parent", str(int(die_with_parent))]
    return [*command, "--", *argv]


def drop(
    uid: int,
    gid: int | None = None,
    *,
    keep_visible: Sequence[Path] = (),
    keep_writable: Sequence[Path] = (),
    die_with_parent: int | None = None,
) -> None:
    """Become `uid` (and `gid`, by default the same number). `keep_visible` is kept read-only where
    it has to be bound, `keep_writable` as it is; a missing path is skipped.

    A process that is not root may only "drop" to the uid it has: then nothing is mounted.
    Without `die_with_parent` a death signal that the process had is kept.
    """
    gid = uid if gid is None else gid
    parent = os.getppid()
    die_with_parent = die_with_parent or _death_signal()
    if uid == 0 or gid == 0:
        raise CannotDrop("refusing to drop to root: choose a service uid above 0")
    if len(os.listdir("/proc/self/task")) > 1:
        raise CannotDrop("the process has threads already: drop privileges before starting any")
    if os.geteuid() == 0:
        _make_reachable(uid, gid, keep_visible, keep_writable)
        _become(uid, gid)
    elif os.getuid() != uid:
        raise CannotDrop(f"uid {os.getuid()} cannot become {uid}: start as root or as uid {uid}")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)
    os.umask(0o077)
    _check_no_way_back(uid)
    for path in keep_visible:
        _check_reachable(path, uid, os.R_OK)
    for path in keep_writable:
        _check_reachable(path, uid, os.R_OK | os.W_OK)
    if die_with_parent:  # after the uid change, which clears it
        _prctl(_PR_SET_PDEATHSIG, die_with_parent, 0)
        if os.getppid() != parent:  # the parent died before the kernel was told
            os.kill(os.getpid(), die_with_parent)


# --- the identity ---------------------------------------------------------------------------


def _become(uid: int, gid: int) -> None:
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as e:
        raise CannotDrop(f"cannot become uid {uid}: {e.strerror}; is CAP_SETUID missing?") from e


def _death_signal() -> int:
    found = ctypes.c_int()
    _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(found), 0, 0, 0)
    return found.value


def _check_no_way_back(uid: int) -> None:
    fields = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    if fields["Uid"].split() != [str(uid)] * 4:
        raise CannotDrop(f"the kernel says the uids are {fields['Uid']!r}, not {uid}")
    for name in ("CapPrm", "CapEff", "CapAmb"):
        if int(fields[name], 16):
            raise CannotDrop(f"capabilities are left ({name} {fields[name]}): start without them")
    if fields["NoNewPrivs"].strip() != "1":
        raise CannotDrop("no_new_privs did not take")
    for attempt in (os.setuid, os.setgid):
        try:
            attempt(0)
        except PermissionError:
            continue
        raise CannotDrop("the process could become root again")


def _check_reachable(path: Path, uid: int, mode: int) -> None:
    if not os.path.lexists(path):
        blocked = next(p for p in path.parents if os.path.lexists(p))
        if os.access(blocked, os.X_OK):
            return  # it was never there
        raise CannotDrop(f"{path} is out of reach for uid {uid} because of {blocked}")
    if not os.access(path, mode | (os.X_OK if os.path.isdir(path) else 0)):
        verb = "write" if mode & os.W_OK else "read"
        raise CannotDrop(f"uid {uid} may not {verb} {path}: change its owner or its mode")


# --- what it can see ------------------------------------------------------------------------


def _make_reachable(uid: int, gid: int, visible: Sequence[Path], writable: Sequence[Path]) -> None:
    """Kept paths below a closed folder are opened first, then bound back over its cover."""
    if _libc.unshare(_CLONE_NEWNS):
        reason = os.strerror(ctypes.get_errno())
        raise CannotDrop(
            f"cannot make a mount namespace ({reason}): in a container start as the service uid"
            " instead of root"
        )
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    covers: set[Path] = set()
    links: dict[Path, str] = {}
    sources: dict[Path, tuple[int, bool]] = {}  # real path → (O_PATH descriptor, writable)
    for path, may_write in [*((p, False) for p in visible), *((p, True) for p in writable)]:
        real, passed = _walk(path)
        for at in (real, *passed):
            if (top := _closed_above(at, uid, gid)) is not None:
                covers.add(top)
        links.update(passed)
        if _closed_above(real, uid, gid) is not None and real.exists():
            sources[real] = (os.open(real, os.O_PATH | os.O_CLOEXEC), may_write)
    for cover in covers:
        _mount("tmpfs", str(cover), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for real in sorted(sources):  # parents first
        descriptor, may_write = sources[real]
        around = next((sources[up][1] for up in real.parents if up in sources), None)
        if around != may_write:
            _bind(descriptor, real, read_only=not may_write)
    for descriptor, _ in sources.values():
        os.close(descriptor)
    for link, target in links.items():
        if not os.path.lexists(link):
            _make_folders(link.parent)
            os.symlink(target, link)
    _name_uids(uid, gid)
    try:
        os.chdir(os.getcwd())  # not to stay in a folder that lies under a cover
    except OSError:
        os.chdir("/")


def _walk(path: Path) -> tuple[Path, dict[Path, str]]:
    """The real path, and each symbolic link on the way to it."""
    at = Path("/")
    passed: dict[Path, str] = {}
    parts = list(reversed(Path(os.path.abspath(path)).parts[1:]))
    while parts:
        part = parts.pop()
        if part == "..":
            at = at.parent
        elif not (at / part).is_symlink():
            at = at / part
        elif len(passed) > 40:
            raise CannotDrop(f"{path} passes too many symbolic links")
        else:
            passed[at / part] = target = os.readlink(at / part)
            if target.startswith("/"):
                at = Path("/")
            parts += [p for p in reversed(target.split("/")) if p not in ("", ".")]
    return at, passed


def _closed_above(path: Path, uid: int, gid: int) -> Path | None:
    """The topmost folder above `path` that `uid` may not pass through."""
    for folder in reversed(path.parents):
        try:
            found = folder.stat()
        except FileNotFoundError:
            return None
        bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid == gid else 0o001
        if not found.st_mode & bit:
            if folder == Path("/"):
                raise CannotDrop(f"uid {uid} may not pass through /: give it mode 0755")
            return folder
    return None


def _bind(descriptor: int, target: Path, *, read_only: bool) -> None:
    source = f"/proc/self/fd/{descriptor}"
    if not target.exists():
        if os.path.isdir(source):
            _make_folders(target)
        else:
            _make_folders(target.parent)
            target.touch()
    _mount(source, str(target), None, _MS_BIND | _MS_REC)
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    _mount(None, str(target), None, _MS_BIND | _MS_REMOUNT | flags)


def _make_folders(path: Path) -> None:
    if not path.exists():
        _make_folders(path.parent)
        path.mkdir()
        path.chmod(0o755)  # whatever the umask


def _name_uids(uid: int, gid: int) -> None:
    """initdb insists on an entry for its uid; nobody needs to see the real ones."""
    names = {"root": (0, 0), "nobody": (65534, 65534)}
    names |= {f"wfhub-{name}": (number, number) for name, number in SERVICE_UIDS.items()}
    if uid not in (number for number, _ in names.values()):
        names["wfhub"] = (uid, gid)
    shell = "/usr/sbin/nologin"
    passwd = "".join(f"{n}:x:{u}:{g}:{n}:/nonexistent:{shell}\n" for n, (u, g) in names.items())
    group = "".join(f"{n}:x:{g}:\n" for n, (_, g) in names.items())
    # A short-lived tmpfs holds the two files until they are bound: nothing is left on the host.
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for target, content in (("/etc/passwd", passwd), ("/etc/group", group)):
        source = Path("/tmp") / Path(target).name
        source.write_text(content)
        source.chmod(0o644)
        _mount(str(source), target, None, _MS_BIND)
    if _libc.umount2(b"/tmp", _MNT_DETACH):
        raise CannotDrop(f"cannot unmount /tmp: {os.strerror(ctypes.get_errno())}")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    arguments = [None if a is None else os.fsencode(a) for a in (source, target, kind)]
    data_bytes = None if data is None else data.encode()
    if _libc.mount(*arguments, ctypes.c_ulong(flags), data_bytes):
        reason = os.strerror(ctypes.get_errno())
        raise CannotDrop(f"cannot mount {source or kind or 'anew'} on {target}: {reason}")


def _prctl(option: int, one: int, two: int) -> None:
    numbers = [ctypes.c_ulong(n) for n in (one, two, 0, 0)]
    if _libc.prctl(option, *numbers):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


# --- the launcher ---------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> NoReturn:
    """`--uid N [--gid N] [--visible P:P] [--writable P:P] [--die-with-parent N] -- argv…`"""
    options: dict[str, str] = {}
    words = list(arguments)
    while words and words[0] != "--":
        name, value, *words = words if len(words) > 1 else [*words, ""]
        options[name] = value
    argv = words[1:]
    paths = {
        name: [Path(p) for p in options.pop(name, "").split(os.pathsep) if p]
        for name in ("--visible", "--writable")
    }
    try:
        uid = int(options.pop("--uid"))
        gid = int(options.pop("--gid", uid))
        deadly = int(options.pop("--die-with-parent", 0))
        if options or not argv:
            raise ValueError
    except (KeyError, ValueError):
        print(f"usage: privileges.py {main.__doc__}", file=sys.stderr)
        sys.exit(CANNOT_START)
    try:
        drop(
            uid,
            gid,
            keep_visible=paths["--visible"],
            keep_writable=paths["--writable"],
            die_with_parent=deadly,
        )
        os.execvp(argv[0], argv)  # noqa: S606 - to become the program is what a launcher is for
    except (CannotDrop, OSError) as e:
        print(f"cannot start {argv[0]} as uid {uid}: {e}", file=sys.stderr)
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
