"""The first program of a sandbox: sets limits, listens for the ways out, starts the agent.

It is made anew for each run, of what `Start` says, as a static executable of some hundred
instructions (machine_code): an interpreter in its place took longer to start than all the rest of a
sandbox, and an image need not have one. What listens is bound before the agent runs; who answers,
an interpreter with `forwarder.py`, comes up beside the agent. As a sandbox's first process it takes
leave of orphans too. What only a process of the sandbox can ask the kernel for, it holds open for
the watchdog (see kernel_memory).
Reports `starting`, a line, then a struct: errno of why the agent could not be started (0: it was),
and its wait status. Nothing of it is the agent's: its descriptors are closed when that one starts.
Raises: Rejected for a machine without machine code, or a word that no program can be given.
"""

import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wfhub_common.errors import Rejected

from wfhub_agent_runner.sandbox.machine_code import MACHINES, Code, Data, Slot, program
from wfhub_agent_runner.sandbox.port import CannotStart, Exited, Outcome, Signalled

STARTING = b"starting\n"
# Its own descriptors: below the least limit of open files, and whoever has been given others.
SOCKETS_COUNTER = 56  # asks the kernel of all sockets here (sock_diag(7))
IPC_COUNTERS = {57: "/proc/sysvipc/shm", 58: "/proc/sysvipc/msg", 59: "/proc/sysvipc/sem"}
LISTENERS = range(60, 62)
REPORT = 62
BACKLOG = 128
_ENDED = struct.Struct("<ii")
_SET_FLAGS, _CLOSE_ON_EXEC, _OPEN_CLOSES_ON_EXEC = 2, 1, 0o2000000
_HERE, _SOCK_DIAG = -100, 4
_SHARES_MEMORY, _WAITS_FOR_EXEC = 0x100, 0x4000
_ALL_ABOVE = 0xFFFFFFFF
_ERRNO_MAX = 4095
_SET_NO_NEW_PRIVS, _MODE_FILTER, _INSTRUCTION_BYTES = 38, 1, 8
_ENVIRONMENT, _SOCKET, _ERROR = Slot(0), Slot(1), Slot(2)


@dataclass(frozen=True)
class Start:
    """`paths`: where argv[0] may be, tried in order. `ports` are listened to at 127.0.0.1, by
    `forwarder`, which finds them at LISTENERS. `passed` are descriptors that bwrap had. `seccomp`:
    a filter that holds from here on, where nobody else can load it."""

    argv: Sequence[str]
    paths: Sequence[str]
    limits: Mapping[str, int]
    report: int
    passed: Sequence[int] = ()
    ports: Sequence[int] = ()
    forwarder: Sequence[str] = ()
    seccomp: bytes = b""


def check(machine: str) -> None:
    """Raises: Rejected."""
    if machine not in MACHINES:
        known = ", ".join(MACHINES)
        raise Rejected("sandbox-machine", f"no starter for {machine}; there is one for {known}")


def made(start: Start, machine: str) -> bytes:
    """The executable."""
    check(machine)
    words = (*start.argv, *start.paths, *start.forwarder)
    if any("\0" in word for word in words):
        raise Rejected("sandbox-argv", "a command must not hold the character U+0000: remove it")
    code, data = MACHINES[machine](), Data()
    ended = data.add(_ENDED.pack(0, 0))
    code.environment(_ENVIRONMENT)
    _descriptors(code, start)
    code.call("umask", 0o022)  # the runner's is tighter; a repository's files are for all to read
    if start.seccomp:
        _filter(code, data, start.seccomp)
    for name, number in start.limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        code.call("prlimit64", 0, kind, data.add(struct.pack("<QQ", number, number)), 0)
        code.jump_if_error("failed")
    _open_counters(code, data)
    if start.ports:
        _listen(code, data, start)
    code.call("write", REPORT, data.add(STARTING), len(STARTING))
    _start_agent(code, data, start, ended)
    code.label("wait")
    code.call("wait4", -1, ended + 4, 0, 0)
    code.jump_if(_SOCKET, "report")
    code.jump_if_error("not waited")
    code.jump("wait")  # it was an orphan, or the forwarder
    code.label("not waited")
    code.jump_if(-errno.EINTR, "wait")
    code.label("failed")
    code.keep(_ERROR)
    code.store(_ERROR, ended)
    code.label("report")
    code.call("write", REPORT, ended, _ENDED.size)
    code.call("exit_group", 0)
    return program(code, data)


def _filter(code: Code, data: Data, program: bytes) -> None:
    shape = struct.pack("<H6xQ", len(program) // _INSTRUCTION_BYTES, data.add(program))
    code.call("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    code.jump_if_error("failed")
    code.call("seccomp", _MODE_FILTER, 0, data.add(shape))
    code.jump_if_error("failed")


def _descriptors(code: Code, start: Start) -> None:
    """What bwrap left open is not the agent's; what is reported to neither."""
    if start.report == REPORT:
        code.call("fcntl", REPORT, _SET_FLAGS, _CLOSE_ON_EXEC)
    else:
        code.call("dup3", start.report, REPORT, _OPEN_CLOSES_ON_EXEC)
    for descriptor in (start.report, *start.passed):  # Linux before 5.9 knows no ranges
        if descriptor != REPORT:
            code.call("close", descriptor)
    code.call("close_range", 3, REPORT - 1, 0)
    code.call("close_range", REPORT + 1, _ALL_ABOVE, 0)


def _open_counters(code: Code, data: Data) -> None:
    """Those that this kernel has."""
    kind = socket.SOCK_RAW | _OPEN_CLOSES_ON_EXEC
    code.call("socket", socket.AF_NETLINK, kind, _SOCK_DIAG)
    _put(code, SOCKETS_COUNTER)
    for descriptor, path in IPC_COUNTERS.items():
        code.call("openat", _HERE, data.text(os.fsencode(path)), _OPEN_CLOSES_ON_EXEC, 0)
        _put(code, descriptor)


def _put(code: Code, descriptor: int) -> None:
    """What was just opened, if it was."""
    code.jump_if_error(f"without {descriptor}")
    code.keep(_SOCKET)
    code.call("dup3", _SOCKET, descriptor, _OPEN_CLOSES_ON_EXEC)
    code.call("close", _SOCKET)
    code.label(f"without {descriptor}")


def _listen(code: Code, data: Data, start: Start) -> None:
    one = data.add(struct.pack("<i", 1))
    for descriptor, port in zip(LISTENERS, start.ports, strict=False):
        address = data.add(
            struct.pack("<H", socket.AF_INET) + struct.pack(">H4s8x", port, b"\x7f\0\0\1")
        )
        code.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        code.jump_if_error("failed")
        code.keep(_SOCKET)
        code.call("setsockopt", _SOCKET, socket.SOL_SOCKET, socket.SO_REUSEADDR, one, 4)
        code.call("bind", _SOCKET, address, 16)
        code.jump_if_error("failed")
        code.call("listen", _SOCKET, BACKLOG)
        code.jump_if_error("failed")
        code.call("dup3", _SOCKET, descriptor, 0)
        code.jump_if_error("failed")
        code.call("close", _SOCKET)
    code.call("clone", int(signal.SIGCHLD), 0, 0, 0, 0)
    code.jump_if_error("failed")
    code.jump_if_zero("forwarder")
    for descriptor, _ in zip(LISTENERS, start.ports, strict=False):
        code.call("close", descriptor)
    code.jump("forwarded")
    code.label("forwarder")
    words = [os.fsencode(word) for word in start.forwarder]
    code.call("execve", data.text(words[0]), data.texts(words), _ENVIRONMENT)
    code.call("exit_group", 127)
    code.label("forwarded")


def _start_agent(code: Code, data: Data, start: Start, ended: int) -> None:
    """Its number is in _SOCKET. As after vfork, this goes on once it runs or has said why not."""
    code.call("clone", _SHARES_MEMORY | _WAITS_FOR_EXEC | int(signal.SIGCHLD), 0, 0, 0, 0)
    code.jump_if_error("failed")
    code.jump_if_zero("agent")
    code.keep(_SOCKET)
    code.load(ended)
    code.jump_if_error("report")
    code.jump("started")
    code.label("agent")
    code.set(_ERROR, -errno.ENOENT)
    argv = data.texts([os.fsencode(word) for word in start.argv])
    for number, path in enumerate(start.paths):
        code.call("execve", data.text(os.fsencode(path)), argv, _ENVIRONMENT)
        for elsewhere in (errno.ENOENT, errno.ENOTDIR):
            code.jump_if(-elsewhere, f"after {number}")
        code.keep(_ERROR)
        code.label(f"after {number}")
    code.store(_ERROR, ended)
    code.call("exit_group", 127)
    code.label("started")


def outcome(report: bytes, program: str) -> Outcome | None:
    """What became of the command, by the report; None: there is no word of it."""
    before, starting, rest = report.partition(STARTING)
    if len(rest or before) < _ENDED.size:
        # The agent killed its own first process, and so everything.
        return Signalled(signal.SIGKILL) if starting else None
    error, status = _ENDED.unpack_from(rest or before)
    if error:
        return CannotStart(f"{program[:200]}: {os.strerror(-error & _ERRNO_MAX)}")
    if os.WIFSIGNALED(status):
        return Signalled(os.WTERMSIG(status))
    return Exited(os.WEXITSTATUS(status))
