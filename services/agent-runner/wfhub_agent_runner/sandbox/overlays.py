"""Overlays that are held for a moment longer than their run, since their end syncs a whole disk.

When the last reference to an overlay goes, the kernel writes back everything that is dirty on the
file system of its upper layer, whoever made it so: 2 ms on a quiet ext4, seconds on a busy one. By
itself that happens within the exit of a sandbox's last process, which the runner waits for. It is
of no use here: an upper layer is read through the same page cache. So the runner holds one
reference more, which no process can reach, and a thread gives it up while the result is on its way.
Who lays another overlay over the same upper layer waits for that (`ended`).
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from wfhub_agent_runner.sandbox.port import SandboxSpec

ENDING_AT_ONCE = 8  # of their own, so that a slow disk keeps no watchdog from its thread


class Overlays:
    """Those of one runner's sandbox."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(ENDING_AT_ONCE, thread_name_prefix="overlay-end")
        self._ending: dict[Path, Future[None]] = {}

    async def ended(self, spec: SandboxSpec) -> None:
        """Waits until no overlay of an earlier run is left on any layer of this one."""
        for layer in (spec.upper, spec.lower, *spec.extra_lowers):
            if layer is not None and (ending := self._ending.get(layer)) is not None:
                await asyncio.shield(asyncio.wrap_future(ending))

    def end(self, upper: Path, descriptor: int) -> None:
        self._ending[upper] = ending = self._threads.submit(os.close, descriptor)
        ending.add_done_callback(lambda _: self._ending.pop(upper, None))


class Held:
    """Those of one run: `mounts` maps a path inside to the upper layer that is mounted there."""

    def __init__(self, overlays: Overlays, mounts: Mapping[str, Path]) -> None:
        self._overlays, self._mounts = overlays, mounts
        self._descriptors: dict[Path, int] = {}

    def hold(self, first: int) -> None:
        """`first`: a process that sees them. One that is gone already has waited for the disk."""
        for inside, upper in self._mounts.items():
            with contextlib.suppress(OSError):
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
                self._descriptors[upper] = os.open(f"/proc/{first}/root{inside}", flags)

    def give_up(self) -> None:
        while self._descriptors:
            self._overlays.end(*self._descriptors.popitem())
