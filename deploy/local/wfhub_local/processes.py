"""One child process: what it is, how it is started, how it ends. No policy.

Each child has a session of its own (Ctrl-C is the stack's to handle), a log file as its output,
only the environment and descriptors that it is given, and a signal from the kernel for when the
stack dies. As root each becomes its own uid first (wfhub_common.privileges); as anyone else it
stays who it is. The signal is tied to the *thread* that starts a child: start from the main one.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wfhub_common import privileges

LOG_BYTES_MAX = 8 * 1024 * 1024  # at start a longer log becomes .1, and the .1 before is gone
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 12
PATH = "/usr/local/bin:/usr/bin:/bin"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _yes() -> bool:
    return True


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Process:
    name: str
    argv: tuple[str, ...]
    log: Path
    uid: int  # 0: stays root, and drops by itself
    env: Mapping[str, str] = field(default_factory=dict)
    visible: tuple[Path, ...] = ()  # kept readable for it, wherever they lie
    writable: tuple[Path, ...] = ()
    descriptors: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL  # when the stack died
    before: Callable[[], None] = _nothing  # each time it is started
    is_up: Callable[[], bool] = _yes


def start(process: Process) -> subprocess.Popen[bytes]:
    process.before()
    with _appending(process.log) as output:
        return subprocess.Popen(
            command(process),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(process.env),
            cwd="/",
            start_new_session=True,
            pass_fds=process.descriptors,
            preexec_fn=lambda: _die_with_parent(process.death_signal),
        )


def run(process: Process, text: str) -> int:
    """Run to the end with `text` as its standard input. Returns the exit code."""
    with _appending(process.log) as output:
        ended = subprocess.run(
            command(process),
            input=text.encode(),
            stdout=output,
            stderr=output,
            env=environment(process.env),
            cwd="/",
            check=False,
            start_new_session=True,  # Ctrl-C must not cut an initdb in two
            preexec_fn=lambda: _die_with_parent(process.death_signal),
        )
    return ended.returncode


def command(process: Process) -> list[str]:
    if process.uid == 0:
        return list(process.argv)
    return privileges.launcher(
        process.uid,
        process.argv,
        gid=None if os.geteuid() == 0 else os.getgid(),
        keep_visible=(*privileges.code_paths(), *process.visible),
        keep_writable=process.writable,
        die_with_parent=process.death_signal,
    )


def environment(own: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": PATH, "LANG": "C.UTF-8", **own}


def _appending(log: Path) -> IO[bytes]:
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _die_with_parent(number: signal.Signals) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def send(child: subprocess.Popen[bytes], number: signal.Signals, *, group: bool = False) -> None:
    """To the process, or to everything in its session's first group."""
    try:
        if group:
            os.killpg(child.pid, number)
        elif child.poll() is None:
            child.send_signal(number)
    except ProcessLookupError:
        pass


def rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))


def tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join("  | " + line for line in text.splitlines()[-LOG_TAIL_LINES:])


def how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
