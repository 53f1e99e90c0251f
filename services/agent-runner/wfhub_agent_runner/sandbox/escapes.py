"""The escape attempts: run inside a sandbox, they say which of them got through.

Bound in as one file and run by an interpreter with `-I -S`: standard library only. The argument is
JSON: {"canary": path, "port": number, "host_pid_space": link, "nosuid": whether the sandbox mounts
its file systems so}. Prints one JSON object, name → [got through, what happened]. An attempt that
got through leaves nothing behind: files are opened for writing, never written; what was mounted
goes with its namespace.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pty
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

CLONE_NEWUSER = 0x10000000
PTRACE_TRACEME = 0
TIOCSTI = 0x5412
PR_GET_NO_NEW_PRIVS, PR_CAPBSET_READ = 39, 23
CAPABILITIES_MAX = 64
AF_ALG, AF_VSOCK = 38, 40
PROCESSES_MAX = 8  # the first, the starter, this one and its children
SETUID_PROGRAMS = ("su", "mount", "umount", "passwd", "newgrp", "gpasswd", "chsh", "chfn", "sudo")

libc = ctypes.CDLL(None, use_errno=True)
Found = tuple[bool, str]


def read_host_file(facts: dict[str, Any]) -> Found:
    with open(facts["canary"], "rb") as file:
        return True, f"read {len(file.read())} bytes of {facts['canary']}"


def write_system(_: dict[str, Any]) -> Found:
    return _opens_for_writing(("/usr/wfhub-probe", "/etc/wfhub-probe", "/wfhub-probe"), os.O_CREAT)


def write_kernel_settings(_: dict[str, Any]) -> Found:
    paths = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger")
    return _opens_for_writing(paths, 0)


def _opens_for_writing(paths: Iterable[str], flags: int) -> Found:
    refusals = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY | flags, 0o600))
        except OSError as e:
            refusals.append(f"{path}: {e.strerror}")
        else:
            return True, f"{path} can be written"
    return False, "; ".join(refusals)


def new_user_namespace(_: dict[str, Any]) -> Found:
    return _call(libc.unshare, CLONE_NEWUSER)


def mount_a_file_system(_: dict[str, Any]) -> Found:
    return _call(libc.mount, b"tmpfs", b"/tmp", b"tmpfs", 0, None)


def change_root(_: dict[str, Any]) -> Found:
    return _call(libc.chroot, b"/tmp")


def trace_a_process(_: dict[str, Any]) -> Found:
    return _call(libc.ptrace, PTRACE_TRACEME, 0, None, None)


def _call(function: Any, *arguments: Any) -> Found:
    """In a child, so that success changes nothing for the attempts that follow."""
    pid = os.fork()
    if pid == 0:
        result = function(*arguments)
        os._exit(0 if result == 0 else ctypes.get_errno() & 0x7F)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code == 0, os.strerror(code) if code else "the kernel allowed it"


def host_socket_families(_: dict[str, Any]) -> Found:
    opened = []
    for name, family, kind in (
        ("AF_VSOCK", AF_VSOCK, socket.SOCK_STREAM),
        ("AF_PACKET", 17, socket.SOCK_RAW),
        ("AF_ALG", AF_ALG, socket.SOCK_SEQPACKET),
    ):
        try:
            socket.socket(family, kind).close()
        except OSError as e:
            if e.errno not in (errno.EPERM, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT):
                opened.append(f"{name}: {e.strerror}")
        else:
            opened.append(name)
    return bool(opened), ", ".join(opened) or "refused"


def reach_the_host(facts: dict[str, Any]) -> Found:
    with socket.create_connection(("127.0.0.1", facts["port"]), timeout=2):
        return True, "connected to a listener of the host's"


def see_host_processes(facts: dict[str, Any]) -> Found:
    pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    if os.readlink("/proc/self/ns/pid") == facts["host_pid_space"]:
        return True, "it shares the host's process numbers"
    foreign = os.readlink("/proc/self") != str(os.getpid())  # /proc shows another space
    return foreign or len(pids) > PROCESSES_MAX, f"{len(pids)} processes are visible"


def gain_by_setuid(facts: dict[str, Any]) -> Found:
    if libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        return True, "programs can gain privileges"
    if not facts["nosuid"]:
        numbers = range(CAPABILITIES_MAX)
        left = [n for n in numbers if libc.prctl(PR_CAPBSET_READ, n, 0, 0, 0) == 1]
        return bool(left), f"no_new_privs, and root would have the capabilities {left}"
    for name in SETUID_PROGRAMS:
        path = f"/usr/bin/{name}"
        if os.path.exists(path) and not os.statvfs(path).f_flag & os.ST_NOSUID:
            return True, f"{path} is on a file system that honours setuid"
    return False, "no_new_privs, nosuid"


def write_how_it_ended(_: dict[str, Any]) -> Found:
    """To the runner, in the place of the starter, which is this one's parent."""
    folder = f"/proc/{os.getppid()}/fd"
    refusals = []
    for name in os.listdir(folder):
        if int(name) > 2:  # those before are the output, which is this one's too
            try:
                os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK))
            except OSError as e:
                refusals.append(e.strerror or type(e).__name__)
            else:
                return True, f"descriptor {name} of the starter can be written"
    return False, "; ".join(refusals)


def change_the_first_process(_: dict[str, Any]) -> Found:
    """It has no limits, and ends the others."""
    os.close(os.open("/proc/1/mem", os.O_RDWR))
    return True, "its memory can be written"


def type_into_a_terminal(_: dict[str, Any]) -> Found:
    main_end, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, TIOCSTI, b"x")
    finally:
        os.close(main_end)
        os.close(terminal)
    return True, "TIOCSTI was allowed"


ATTEMPTS: tuple[Callable[[dict[str, Any]], Found], ...] = (
    read_host_file,
    write_system,
    write_kernel_settings,
    new_user_namespace,
    mount_a_file_system,
    change_root,
    trace_a_process,
    host_socket_families,
    reach_the_host,
    see_host_processes,
    gain_by_setuid,
    write_how_it_ended,
    change_the_first_process,
    type_into_a_terminal,
)


def main() -> None:
    facts = json.loads(sys.argv[1])
    found = {}
    for attempt in ATTEMPTS:
        name = attempt.__name__.replace("_", "-")
        try:
            found[name] = attempt(facts)
        except OSError as e:
            found[name] = (False, e.strerror or type(e).__name__)
    with contextlib.suppress(OSError), open("/workspace/probe", "w") as file:
        file.write("whose is this file outside?")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
