"""The supervision of one started bwrap: whichever ends it first is the outcome.

The command's own end (as the starter reports it), the wall clock, a limit, a cancel, too much
output, or none for too long. Who is stopped for no limit's sake may be told first, and has the
spec's grace to end by itself; what it says and uses meanwhile counts. However it ends, no process
of the sandbox is left when `supervise` returns or raises.
Shape: bwrap says on `status` which process is the sandbox's init, the starter says on `report` how
the agent ended. Nobody else can write there: the starter's /proc entry is closed to the agent, and
where a kernel leaves it open (gVisor's), they are sockets, which cannot be opened from there.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from wfhub_agent_runner.sandbox import starter, telling_end, usage
from wfhub_agent_runner.sandbox.arguments import cpu_time_s
from wfhub_agent_runner.sandbox.cgroup import Group
from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.overlays import Held
from wfhub_agent_runner.sandbox.port import (
    Cancelled,
    CannotStart,
    LimitExceeded,
    OnOutput,
    Outcome,
    SandboxResult,
    SandboxSpec,
    TimedOut,
    is_told,
)
from wfhub_agent_runner.sandbox.watchdog import watch

CHUNK_BYTES = 64 * 1024
PIPE_BYTES_MAX = 16 * 1024  # kept of a report; what is longer is not ours
TAIL_BYTES = 2000  # of the output, for the message when bwrap itself fails


@dataclass(frozen=True)
class Started:
    """bwrap runs. `unblocks`: a byte here starts the command, once it is in its cgroup.
    `parent`: the process is no bwrap but the init's parent; that the init runs, the init says.
    `root`: where the init has the sandbox's root, if that is not its own. Then (it is gVisor) what
    runs there has all of its memory in one file of the init's children, and hears of its end by a
    byte on `unblocks`."""

    process: subprocess.Popen[bytes]
    output: int
    status: int
    report: int
    unblocks: int | None
    group: Group | None
    overlays: Held
    parent: bool = False
    root: str = ""


async def supervise(
    started: Started,
    spec: SandboxSpec,
    layer: Layer,
    on_output: OnOutput,
    cancel: asyncio.Event,
    began: float,
) -> SandboxResult:
    life = _Life(started, spec, layer)
    output = _Output(started.output, on_output, spec.limits.output_bytes)
    remaining_s = spec.wall_s - (time.monotonic() - began)
    reasons: list[asyncio.Task[Outcome | None]] = [
        asyncio.create_task(life.run()),
        asyncio.create_task(output.run()),
        asyncio.create_task(_later(remaining_s, TimedOut(spec.wall_s))),
        asyncio.create_task(_cancelled(cancel)),
        asyncio.create_task(_idle(spec, output)),
    ]
    try:
        stopped = await _first(reasons)
        if is_told(stopped) and (grace_s := spec.grace_s()) > 0 and await life.told():
            await _grace(reasons[:2], grace_s)
        ended = stopped or (started.group.exceeded() if started.group else None)
        outcome = ended or _outcome(spec, life.report.text, life.status.text, output.tail)
    finally:
        if life.is_gone and all(reason.done() for reason in reasons[:2]):
            _end(life, reasons)  # nothing is left to wait for, as after most runs
        else:
            await asyncio.shield(_clear(life, reasons))
    duration_ms = int((time.monotonic() - began) * 1000)
    return SandboxResult(outcome, duration_ms, output.passed, output.truncated)


class _Life:
    """The processes of one run, from bwrap's first word until the last of them is gone."""

    def __init__(self, started: Started, spec: SandboxSpec, layer: Layer) -> None:
        self.status, self.report = _Lines(started.status), _Lines(started.report)
        self.report.listen()
        self._started, self._spec, self._layer = started, spec, layer
        self._bwrap = os.pidfd_open(started.process.pid)
        self._init: int | None = None
        self.is_gone = False

    async def run(self) -> Outcome | None:
        """Returns a limit that was exceeded, else None at the command's end."""
        if self._started.unblocks is None:  # then nothing is to be done before the agent runs
            await self.report.first_line.wait()
        first = await self.begun()
        if first is None:  # bwrap failed and says why on its stderr
            await readable(self._bwrap)
            return None
        if self._started.unblocks is not None:
            try:  # in a thread: the kernel waits for a grace period before it moves a process
                if self._started.group is not None:
                    await asyncio.to_thread(self._move, self._started.group, first)
            except OSError as e:
                return CannotStart(f"cannot move the sandbox into its cgroup: {e}")
            self._say(self._started.unblocks)
        # Not before the agent runs: until then the init sees the host's mounts, not its own.
        await self.report.first_line.wait()
        self._started.overlays.hold(first)
        held = self._started.group.paths if self._started.group else {}
        watching = asyncio.create_task(
            watch(
                self._spec.limits,
                first,
                self._layer.used,
                memory="memory" not in held,
                cpu_s=None if "cpu" in held else cpu_time_s(self._spec),
                killed=self._started.group.exceeded if self._started.group else None,
                root=self._started.root,
                starter=None if self._started.root else self._starter(first),
            )
        )
        ending = asyncio.create_task(self.gone())
        try:
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            return watching.result() if watching.done() else None
        finally:
            watching.cancel()
            ending.cancel()

    def _move(self, group: Group, first: int) -> None:
        """Until nobody new is there: gVisor's kernel starts processes before the agent's."""
        moved: set[int] = set()
        while new := {self._started.process.pid, *usage.processes(first)} - moved:
            group.add(*sorted(new))
            moved |= new

    async def begun(self) -> int | None:
        """Waits until bwrap has made the sandbox's init, or has failed. To kill bwrap before would
        leave an init that waits for it for ever. Repeatable."""
        self.status.listen()
        await self.status.first_line.wait()
        self.status.pause()
        if not self._started.parent:
            first = _child_pid(self.status.text)
        else:
            first = _only_child(self._started.process.pid) if self.status.text else None
        if first is not None and self._init is None:
            with contextlib.suppress(ProcessLookupError):
                self._init = os.pidfd_open(first)
        return first

    async def told(self) -> bool:
        """False when there is nobody yet who could be told."""
        first = await self.begun() if self.report.first_line.is_set() else None
        if first is None:
            return False
        if self._started.root and self._started.unblocks is not None:
            self._say(self._started.unblocks)
        else:
            await asyncio.to_thread(telling_end.tell, first, self._starter(first))
        return True

    def _starter(self, first: int) -> int:
        """Its number, once it has said that it is there."""
        if not self._started.parent:
            return first
        return next(iter(usage.children(first)), first)  # later ones are orphans

    def _say(self, descriptor: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has just ended, which will be noticed
            os.write(descriptor, b"\0")

    def kill(self) -> None:
        for pidfd in (self._bwrap, self._init):
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def gone(self) -> None:
        """Waits until no process is left and all was read that they reported."""
        await readable(self._bwrap)
        if self._init is not None:
            await readable(self._init)
        self.status.listen()
        await self.status.ended.wait()
        await self.report.ended.wait()
        self.is_gone = True

    def close(self) -> None:
        self._started.process.wait()  # it has ended: this only takes its exit status away
        for pidfd in (self._bwrap, self._init):
            if pidfd is not None:
                os.close(pidfd)
        self.status.close()
        self.report.close()
        self._started.overlays.give_up()


class _Lines:
    """What arrived on a pipe while it was listened to; `ended` once every writer is gone. Who
    writes need not wake this process with each word: bwrap's status has eight before a line's end,
    between which it does not go on with the sandbox."""

    def __init__(self, descriptor: int) -> None:
        self.text = b""
        self.first_line = asyncio.Event()
        self.ended = asyncio.Event()
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def listen(self) -> None:
        if not self.ended.is_set():
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def pause(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._descriptor, 4096)
            self.text = (self.text + chunk)[:PIPE_BYTES_MAX]
            if b"\n" in self.text or not chunk:
                self.first_line.set()
            if not chunk:
                self.close()

    def close(self) -> None:
        self.pause()
        self.ended.set()


class _Output:
    """Passes the output on, as fast as `on_output` takes it, up to the limit."""

    def __init__(self, source: int, on_output: OnOutput, limit: int) -> None:
        self._source, self._on_output, self._limit = source, on_output, limit
        os.set_blocking(source, False)
        self.passed = 0
        self.last_at = time.monotonic()
        self.truncated = False
        self.tail = b""

    async def run(self) -> Outcome | None:
        """Returns None when all was passed on, else that it was too much."""
        while True:
            try:
                chunk = os.read(self._source, CHUNK_BYTES)
            except BlockingIOError:
                await readable(self._source)
                continue
            if not chunk:
                return None
            self.last_at = time.monotonic()
            room = self._limit - self.passed
            self.truncated = len(chunk) > room
            chunk = chunk[:room]
            self.passed += len(chunk)
            self.tail = (self.tail + chunk)[-TAIL_BYTES:]
            if chunk:
                await self._on_output(chunk)
                self.last_at = time.monotonic()  # while it is taken slowly, the command waits
            if self.truncated:
                return LimitExceeded("output", self._limit)


async def readable(descriptor: int) -> None:
    """One waiter at a time for each descriptor."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def _first(reasons: list[asyncio.Task[Outcome | None]]) -> Outcome | None:
    """What ended the run: a reason, or None when the command has ended by itself and all of its
    output was passed on. (It may close its output and go on.)"""
    living, reading, *_ = reasons
    waiting = set(reasons)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if reason := task.result():
                return reason
        if not {living, reading} & waiting:
            return None


async def _grace(reasons: list[asyncio.Task[Outcome | None]], grace_s: float) -> None:
    """Until the command has ended by itself, or is to be killed: for a limit, or for time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await _first(reasons)


async def _later(delay_s: float, reason: Outcome) -> Outcome | None:
    await asyncio.sleep(delay_s)
    return reason


async def _cancelled(cancel: asyncio.Event) -> Outcome | None:
    await cancel.wait()
    return Cancelled()


async def _idle(spec: SandboxSpec, output: _Output) -> Outcome | None:
    """Looks again only when it could have become too long."""
    if spec.idle_s is None:
        await asyncio.Event().wait()
        return None
    while True:
        idle_s = time.monotonic() - max(output.last_at, spec.signs())
        if idle_s >= spec.idle_s:
            return LimitExceeded("idle", int(idle_s))
        await asyncio.sleep(spec.idle_s - idle_s)


async def _clear(life: _Life, tasks: list[asyncio.Task[Outcome | None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if not life.is_gone:
        await life.begun()
        life.kill()
        await life.gone()
    life.close()


def _end(life: _Life, tasks: list[asyncio.Task[Outcome | None]]) -> None:
    for task in tasks:
        task.cancel()
    life.close()


def _child_pid(text: bytes) -> int | None:
    with contextlib.suppress(ValueError, KeyError):
        return int(json.loads(text.split(b"\n", 1)[0])["child-pid"])
    return None


def _only_child(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    return None


def _outcome(spec: SandboxSpec, report: bytes, status: bytes, tail: bytes) -> Outcome:
    """How the command ended, from the starter's report; without one, what bwrap said."""
    if told := starter.outcome(report, spec.argv[0]):
        return told
    message = tail.decode(errors="replace").strip()
    return CannotStart(message or f"the sandbox could not be made ({status[-200:]!r})")
