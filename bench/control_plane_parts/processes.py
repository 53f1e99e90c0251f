"""Child processes of the bench: started with a log each, killed with it, whatever ends it.

A child dies with the bench by the kernel's hand (parent death signal), so that even a kill -9 of
the bench leaves nothing running.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

NOBODY = 65534  # Postgres refuses to run as root
STOP_S_MAX = 20.0
LOG_TAIL_BYTES = 4000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Ended(RuntimeError):
    """A child that should run does not; the message has the end of its log."""


class Child:
    """One process. `restart()` starts it anew with the same command line and log."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        as_nobody: bool = False,
        stop_signal: int = signal.SIGTERM,
        pipes: bool = False,
    ) -> None:
        self.name, self.argv = name, [str(part) for part in argv]
        self.log = folder / f"{name}.log"
        self._env = {**os.environ, **(env or {})}
        self._as_nobody = as_nobody and os.geteuid() == 0
        self._stop_signal = stop_signal
        self._pipes = pipes
        self.popen = self._start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def restart(self) -> None:
        self.popen = self._start()

    def kill(self) -> None:
        """-9, now."""
        self.popen.kill()
        self.popen.wait(STOP_S_MAX)

    def stop(self) -> None:
        """In order; -9 when it takes too long."""
        if self.popen.poll() is None:
            self.popen.send_signal(self._stop_signal)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.popen.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def check(self) -> None:
        if (code := self.popen.poll()) is not None:
            raise Ended(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def cpu_s(self) -> float:
        """Processor time of it and its children so far, ended ones included."""
        process = psutil.Process(self.pid)
        used = 0.0
        for each in [process, *process.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
        own = process.cpu_times()
        return used + own.children_user + own.children_system

    def _start(self) -> subprocess.Popen[str]:
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if self._as_nobody else {}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if self._pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._pipes else log,
                stderr=log,
                text=True,
                cwd="/",
                env=self._env,
                preexec_fn=_die_with_parent,  # one thread here: safe
                **who,  # type: ignore[call-overload]
            )


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Family:
    """All children of a run, ended in reverse order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def start(self, name: str, argv: Sequence[object], **more: object) -> Child:
        child = Child(name, [str(a) for a in argv], folder=self.folder, **more)  # type: ignore[arg-type]
        self._children.append(child)
        return child

    def end(self, child: Child) -> None:
        child.stop()
        self._children.remove(child)

    def end_all(self) -> None:
        for child in reversed(self._children):
            child.stop()
        self._children.clear()


def python(module: str, *args: object) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, args)]


def run(argv: Sequence[object], *, as_nobody: bool = False, timeout_s: float = 120.0) -> str:
    """Output of a command that has to succeed."""
    who = {"user": NOBODY, "group": NOBODY} if as_nobody and os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(a) for a in argv],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        **who,  # type: ignore[call-overload]
    )
    if done.returncode:
        raise Ended(f"{argv[0]} failed with {done.returncode}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def until(
    look: Callable[[], Any], what: str, *, child: Child | None = None, timeout_s: float = 60.0
) -> Any:
    """What `look()` answers when it first is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if child is not None:
            child.check()
        if time.monotonic() > deadline:
            raise Ended(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)
    return found
