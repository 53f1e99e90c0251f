"""One stack per data directory: who holds it, and how a client finds it.

The lock file is held with flock by the stack's own process for as long as it lives, so the kernel
frees it whatever kills the process; the state file is only believed while the lock is held.
`users.lock` is held shared by each process that uses a stack it did not start by `wfhub up`; a
stack that is there for them ends when nobody holds it.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from wfhub_local.layout import Layout

STARTING_S_MAX = 400.0  # how long another process may take to start, initdb included
POLL_S = 0.05
PROBE_S = 0.5  # `is_held` holds the lock for a moment: that is no stack


@dataclass(frozen=True)
class State:
    url: str
    pid: int
    token_file: str
    ready: bool = False


class Held(Exception):
    """Another process has this data directory; `pid` is 0 when it did not say yet."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"held by pid {pid}")
        self.pid = pid


def acquire(layout: Layout) -> int:
    """The descriptor that holds the directory until it is closed. Raises: Held."""
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + PROBE_S
    while not _locked(descriptor):
        if time.monotonic() > deadline:
            pid = os.pread(descriptor, 20, 0).strip()
            os.close(descriptor)
            raise Held(int(pid) if pid.isdigit() else 0)
        time.sleep(POLL_S)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    layout.state.unlink(missing_ok=True)  # left by a stack that was killed
    return descriptor


def write(layout: Layout, state: State) -> None:
    new = layout.state.with_suffix(".new")
    new.write_text(json.dumps(asdict(state)) + "\n")
    new.replace(layout.state)


def read(layout: Layout) -> State | None:
    try:
        return State(**json.loads(layout.state.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_held(layout: Layout) -> bool:
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared: two that look at the same time do not take each other for a stack.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_ready(layout: Layout, *, timeout_s: float = STARTING_S_MAX) -> State | None:
    """The running stack's state once it is ready; None when nobody holds the directory (any
    more) or it took too long."""
    deadline = time.monotonic() + timeout_s
    while is_held(layout) and time.monotonic() < deadline:
        state = read(layout)
        if state is not None and state.ready:
            return state
        time.sleep(POLL_S)
    return None


@contextmanager
def in_use(path: Path) -> Iterator[int]:
    """Counts as a user of the stack meanwhile. Waits while a stack is being ended for want of
    users. Yields the descriptor of the shared lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def try_sole(descriptor: int) -> bool:
    """Whether nobody (else) uses the stack; if so, nobody can begin to until it is closed. If
    not, a shared lock that it had is gone (flock converts by letting go first)."""
    return _locked(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
