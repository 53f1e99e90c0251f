"""The watchdog of one run: returns the first limit that is exceeded, or waits for ever.

Two rhythms: memory every MEMORY_POLL_S, since it is lost fast; disk less often, and the rarer the
longer it takes to count, so that a large layer does not cost a core. Each waits before it looks
first: most runs are over by then, and a start need not pay for it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox import usage
from wfhub_agent_runner.sandbox.kernel_memory import Counters
from wfhub_agent_runner.sandbox.port import LimitExceeded
from wfhub_agent_runner.sandbox.usage import Usage

MEMORY_POLL_S = 0.1
CPU_POLL_S = 0.5
DISK_POLL_S = 0.25
GVISOR_BYTES = 64 * 1024**2  # of its kernel and its helpers, beside what the agent has
DISK_DUTY = 10  # counting may take one part in this many of the time
INODES_MAX = 500_000  # of the layer and the tmpfs mounts: each costs the host about 1 KiB


async def watch(
    limits: Limits,
    first: int,
    disk: Callable[[], Usage],
    *,
    memory: bool,
    cpu_s: float | None = None,
    killed: Callable[[], LimitExceeded | None] | None = None,
    root: str = "",
    starter: int | None = None,
) -> LimitExceeded:
    """`first` is the host's number of the sandbox's init; `disk` counts the layer. `memory`
    False: a cgroup holds it, and `killed` says whether the kernel had to kill for it. `cpu_s`: the
    CPU time there is, where no cgroup shares it out. `root`: as Started's. `starter`: the number
    of the starter's process, unless gVisor has memory of its own for what a kernel holds."""
    watches = [asyncio.create_task(_watch_disk(limits, first, disk, root))]
    if memory:
        watches.append(asyncio.create_task(_watch_memory(limits, first, root, starter)))
    if cpu_s is not None:
        watches.append(asyncio.create_task(_watch_cpu(cpu_s, first)))
    if killed is not None:
        watches.append(asyncio.create_task(_watch_kernel(killed)))
    try:
        done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in watches:
            task.cancel()


async def _watch_memory(
    limits: Limits, first: int, root: str, starter: int | None
) -> LimitExceeded:
    most = limits.memory_bytes + (GVISOR_BYTES if root else 0)
    await asyncio.sleep(MEMORY_POLL_S)
    with contextlib.closing(Counters(starter)) as counters:
        while True:
            used = await asyncio.to_thread(memory_bytes, first, most, counters, root)
            if used > most:
                return LimitExceeded("memory", used)
            await asyncio.sleep(MEMORY_POLL_S)


async def _watch_cpu(most_s: float, first: int) -> LimitExceeded:
    while True:
        await asyncio.sleep(CPU_POLL_S)
        used_s = await asyncio.to_thread(lambda: usage.cpu_s(usage.processes(first)))
        if used_s > most_s:
            return LimitExceeded("cpu", int(used_s))


async def _watch_kernel(killed: Callable[[], LimitExceeded | None]) -> LimitExceeded:
    """v1 kills one process and lets the others go on without it."""
    while True:
        if exceeded := killed():
            return exceeded
        await asyncio.sleep(MEMORY_POLL_S)


async def _watch_disk(
    limits: Limits, first: int, disk: Callable[[], Usage], root: str
) -> LimitExceeded:
    pause_s = DISK_POLL_S
    while True:
        await asyncio.sleep(pause_s)
        began = time.monotonic()
        used = await asyncio.to_thread(_disk, first, disk, root)
        if used.bytes > limits.disk_bytes:
            return LimitExceeded("disk", used.bytes)
        if used.inodes > INODES_MAX:
            return LimitExceeded("inodes", used.inodes)
        pause_s = max(DISK_POLL_S, DISK_DUTY * (time.monotonic() - began))


def memory_bytes(first: int, limit: int, counters: Counters, root: str = "") -> int:
    """The cheap upper bound, unless it is over `limit`: then the exact figure."""
    pids = usage.processes(first)
    shared = sum(mount.bytes for mount in usage.tmpfs_usage(first, root)) + counters.system_v()
    held = usage.held_open(pids)
    bound = usage.resident_bytes(pids) + shared + held.memory_bytes
    bound += held.pipes_bytes + counters.sockets_at_most()
    if bound <= limit:
        return bound
    held = usage.held_open(pids, exact=True)
    pages = usage.proportional_bytes(pids, shared_too=not root)
    return pages + shared + held.memory_bytes + held.pipes_bytes + counters.sockets()


def _disk(first: int, disk: Callable[[], Usage], root: str) -> Usage:
    tmp, home, _ = usage.tmpfs_usage(first, root)
    deleted = usage.held_open(usage.processes(first)).disk_bytes
    return disk() + tmp + home + Usage(deleted)
