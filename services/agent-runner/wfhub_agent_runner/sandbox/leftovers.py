"""What an earlier runner left: containers that did not end with it, and folders.

A container ends when its runner does, since its first process sees to it; but an agent can get at
that process, which is of its own uid, and a stopped one sees to nothing. So a runner's start ends
what is still there, as crun noted it: a process by its number and its start, so that no other is
hit.
Call it before anything runs there.
"""

import contextlib
import json
import os
import select
import signal
from pathlib import Path

from wfhub_agent_runner.removal import remove_tree
from wfhub_agent_runner.sandbox import etc

GONE_MS_MAX = 10_000
_START_TIME = 19  # in /proc/PID/stat, after the name


def sweep(scratch: Path) -> None:
    for folder in scratch.glob("container-*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            noted = json.loads((folder / "state" / "wfhub" / "status").read_text())
            _end(int(noted["pid"]), int(noted["process-start-time"]))
    if (older := etc.copies(scratch)).exists():
        remove_tree(older)
    for pattern in ("sandbox-*", "container-*"):
        for folder in scratch.glob(pattern):
            remove_tree(folder)


def _end(pid: int, started: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if int(stat.rpartition(")")[2].split()[_START_TIME]) == started:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            gone = select.poll()
            gone.register(descriptor, select.POLLIN)
            gone.poll(GONE_MS_MAX)
    finally:
        os.close(descriptor)
