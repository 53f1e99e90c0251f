"""What ends a run besides its command: each waits for one thing, and returns the outcome. And its
output, whose silence is one of them."""

import asyncio
import contextlib
import time

from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.pods.api import CannotAsk, Cluster
from wfhub_agent_runner.sandbox.pods.outcome import taken_away
from wfhub_agent_runner.sandbox.port import (
    Cancelled,
    LimitExceeded,
    OnOutput,
    Outcome,
    SandboxSpec,
    TakenAway,
    TimedOut,
)
from wfhub_agent_runner.sandbox.watchdog import INODES_MAX

DISK_POLL_S = 5.0  # the claim may be a network's: counting is slow there
AWAY_POLL_S = 5.0


class Output:
    """Of a run's log: what was passed on, within its limit, and since when it is silent."""

    def __init__(self, on_output: OnOutput, limit: int) -> None:
        self._on_output, self._limit = on_output, limit
        self.passed = self.seen = 0
        self.last_at = time.monotonic()
        self.truncated = False

    async def take(self, chunk: bytes) -> bool:
        """False when it was too much."""
        self.seen += len(chunk)
        room = self._limit - self.passed
        self.truncated = len(chunk) > room
        self.passed += len(chunk[:room])
        if chunk[:room]:
            await self._on_output(chunk[:room])
        self.last_at = time.monotonic()
        return not self.truncated


async def late(running: asyncio.Event, wall_s: float) -> Outcome:
    await running.wait()
    await asyncio.sleep(wall_s)
    return TimedOut(wall_s)


async def asked(cancel: asyncio.Event) -> Outcome:
    await cancel.wait()
    return Cancelled()


async def idle(running: asyncio.Event, spec: SandboxSpec, output: Output) -> Outcome:
    await running.wait()
    began = time.monotonic()
    while spec.idle_s is not None:
        idle_s = time.monotonic() - max(began, output.last_at, spec.signs())
        if idle_s >= spec.idle_s:
            return LimitExceeded("idle", int(idle_s))
        await asyncio.sleep(spec.idle_s - idle_s)
    return await asyncio.Future()


async def disk(running: asyncio.Event, spec: SandboxSpec, layer: Layer) -> Outcome:
    await running.wait()
    while True:
        used = await asyncio.to_thread(layer.used)
        if used.bytes > spec.limits.disk_bytes:
            return LimitExceeded("disk", used.bytes)
        if used.inodes > INODES_MAX:
            return LimitExceeded("inodes", used.inodes)
        await asyncio.sleep(DISK_POLL_S)


async def away(cluster: Cluster, name: str, running: asyncio.Event) -> Outcome:
    """Beside the log, which neither says more nor ends when the pod's node has no power."""
    await running.wait()
    while True:
        with contextlib.suppress(CannotAsk):
            pod = await cluster.pod_of(name)
            if pod is not None and (why := taken_away(pod)):
                return TakenAway(f"the pod was taken away: {why}")
        await asyncio.sleep(AWAY_POLL_S)
