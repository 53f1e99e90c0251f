"""Runs a test's code as the runner would run: an ordinary uid, no privileges, in a child process.

`run(home, work)` forks, drops to RUNNER_UID (when the tests run as root; else it stays who it is),
awaits `work()` and returns its result, which must pickle. `home` becomes that uid's own and is the
only folder it may write to. What fails in there fails here, with its traceback.
"""

import asyncio
import os
import pickle
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from wfhub_common import privileges

THREAD_END_S = 5
RUNNER_UID = privileges.SERVICE_UIDS["runner"]
T = TypeVar("T")


def uid() -> int:
    return RUNNER_UID if os.geteuid() == 0 else os.geteuid()


def own(folder: Path) -> Path:
    if os.geteuid() == 0:
        os.chown(folder, RUNNER_UID, RUNNER_UID)
    return folder


def run(home: Path, work: Callable[[], Awaitable[T]]) -> T:
    own(home)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        answer: tuple[bool, object]
        try:
            here = os.geteuid() if os.geteuid() else RUNNER_UID
            gid = None if os.geteuid() == 0 else os.getegid()
            _end_threads()
            privileges.drop(here, gid, keep_visible=privileges.code_paths(), keep_writable=(home,))
            answer = (True, asyncio.run(work()))  # type: ignore[arg-type]
        except BaseException:  # noqa: BLE001 - whatever it was is the parent's to raise
            answer = (False, traceback.format_exc())
        with open(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answered = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert answered, f"the unprivileged process ended without an answer ({status})"
    ok, result = pickle.loads(answered)
    if not ok:
        raise AssertionError(f"in the unprivileged process:\n{result}")
    return result  # type: ignore[no-any-return]


def _end_threads() -> None:
    """A library's at-fork hook may start one: OpenTelemetry's does even for a processor that was
    shut down, and that thread ends at once. The kernel has it a little longer than Python."""
    deadline = time.monotonic() + THREAD_END_S
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
