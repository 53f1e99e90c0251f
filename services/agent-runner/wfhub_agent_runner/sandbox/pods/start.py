"""What a pod's agent container runs: lays the agent's own files out, sets limits, listens for the
ways out, loads the seccomp program of its machine (beside what the cluster refuses), starts the
agent, and stays to take leave of orphans. The kubelet's SIGTERM is passed on to all that the agent
started.

The same as the starter of other backends, for a machine that the runner does not know: bound in as
one file, run with `-I -S`, standard library only. Reads start.json beside it: {"argv", "env",
"cwd", "limits": {name: number}, "forwards": [[port, socket]], "own": {path: file here}, "seccomp":
{machine: program, base64}}. What listens is bound before the agent runs; forwarder.py, beside it,
answers.
Reports lines as the container's termination message, where the runner finds them: `starting`, then
`exited N`, `signalled N` or `cannot-start REASON`. stdout and stderr are the agent's.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

TERMINATION = "/dev/termination-log"
BACKLOG = 128
CANNOT_START = 127
SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER, INSTRUCTION_BYTES = 38, 22, 2, 8
SET_DUMPABLE = 4


def main() -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "start.json"), encoding="utf-8") as file:
        told = json.load(file)
    lay_out(here, told["own"])
    close_to_the_agent()
    with open(TERMINATION, "ab", buffering=0) as report:
        for name, number in told["limits"].items():
            limit(getattr(resource, f"RLIMIT_{name}"), number)
        if told["forwards"]:
            listen(os.path.join(here, "forwarder.py"), told["forwards"])
        signal.signal(signal.SIGTERM, pass_on)
        if reason := confine(told["seccomp"]):
            report.write(f"cannot-start {reason}\n".encode())
            return CANNOT_START
        report.write(b"starting\n")  # before: the agent may kill this process the moment it runs
        pid, reason = start(told)
        if not pid:
            report.write(f"cannot-start {reason}\n".encode())
            return CANNOT_START
        status = ended(pid)
        if os.WIFSIGNALED(status):
            report.write(f"signalled {os.WTERMSIG(status)}\n".encode())
            return 128 + os.WTERMSIG(status)
        report.write(f"exited {os.WEXITSTATUS(status)}\n".encode())
        return os.WEXITSTATUS(status)


def close_to_the_agent() -> None:
    """The agent is the same uid: without this it could write to this process's memory, descriptors
    too, and trace it. What is executed from here on is open again."""
    ctypes.CDLL(None).prctl(SET_DUMPABLE, 0, 0, 0, 0)


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine(programs: dict[str, str]) -> str:
    """This process and all that it starts; or why not."""
    machine = os.uname().machine
    if machine not in programs:
        return f"there is no seccomp program for {machine}, only for {', '.join(programs)}"
    code = base64.b64decode(programs[machine])
    program = _Program(len(code) // INSTRUCTION_BYTES, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        SET_SECCOMP, MODE_FILTER, ctypes.byref(program)
    ):
        return f"the seccomp program was not taken: {os.strerror(ctypes.get_errno())}"
    return ""


def pass_on(number: int, _frame: object) -> None:
    """To everybody else here; the forwarder does not listen."""
    with contextlib.suppress(OSError):  # nobody
        os.kill(-1, number)


def lay_out(here: str, own: dict[str, str]) -> None:
    for path, name in own.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.path.join(here, name), "rb") as source, open(path, "wb") as target:
            target.write(source.read())


def limit(kind: int, wanted: int) -> None:
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(kind, (wanted, wanted))


def listen(forwarder: str, forwards: list[tuple[int, str]]) -> None:
    listeners = [socket.create_server(("127.0.0.1", port), backlog=BACKLOG) for port, _ in forwards]
    words = [
        f"{listener.fileno()}={path}"
        for listener, (_, path) in zip(listeners, forwards, strict=True)
    ]
    if os.fork() == 0:
        try:
            for listener in listeners:
                os.set_inheritable(listener.fileno(), True)
            argv = [sys.executable, "-I", "-S", forwarder, *words]
            os.execve(argv[0], argv, {})  # noqa: S606 - the forwarder is ours
        finally:
            os._exit(CANNOT_START)
    for listener in listeners:
        listener.close()


def start(told: dict[str, Any]) -> tuple[int, str]:
    """Fork and exec. (pid, ""), or (0, the reason why it cannot be)."""
    argv, env = told["argv"], told["env"]
    reading, writing = os.pipe()  # both close on exec: nothing to read means it did start
    pid = os.fork()
    if pid == 0:
        what = argv[0]
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which this interpreter ignores
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)  # a repository's files are for all to read
            os.dup2(1, 2)  # one pipe: of two, the order in which lines were written is not known
            what = told["cwd"]
            os.chdir(what)
            what = argv[0]
            os.execvpe(argv[0], argv, env)  # noqa: S606 - the agent is this program
        except OSError as e:
            os.write(writing, f"{what[:200]}: {e.strerror}".encode())
        finally:
            os._exit(CANNOT_START)
    os.close(writing)
    with open(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    return (0, reason) if reason else (pid, "")


def ended(pid: int) -> int:
    """The wait status of that child; others that end meanwhile are orphans."""
    while True:
        found, status = os.wait()
        if found == pid:
            return status


if __name__ == "__main__":
    sys.exit(main())
