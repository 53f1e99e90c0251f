"""Keeps the children running, in the order they were added, until it is asked to stop.

One thread, no event loop: it sleeps until a signal (a child's end is one too) or the next thing
to do. Stops in reverse order, group by group, in bounded time.
Raises: Failed when a process cannot be kept running, or does not get ready in time.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from wfhub_local import processes, restarts
from wfhub_local.processes import Process

STOP_S_MAX = 20.0  # a group's; past a service's own grace of 15 s
POLL_S = 0.03  # while something is not up yet
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """The stack cannot go on; the message has the reason and the log's tail."""


class Asked(Exception):
    """A signal asked for the end while the stack was still starting."""


@dataclass
class _Child:
    process: Process
    group: int
    running: subprocess.Popen[bytes] | None = None
    ends: list[float] = field(default_factory=list)
    start_at: float = 0.0
    was_up: bool = False


class Supervisor:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[_Child] = []
        self._was_ready = False
        self._asked = 0  # how often a signal asked for the end
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Signals reach this supervisor meanwhile, then whoever had them before."""

        def asked(_number: int, _frame: FrameType | None) -> None:
            self._asked += 1

        def woken(_number: int, _frame: FrameType | None) -> None:
            return None

        wanted = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # nohup's stays
        before = {number: signal.signal(number, asked) for number in wanted}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, woken)
        fd_before = signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, process: Process, *, group: int) -> None:
        """Groups are stopped together, the highest first."""
        processes.rotate(process.log)
        child = _Child(process, group)
        self._children.append(child)
        child.running = processes.start(process)

    def wait_up(self, *, timeout_s: float) -> None:
        """Until every child is up at the same time. Raises: Failed, Asked."""
        deadline = time.monotonic() + timeout_s
        while (waiting := self._not_up()) is not None:
            if time.monotonic() > deadline:
                log = waiting.process.log
                raise Failed(
                    f"{waiting.process.name} was not ready within {timeout_s:.0f} s; the end of"
                    f" {log}:\n{processes.tail(log)}"
                )
            self._pause(POLL_S)
            if self._asked:
                raise Asked
            self._tend()

    def mark_ready(self) -> None:
        self._was_ready = True

    def run(self, *, until: Callable[[], bool], poll_s: float) -> None:
        """Tend until a signal asks for the end, or `until` says so, looked at every `poll_s`.
        Raises: Failed."""
        while not self._asked and not until():
            self._tend()
            due = min((c.start_at for c in self._children if c.running is None), default=None)
            left = poll_s if due is None else max(0.0, due - time.monotonic())
            self._pause(min(left, poll_s))

    def stop(self) -> None:
        """Ends everything. A second signal meanwhile kills what is left."""
        before = self._asked
        for group in sorted({child.group for child in self._children}, reverse=True):
            members = [c for c in self._children if c.group == group and c.running is not None]
            for child in reversed(members):
                assert child.running is not None
                processes.send(child.running, child.process.stop_signal)
            deadline = time.monotonic() + STOP_S_MAX
            while any(c.running is not None and c.running.poll() is None for c in members):
                if time.monotonic() > deadline or self._asked > before:
                    break
                self._pause(POLL_S)
            for child in members:
                assert child.running is not None
                if child.running.poll() is None:
                    self._say(f"{child.process.name} did not stop in time and is killed")
                # What it started in its group goes with it, however it ended.
                processes.send(child.running, signal.SIGKILL, group=True)
                child.running.wait()
        self._children.clear()

    def pids(self) -> dict[str, int]:
        return {c.process.name: c.running.pid for c in self._children if c.running is not None}

    def _not_up(self) -> _Child | None:
        for child in reversed(self._children):  # the last are the last to be up
            if child.running is None or child.running.poll() is not None:
                return child
            if not child.was_up:
                child.was_up = child.process.is_up()
                if not child.was_up:
                    return child
        return None

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.running is not None and (code := child.running.poll()) is not None:
                self._ended(child, code, now)
            if child.running is None and child.start_at <= now:
                child.running = processes.start(child.process)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        assert child.running is not None
        processes.send(child.running, signal.SIGKILL, group=True)
        child.running, child.was_up = None, False
        child.ends = [at for at in child.ends if now - at < restarts.RESTART_WINDOW_S] + [now]
        name, log, how = child.process.name, child.process.log, processes.how_it_ended(code)
        delay_s = restarts.delay_s(child.ends, now=now, was_ready=self._was_ready)
        if delay_s is None:
            raise Failed(
                f"{name} {how}, {len(child.ends)} times in"
                f" {restarts.RESTART_WINDOW_S:.0f} s; the end of {log}:\n{processes.tail(log)}"
            )
        self._say(f"{name} {how}; starting it again in {delay_s:.1f} s (log: {log})")
        child.start_at = now + delay_s

    def _pause(self, timeout_s: float) -> None:
        select.select([self._wakeup[0]], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 4096)
